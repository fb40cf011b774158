"""The ledger itself: it must see each kind of fault, and none where there is none."""

import pytest

from leveret.protocol.methods import BasicAck
from leveret.protocol.reader import Acks

from .ledger import Key, Ledger, State, Stream
from .link import Link
from .workers import Confirms

QUEUE = "q"
QUEUES = (QUEUE,)


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    ledger.account(QUEUE)
    ledger.begin_life()
    return ledger


def sent(ledger: Ledger, count: int, state: State = State.MAY) -> tuple[Stream, list[bytes]]:
    """Write down messages; return their stream and bodies."""
    stream = ledger.stream()
    return stream, [stream.body(QUEUES, 100, state) for _ in range(count)]


def found(ledger: Ledger, bodies: list[bytes], redelivered: bool = False) -> None:
    """Begin another life, and find messages in it."""
    ledger.begin_life()
    expected = ledger.expected()[QUEUE]
    keys = [ledger.delivered(QUEUE, body, redelivered) for body in bodies]
    ledger.judge_content(QUEUE, [key for key in keys if key is not None], expected)


def fault(ledger: Ledger) -> str:
    """Return the only fault."""
    [text] = ledger.faults
    return text


def test_what_was_confirmed_and_is_there_in_order_is_no_fault(ledger):
    stream, bodies = sent(ledger, 3)
    ledger.confirmed(stream, range(2))

    found(ledger, bodies)

    assert [] == ledger.faults
    assert 3 == ledger.figures["found after a kill"]
    assert 1 == ledger.figures["found, though not confirmed"]


def test_what_was_not_confirmed_may_be_lost(ledger):
    sent(ledger, 3)

    found(ledger, [])

    assert [] == ledger.faults


def test_confirmed_message_that_is_not_there_is_lost(ledger):
    stream, bodies = sent(ledger, 3)
    ledger.confirmed(stream, range(3))

    found(ledger, [bodies[0], bodies[2]])

    assert "1 of 3 confirmed are lost" in fault(ledger)


def test_acked_message_may_come_back_until_its_ack_is_committed(ledger):
    stream, [body] = sent(ledger, 1)
    ledger.confirmed(stream, range(1))
    key = ledger.delivered(QUEUE, body, False)
    ledger.acking(QUEUE, [key])

    found(ledger, [body])
    assert [] == ledger.faults

    ledger.committed(QUEUE, [key], [key])
    found(ledger, [body], redelivered=False)
    assert any("came back, its ack was committed" in each for each in ledger.faults)


def test_acked_message_never_comes_again_in_the_same_life(ledger):
    _, [body] = sent(ledger, 1)
    ledger.acking(QUEUE, [ledger.delivered(QUEUE, body, False)])

    ledger.delivered(QUEUE, body, False)

    assert "came again after its ack (never returned, not flagged)" in fault(ledger)


def test_ack_that_crosses_the_goodbye_of_the_broker_may_be_lost(ledger):
    _, [body] = sent(ledger, 1)
    ledger.account(QUEUE).is_consumed = True
    ledger.acking(QUEUE, [ledger.delivered(QUEUE, body, False)])
    ledger.is_ending = True

    ledger.delivered(QUEUE, body, True)

    assert [] == ledger.faults


def test_delivery_before_a_receipt_comes_back_flagged(ledger):
    ledger.account(QUEUE).is_consumed = True
    _, [body] = sent(ledger, 1)
    key = ledger.delivered(QUEUE, body, False)
    ledger.committed(QUEUE, [], [key])

    found(ledger, [body], redelivered=True)
    assert [] == ledger.faults

    found(ledger, [body], redelivered=False)
    assert "not flagged redelivered" in fault(ledger)


def test_message_of_a_queue_without_consumers_is_not_flagged(ledger):
    _, [body] = sent(ledger, 1)

    found(ledger, [body], redelivered=True)

    assert "nobody ever had it" in fault(ledger)


def test_transient_message_lives_as_long_as_the_broker(ledger):
    _, [body] = sent(ledger, 1, State.PASSING)

    ledger.delivered(QUEUE, body, False)
    assert [] == ledger.faults

    found(ledger, [body])
    assert "outlived the broker" in fault(ledger)


def test_what_was_rolled_back_or_purged_never_comes(ledger):
    _, [body] = sent(ledger, 1, State.NEVER)

    found(ledger, [body])

    assert "must not be there" in fault(ledger)


@pytest.mark.parametrize("body", [b"", b"hello", b"\xff" * 100])
def test_what_nobody_sent_is_invented(ledger, body):
    found(ledger, [body])

    assert "invented" in fault(ledger)


def test_damage_is_seen(ledger):
    _, [body] = sent(ledger, 1)

    found(ledger, [body[:-1] + bytes((body[-1] ^ 1,))])

    assert "damaged" in fault(ledger)


def test_message_in_a_queue_it_was_not_sent_to(ledger):
    _, [body] = sent(ledger, 1)

    ledger.delivered("other", body, False)

    assert "was sent to ('q',)" in fault(ledger)


def test_message_that_comes_twice(ledger):
    _, [body] = sent(ledger, 1)

    found(ledger, [body, body])

    assert "came twice" in fault(ledger)


def test_order_is_that_of_each_stream(ledger):
    _, [a0, a1] = sent(ledger, 2)
    _, [b0, b1] = sent(ledger, 2)

    found(ledger, [b0, a0, a1, b1])
    assert [] == ledger.faults

    found(ledger, [a1, b0, a0, b1])
    assert "came after number 1 of its stream" in fault(ledger)


def test_confirms_of_one_and_of_several_count_once(ledger):
    confirms = Confirms(ledger, object.__new__(Link))
    for _ in range(5):
        confirms.stream.body(QUEUES, 100)
    confirms.take([Acks([2, 4]), BasicAck(3, multiple=True)])

    assert 1 == confirms.waiting
    assert {Key(0, each) for each in range(4)} == ledger.expected()[QUEUE]
    assert 4 == ledger.figures["confirmed"]


def test_confirm_of_what_a_purge_is_under_way_for_promises_nothing(ledger):
    confirms = Confirms(ledger, object.__new__(Link))
    for _ in range(2):
        confirms.stream.body(QUEUES, 100)
    confirms.floor = 1
    confirms.take([BasicAck(2, multiple=True)])

    assert {Key(0, 1)} == ledger.expected()[QUEUE]
