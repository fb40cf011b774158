"""Notes: what plugins keep belongs to an owner, and goes with it."""

from collections.abc import Callable

import pytest

from leveret.broker.core.broker import Broker
from leveret.broker.core.notes import Owner

QUEUE, EXCHANGE, VHOST = ("/", "queue", "q"), ("/", "exchange", "x"), ("/", "vhost", "/")


@pytest.fixture
def broker() -> Broker:
    broker = Broker()
    vhost = broker.add_vhost("/")
    vhost.declare_queue("q", durable=True)
    vhost.declare_exchange("x", "fanout", durable=True)
    return broker


@pytest.fixture
def changes(broker: Broker) -> list[tuple[object, ...]]:
    """What was told, in order."""
    told: list[tuple[object, ...]] = []
    broker.events.subscribe("note.changed", lambda **fields: told.append(tuple(fields.values())))
    return told


def test_a_note_is_replaced_and_taken_away(broker: Broker) -> None:
    broker.notes.put(QUEUE, "dedup", b"k", b"1")
    broker.notes.put(QUEUE, "dedup", b"l", b"2")
    broker.notes.put(QUEUE, "dedup", b"k", b"3")
    assert {b"k": b"3", b"l": b"2"} == broker.notes.get(QUEUE, "dedup")

    broker.notes.put(QUEUE, "dedup", b"k", None)
    assert {b"l": b"2"} == broker.notes.get(QUEUE, "dedup")


def test_plugins_and_owners_have_notes_of_their_own(broker: Broker) -> None:
    broker.notes.put(QUEUE, "dedup", b"k", b"1")
    broker.notes.put(EXCHANGE, "dedup", b"k", b"2")
    broker.notes.put(QUEUE, "delay", b"k", b"3")

    assert {b"k": b"1"} == broker.notes.get(QUEUE, "dedup")
    assert {} == broker.notes.get(VHOST, "dedup") == broker.notes.get(QUEUE, "other")
    assert [QUEUE, EXCHANGE] == broker.notes.owners("dedup")
    assert [QUEUE] == broker.notes.owners("delay")
    assert [] == broker.notes.owners("other")


def test_an_owner_without_notes_is_none(broker: Broker) -> None:
    broker.notes.put(QUEUE, "dedup", b"k", b"1")
    broker.notes.put(QUEUE, "dedup", b"k", None)

    assert [] == broker.notes.owners("dedup")


def test_each_change_is_told_once(broker: Broker, changes: list[tuple[object, ...]]) -> None:
    for value in (b"1", b"1", b"", None, None):
        broker.notes.put(QUEUE, "dedup", b"k", value)

    assert [(QUEUE, "dedup", b"k", value, True) for value in (b"1", b"", None)] == changes


def test_it_is_told_whether_the_owner_is_durable(
    broker: Broker, changes: list[tuple[object, ...]]
) -> None:
    broker.vhosts["/"].declare_queue("t")
    broker.vhosts["/"].declare_queue("mine", durable=True, owner=object())
    for name in ("t", "mine", "q"):
        broker.notes.put(("/", "queue", name), "dedup", b"k", b"1")
        broker.vhosts["/"].delete_queue(broker.vhosts["/"].queue(name))

    assert [False, False, False, False, True, True] == [change[-1] for change in changes]


@pytest.mark.parametrize(
    "owner",
    [
        ("/", "queue", "other"),
        ("/", "exchange", "q"),
        ("v", "vhost", "v"),
        ("/", "vhost", "v"),
        ("/", "user", "q"),
    ],
)
def test_nobody_who_is_not_there_gets_notes(broker: Broker, owner: Owner) -> None:
    with pytest.raises(LookupError):
        broker.notes.put(owner, "dedup", b"k", b"1")

    assert [] == broker.notes.owners("dedup")


@pytest.mark.parametrize(
    ("delete", "left"),
    [
        (lambda vhost: vhost.delete_queue(vhost.queue("q")), [EXCHANGE, VHOST]),
        (lambda vhost: vhost.delete_exchange("x"), [QUEUE, VHOST]),
        (lambda vhost: vhost.broker.delete_vhost("/"), []),
    ],
    ids=["queue", "exchange", "vhost"],
)
def test_notes_go_with_their_owner(
    broker: Broker,
    changes: list[tuple[object, ...]],
    delete: Callable[..., object],
    left: list[Owner],
) -> None:
    owners = [QUEUE, EXCHANGE, VHOST]
    for owner in owners:
        for plugin in ("dedup", "delay"):
            broker.notes.put(owner, plugin, b"k", b"1")
    changes.clear()

    delete(broker.vhosts["/"])

    assert left == broker.notes.owners("dedup") == broker.notes.owners("delay")
    gone = {owner for owner in owners if owner not in left}
    assert {
        (owner, plugin, b"k", None, True) for owner in gone for plugin in ("dedup", "delay")
    } == (set(changes))


def test_a_hidden_queue_takes_no_notes_along_of_a_queue_of_its_name(broker: Broker) -> None:
    broker.notes.put(QUEUE, "dedup", b"k", b"1")
    broker.vhosts["/"].hidden_queue("q", durable=True)

    broker.vhosts["/"].delete_hidden("q")

    assert [QUEUE] == broker.notes.owners("dedup")


def test_notes_of_the_default_exchange_go_with_its_virtual_host(broker: Broker) -> None:
    broker.notes.put(("/", "exchange", ""), "dedup", b"k", b"1")

    broker.delete_vhost("/")
    broker.add_vhost("/")

    assert [] == broker.notes.owners("dedup")
