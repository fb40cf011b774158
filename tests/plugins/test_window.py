"""Windows: what is remembered, in which order it is forgotten, and how it is kept."""

from struct import unpack

import pytest

from leveret.broker.core.broker import Broker
from leveret.broker.core.message import Message
from leveret.broker.plugins.window import FULL, PIECE, PLUGIN, Window, identify
from leveret.protocol.properties import Properties

from ..support.client import finish

OWNER = ("/", "queue", "q")
NAME = b"x-deduplication-header"


@pytest.fixture
def broker(broker) -> Broker:
    broker.batch.is_durable = True
    broker.vhosts["/"].declare_queue("q", durable=True)
    broker.now, broker.wall_offset = 1000, 1_000_000
    return broker


def window_of(broker, length=100, size=1000, header=NAME) -> Window:
    made = Window(broker, OWNER, is_durable=True)
    made.restore()
    made.limit(header, length, size)
    return made


@pytest.fixture
def window(broker) -> Window:
    return window_of(broker)


def message(number=0, mode=2, headers=None) -> Message:
    properties = Properties(headers=headers, message_id=f"m{number}", delivery_mode=mode)
    return Message.make("", "q", properties, b"b")


def accept(window, *numbers, mode=2) -> list[bool]:
    """Have messages come in one after the other; return which are duplicates."""
    found = []
    for number in numbers:
        one = message(number, mode)
        found.append(window.is_duplicate(one))
        if not found[-1]:
            window.remember(one)
    return found


def notes(broker) -> dict[bytes, bytes]:
    return dict(broker.notes.get(OWNER, PLUGIN))


# Identities


def test_equal_values_of_a_header_are_one_identity():
    one, same, other = (
        message(number, headers={NAME.decode(): value})
        for number, value in ((1, "a"), (2, "a"), (3, "b"))
    )

    assert identify(one, NAME) == identify(same, NAME) != identify(other, NAME)


def test_a_value_of_another_type_is_another_identity():
    text, number = (message(headers={NAME.decode(): value}) for value in ("7", 7))

    assert identify(text, NAME) != identify(number, NAME)


def test_a_name_that_only_stands_in_a_value_says_nothing():
    plain, named = message(), message(headers={"other": NAME.decode() + "S\x00\x00\x00\x01a"})

    assert identify(plain, NAME) == identify(named, NAME)


def test_what_nobody_can_read_has_no_identity():
    good = message(headers={NAME.decode(): "a"})
    broken = good.header.replace(b"S\x00\x00\x00\x01a", b"S\x00\x00\xff\x01a")

    assert identify(good, NAME) is not None
    assert identify(good.with_header(broken), NAME) is None


# Forgetting


def test_what_was_refused_after_all_is_forgotten_and_the_rest_is_not(window, broker):
    accept(window, 1, 2)
    refused = message(2)
    window.is_duplicate(refused)

    window.forget(refused)
    finish(broker)

    assert [True, False] == accept(window, 1, 2)
    assert 16 == len(notes(broker).popitem()[1]), "one head and one identity"


def test_the_only_one_can_be_forgotten(window):
    accept(window, 1)

    window.forget(message(1))

    assert 0 == len(window)
    assert [False, True] == accept(window, 1, 1)


def test_what_came_before_this_slice_cannot_be_refused_any_more(window, broker):
    accept(window, 1)
    broker.now += 1
    accept(window, 2)

    window.forget(message(1))

    assert [True, True] == accept(window, 1, 2)


def test_no_shard_grows_large(broker):
    window = window_of(broker, size=100_000)

    accept(window, *range(10_000))

    assert 10_000 == len(window)
    assert max(map(len, window._shards.values())) < 10_000 / 64 * 2


def test_very_many_are_forgotten_in_pieces(window, broker):
    window.limit(NAME, 100, 10_000)
    accept(window, *range(3 * PIECE))
    broker.now += 100

    left = []
    while len(window):
        broker.timers.run_due(broker.now, lambda: True)
        left.append(len(window))

    assert [2 * PIECE, PIECE, 0] == left


def test_a_window_that_was_made_smaller_forgets_the_oldest(window, broker):
    accept(window, *range(10))

    window.limit(NAME, 100, 2)
    broker.timers.run_due(broker.now, lambda: False)

    assert 2 == len(window)
    assert [True, True, False] == accept(window, 8, 9, 7)


# Notes


def test_a_note_says_when_and_who(window, broker):
    accept(window, 1, 2)
    finish(broker)
    broker.now += 5
    accept(window, 3)
    finish(broker)

    [(key, value)] = notes(broker).items()
    first, second, third = (identify(message(number), NAME) for number in (1, 2, 3))
    assert 0 == int.from_bytes(key)
    assert (1_001_000 << 16 | 2, first, second, 1_001_005 << 16 | 1, third) == unpack(">5Q", value)


def test_a_full_note_is_not_added_to(window, broker):
    for numbers in (range(FULL - 1), range(FULL - 1, FULL), range(FULL, FULL + 1)):
        accept(window, *numbers)
        finish(broker)

    assert [0, 1] == [int.from_bytes(key) for key in notes(broker)]


def test_a_note_goes_when_the_last_of_it_is_forgotten(window, broker):
    accept(window, 1)
    finish(broker)
    broker.now += 50
    accept(window, 2)
    finish(broker)
    broker.now += 50
    broker.timers.run_due(broker.now, lambda: False)
    assert 1 == len(notes(broker))

    broker.now += 50
    broker.timers.run_due(broker.now, lambda: False)

    assert {} == notes(broker)
    accept(window, 3)
    finish(broker)
    assert 1 == len(notes(broker))


def test_of_transient_messages_nothing_is_noted(window, broker):
    assert [False, True] == accept(window, 1, 1, mode=1)
    finish(broker)

    assert {} == notes(broker)


def test_what_came_again_after_it_was_forgotten_counts_from_its_second_time(window, broker):
    window.limit(NAME, 100, 2)
    accept(window, 1, 2, 3)  # 1 is forgotten
    broker.now += 50
    accept(window, 1)
    finish(broker)

    restarted = window_of(broker, size=2)
    broker.now += 60
    broker.timers.run_due(broker.now, lambda: False)

    assert [True, False] == accept(restarted, 1, 2)


def test_of_what_is_kept_only_so_many_are_remembered_as_are_asked_for(window, broker):
    accept(window, *range(20))
    finish(broker)

    restarted = window_of(broker, size=5)
    broker.timers.run_due(broker.now, lambda: False)

    assert 5 == len(restarted)
    assert [True, False] == accept(restarted, 15, 14)


def test_notes_of_a_window_that_is_not_asked_for_any_more_go(window, broker):
    accept(window, *range(FULL + 1))
    finish(broker)
    accept(window, FULL + 1)

    window.close(is_owner_gone=False)
    finish(broker)

    assert {} == notes(broker)
