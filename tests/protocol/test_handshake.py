"""The handshake: every legal step of both roles, and that all others are refused."""

import pytest

from leveret.protocol import methods as m
from leveret.protocol.errors import ChannelNotOpen, NotAllowed
from leveret.protocol.handshake import (
    TRANSITIONS,
    By,
    Role,
    State,
    advance,
    check_limits,
    settle,
)

CONVERSATION = [
    (Role.SERVER, m.ConnectionStart),
    (Role.CLIENT, m.ConnectionStartOk),
    (Role.SERVER, m.ConnectionSecure),
    (Role.CLIENT, m.ConnectionSecureOk),
    (Role.SERVER, m.ConnectionTune),
    (Role.CLIENT, m.ConnectionTuneOk),
    (Role.CLIENT, m.ConnectionOpen),
    (Role.SERVER, m.ConnectionOpenOk),
    (Role.SERVER, m.ConnectionBlocked),
    (Role.SERVER, m.ConnectionUnblocked),
    (Role.CLIENT, m.ConnectionUpdateSecret),
    (Role.SERVER, m.ConnectionUpdateSecretOk),
    (Role.CLIENT, m.ConnectionClose),
    (Role.SERVER, m.ConnectionCloseOk),
]
CONNECTION_METHODS = [method for (class_id, _), method in m.BY_ID.items() if class_id == 10]


@pytest.mark.parametrize("role", Role)
def test_both_roles_can_have_the_whole_conversation(role):
    state = State.PRE_INIT

    for sender, method in CONVERSATION:
        state = advance(role, state, By.US if sender is role else By.PEER, method)

    assert state is State.CLOSED


@pytest.mark.parametrize("role", Role)
def test_a_step_is_in_the_table_or_refused_with_the_name_of_the_state(role):
    for state in State:
        for by in By:
            for method in CONNECTION_METHODS:
                if (by, method) in TRANSITIONS[role][state]:
                    assert TRANSITIONS[role][state][by, method] is advance(role, state, by, method)
                    continue
                with pytest.raises(ChannelNotOpen) as caught:
                    advance(role, state, by, method)
                text = f"CHANNEL_ERROR - unexpected method in connection state {state.value}"
                assert text == caught.value.reply_text
                assert (10, method.method_id) == (caught.value.class_id, caught.value.method_id)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", [State.STARTING, State.SECURING, State.TUNING, State.OPENING])
def test_either_side_may_close_in_the_middle_of_the_handshake(role, state):
    assert advance(role, state, By.US, m.ConnectionClose) is State.CLOSING
    assert advance(role, state, By.PEER, m.ConnectionClose) is State.LEAVING


@pytest.mark.parametrize("role", Role)
def test_closes_that_cross_end_with_our_close_ok(role):
    crossed = advance(role, State.CLOSING, By.PEER, m.ConnectionClose)

    assert advance(role, crossed, By.US, m.ConnectionCloseOk) is State.CLOSED


@pytest.mark.parametrize("role", Role)
def test_no_other_method_is_part_of_the_table(role):
    for moves in TRANSITIONS[role].values():
        assert {method.class_id for _, method in moves} <= {10}


OFFER = m.ConnectionTune(2047, 131072, 60)


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (OFFER, m.ConnectionTuneOk(2047, 131072, 60)),
        (OFFER, m.ConnectionTuneOk(1, 4096, 0)),
        (OFFER, m.ConnectionTuneOk(100, 8192, 65535)),
        (m.ConnectionTune(0, 0, 60), m.ConnectionTuneOk(0, 0, 0)),
        (m.ConnectionTune(0, 0, 60), m.ConnectionTuneOk(65535, 1 << 31, 0)),
    ],
)
def test_limits_within_the_offer_are_accepted(offer, answer):
    check_limits(offer, answer)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((2047, 131073), "frame_max = 131073 is higher than the maximum allowed value (131072)"),
        ((2047, 0), "frame_max = 0 is higher than the maximum allowed value (131072)"),
        ((2047, 4095), "frame_max = 4095 is lower than the minimum allowed value (4096)"),
        ((2048, 4096), "channel_max = 2048 is higher than the maximum allowed value (2047)"),
        ((0, 4096), "channel_max = 0 is higher than the maximum allowed value (2047)"),
    ],
)
def test_limits_outside_the_offer_are_a_530(answer, text):
    with pytest.raises(NotAllowed) as caught:
        check_limits(OFFER, m.ConnectionTuneOk(*answer))

    assert f"NOT_ALLOWED - negotiated {text}" == caught.value.reply_text
    assert (caught.value.class_id, caught.value.method_id) == (10, 31)


@pytest.mark.parametrize(
    ("wish", "answer"),
    [
        (m.ConnectionTuneOk(0, 0, 30), m.ConnectionTuneOk(2047, 131072, 30)),
        (m.ConnectionTuneOk(10, 4096, 0), m.ConnectionTuneOk(10, 4096, 0)),
        (m.ConnectionTuneOk(65535, 1 << 20, 90), m.ConnectionTuneOk(2047, 131072, 90)),
    ],
)
def test_a_client_settles_on_the_smaller_limits(wish, answer):
    assert answer == settle(OFFER, wish)
    check_limits(OFFER, answer)
