"""Exchange types of RabbitMQ's bundled plugins: what they refuse, who gets what, what is kept.

Which queue a key goes to is each broker's own choice; that it is one, and the same again, is not.
"""

from leveret.protocol.methods import (
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicPublish,
    BasicQos,
    ExchangeBind,
    ExchangeDeclare,
    ExchangeDelete,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    QueueUnbind,
    TxRollback,
    TxSelect,
)
from leveret.protocol.table import Int8, Int16, Int64, Timestamp, UInt8, UInt16, UInt32

from .conversation import conversation, differs, reworded

HASH, MODULUS, RANDOM, HISTORY = (
    "x-consistent-hash",
    "x-modulus-hash",
    "x-random",
    "x-recent-history",
)
ONE_OF_MANY = {"consistent_hash": HASH, "modulus_hash": MODULUS, "random": RANDOM}
TYPES = {**ONE_OF_MANY, "recent_history": HISTORY}
LENGTH, NO_STORE = "x-recent-history-length", "x-recent-history-no-store"
MANY = 300


def _queues(talk, a, *keys):
    """Bind a queue for each binding key; return their names."""
    names = [talk.name(f"q{index}") for index in range(len(keys))]
    for name, key in zip(names, keys, strict=True):
        a(QueueDeclare(name))
        a(QueueBind(name, talk.x, key))
    return names


def _counts(talk, a, names, expected):
    """Ask how many messages are in queues until all are there; keep that to oneself."""
    lines = talk.lines
    start = len(lines)
    counts = [a(QueueDeclare(name, passive=True)).message_count for name in names]
    while sum(counts) < expected:
        counts = [a(QueueDeclare(name, passive=True)).message_count for name in names]
    del lines[start:]
    return counts


# Declaring


@conversation(each=TYPES)
def exchange_of_a_plugin(talk, kind):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind, durable=True))
    a(ExchangeDeclare(talk.x, kind, durable=True))
    a(ExchangeDelete(talk.x))
    a(ExchangeDeclare(talk.x, passive=True))


@conversation(
    each=TYPES,
    unless={
        label: reworded("the quotes of an Erlang atom", (f"''{kind}''", f"'{kind}'"))
        for label, kind in TYPES.items()
    },
)
def exchange_of_a_plugin_declared_as_another(talk, kind):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind))
    a(ExchangeDeclare(talk.x, "direct"))


@conversation(each=TYPES)
def exchange_of_a_plugin_with_an_alternate(talk, kind):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind, arguments={"alternate-exchange": "amq.direct"}))
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, "amq.direct", talk.q))
    a.publish(talk.x, talk.q, b"alternate", mandatory=True)
    a.count(talk.q, 1)
    a(BasicGet(talk.q))


@conversation(each=TYPES)
def nothing_bound_to_an_exchange_of_a_plugin(talk, kind):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind))
    a.publish(talk.x, "key", b"lost", mandatory=True)
    a.hear()


PROPERTIES = ("message_id", "correlation_id", "timestamp")


@conversation(each={name: name for name in PROPERTIES})
def hash_property(talk, name):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HASH, arguments={"hash-property": name}))
    names = _queues(talk, a, "1", "1", "1")
    for number in range(30):
        value = number if name == "timestamp" else f"m{number % 5}"
        a.publish(talk.x, "same", b"%d" % number, **{name: value})
    assert sum(_counts(talk, a, names, 30)) == 30


@conversation(
    each={
        "other": {"hash-property": "user_id"},
        "empty": {"hash-property": ""},
        "both": {"hash-header": "h", "hash-property": "message_id"},
        "both_and_wrong": {"hash-header": "h", "hash-property": "user_id"},
    }
)
def hash_arguments_refused(talk, arguments):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HASH, arguments=arguments))


def _no_text(name, kind):
    return differs(
        "RabbitMQ fails with an internal error",
        'a1 < channel.close 406 "PRECONDITION_FAILED - invalid arg'
        f" '{name}': {{unacceptable_type,{kind}}}\" at exchange.declare",
    )


@conversation(
    each={
        "header": {"hash-header": 1},
        "property": {"hash-property": 1},
        "property_true": {"hash-property": True},
        "property_array": {"hash-property": ["message_id"]},
        "property_table": {"hash-property": {"a": 1}},
    },
    unless={
        "header": _no_text("hash-header", "signedint"),
        "property": _no_text("hash-property", "signedint"),
        "property_true": _no_text("hash-property", "bool"),
        "property_array": _no_text("hash-property", "array"),
        "property_table": _no_text("hash-property", "table"),
    },
)
def hash_arguments_that_are_no_text(talk, arguments):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HASH, arguments=arguments))


@conversation
def hash_arguments_are_not_compared(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HASH, arguments={"hash-header": "h"}))
    a(ExchangeDeclare(talk.x, HASH, arguments={"hash-property": "wrong"}))


# Weights


@conversation(
    each={
        "zero": "0",
        "negative": "-1",
        "text": "x",
        "empty": "",
        "fraction": "1.5",
        "blank_before": " 1",
        "blank_behind": "1 ",
        "underline": "1_0",
        "umlaut": "\u00e9",
        "other_digits": "\u0663",
    }
)
def weight_refused(talk, key):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HASH))
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, key))


@conversation(each={"one": "1", "signed": "+5", "zeros": "007", "large": "10000"})
def weight_accepted(talk, key):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HASH))
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, key))
    a.publish(talk.x, "key", b"only one way")
    a.count(talk.q, 1)
    a(QueueUnbind(talk.q, talk.x, key))
    a.publish(talk.x, "key", b"no way", mandatory=True)
    a.hear()


@conversation
def weights_are_shares(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HASH))
    names = _queues(talk, a, "1", "2", "3")
    for number in range(3 * MANY):
        a.peer.write(b"".join(a.publish_frames(BasicPublish(talk.x, f"key {number}"))))
    counts = _counts(talk, a, names, 3 * MANY)
    for index, count in enumerate(counts, 1):
        assert abs(count - index * MANY / 2) < MANY / 4, counts


# One of many


@conversation(each=ONE_OF_MANY)
def one_queue_gets_a_message(talk, kind):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind))
    names = _queues(talk, a, "1", "1", "1")
    for number in range(MANY):
        a.peer.write(b"".join(a.publish_frames(BasicPublish(talk.x, f"key {number}"))))
    counts = _counts(talk, a, names, MANY)
    assert sum(counts) == MANY
    assert all(MANY / 6 < count < MANY / 2 for count in counts), counts


@conversation(each=ONE_OF_MANY)
def copies_go_the_same_way(talk, kind):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind))
    names = _queues(talk, a, "1", "1", "1")
    for number in range(20):
        a.publish(talk.x, f"k{number}", headers={"CC": [f"c{number}"], "BCC": [f"b{number}"]})
    assert sum(_counts(talk, a, names, 20)) == 20


@conversation(each={"consistent_hash": HASH, "modulus_hash": MODULUS})
def equal_keys_go_the_same_way(talk, kind):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind))
    names = _queues(talk, a, "1", "1", "1", "1")
    for number in range(20):
        a.publish(talk.x, "same", b"%d" % number)
    assert sorted(_counts(talk, a, names, 20)) == [0, 0, 0, 20]


@conversation(
    each={
        "header": ({"hash-header": "h"}, {"headers": {"h": "same"}}),
        "header_missing": ({"hash-header": "h"}, {"headers": {"other": "same"}}),
        "no_headers": ({"hash-header": "h"}, {}),
        "property": ({"hash-property": "message_id"}, {"message_id": "same"}),
        "property_missing": ({"hash-property": "message_id"}, {"correlation_id": "same"}),
    }
)
def equal_values_go_the_same_way(talk, arguments, properties):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HASH, arguments=arguments))
    names = _queues(talk, a, "1", "1", "1", "1")
    for number in range(20):
        a.publish(talk.x, f"key {number}", **properties)
    assert sorted(_counts(talk, a, names, 20)) == [0, 0, 0, 20]


@conversation(each={"consistent_hash": (HASH, 0.5), "modulus_hash": (MODULUS, 0.9)})
def keys_move_when_a_queue_comes(talk, kind, most):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind))
    names = _queues(talk, a, "1", "1", "1")
    before = _owners(talk, a, names)
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, "1"))
    after = _owners(talk, a, [*names, talk.q])
    moved = sum(before[key] != after[key] for key in before)
    assert 0 < moved < most * len(before), moved


@conversation(each={"modulus_hash": MODULUS, "random": RANDOM})
def a_queue_bound_three_times_gets_three_shares(talk, kind):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind))
    names = _queues(talk, a, "1", "1")
    a(QueueBind(names[0], talk.x, "2"))
    a(QueueBind(names[0], talk.x, "3"))
    for number in range(MANY):
        a.peer.write(b"".join(a.publish_frames(BasicPublish(talk.x, f"key {number}"))))
    many, few = _counts(talk, a, names, MANY)
    assert 2 * few < many < 5 * few, (many, few)


def _owners(talk, a, names):
    """Publish each key; return which queue got it, and keep that to oneself."""
    start = len(talk.lines)
    keys = [f"key {number}" for number in range(100)]
    for key in keys:
        a.publish(talk.x, key)
    owners = {}
    while len(owners) < len(keys):
        for name in names:
            while (answer := a(BasicGet(name, no_ack=True))).name == "basic.get-ok":
                owners[answer.routing_key] = name
    del talk.lines[start:]
    return owners


# Recent history


@conversation(
    each={
        "integer": 2,
        "byte": Int8(2),
        "short": Int16(2),
        "long": Int64(2),
    }
)
def history_length(talk, length):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY, arguments={LENGTH: length}))
    for number in range(5):
        a.publish(talk.x, f"k{number}", b"%d" % number)
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, ""))
    a.count(talk.q, 2)
    a.drain(talk.q)


@conversation(
    each={
        "zero": 0,
        "negative": -1,
        "text": "3",
        "bool": True,
        "double": 3.0,
        "void": None,
        "array": [1],
        "table": {"a": 1},
        "timestamp": Timestamp(3),
    }
)
def history_length_refused(talk, length):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY, arguments={LENGTH: length}))


@conversation(
    each={"byte": UInt8(3), "short": UInt16(3), "int": UInt32(3)},
    unless=differs("an unsigned integer is an integer", "a1 < exchange.declare-ok"),
)
def history_length_without_sign(talk, length):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY, arguments={LENGTH: length}))


@conversation(
    unless=differs(
        "so many messages are not kept in memory",
        'a1 < channel.close 406 "PRECONDITION_FAILED - Invalid argument 1099511627776, '
        "'x-recent-history-length' must be at most 65536\" at exchange.declare",
    )
)
def history_length_beyond_any_memory(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY, arguments={LENGTH: 1 << 40}))


@conversation
def history_length_is_not_compared(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY, arguments={LENGTH: 2}))
    a(ExchangeDeclare(talk.x, HISTORY, arguments={LENGTH: "wrong"}))


@conversation
def history_keeps_twenty(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY))
    for number in range(25):
        a.publish(talk.x, f"k{number}", b"%d" % number)
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, ""))
    a.count(talk.q, 20)
    a.drain(talk.q)


@conversation
def history_keeps_what_was_returned(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY))
    a.publish(talk.x, "k", b"1", mandatory=True, headers={"CC": ["c"], "BCC": ["b"]})
    a.hear()
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, ""))
    a.count(talk.q, 1)
    a.drain(talk.q)


@conversation
def history_keeps_what_was_rolled_back(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY))
    a(TxSelect())
    a.publish(talk.x, "k", b"1")
    a(TxRollback())
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, ""))
    a.count(talk.q, 1)
    a.drain(talk.q)


@conversation(each={"true": True, "false": False, "text": "true", "integer": 1})
def history_keeps_unless_told_not_to(talk, value):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY))
    a.publish(talk.x, "k", b"1", headers={NO_STORE: value})
    a.publish(talk.x, "k", b"2")
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, ""))
    a.count(talk.q, 1 if value is True else 2)
    a.drain(talk.q)


@conversation
def history_for_each_binding(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY))
    a.publish(talk.x, "k", b"1")
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, "one"))
    a.count(talk.q, 1)
    a(QueueBind(talk.q, talk.x, "one"))
    a(QueueBind(talk.q, talk.x, "two"))
    a.count(talk.q, 2)
    a.publish(talk.x, "k", b"2")
    a.count(talk.q, 3)
    a.drain(talk.q)


@conversation
def history_of_what_came_through_another_exchange(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, HISTORY))
    a(ExchangeDeclare(talk.name("source"), "fanout"))
    a(ExchangeBind(talk.x, talk.name("source"), ""))
    a.publish(talk.name("source"), "k", b"1")
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, ""))
    a.count(talk.q, 1)
    a.drain(talk.q)


def _got(number, left):
    return (
        f"a1 < basic.get-ok delivery_tag={number} redelivered=False exchange='~x' "
        f"routing_key='k{number}' message_count={left} b'{number}'"
    )


@conversation(
    unless=differs(
        "in their order here, too; RabbitMQ has the last one first",
        "a1 < exchange.declare-ok",
        "a1 < exchange.declare-ok",
        "a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0",
        "a1 < queue.bind-ok",
        "a1 < exchange.bind-ok",
        "a1 < queue.declare-ok queue='~q' message_count=3 consumer_count=0",
        _got(1, 2),
        _got(2, 1),
        _got(3, 0),
        "a1 < basic.get-empty",
    )
)
def history_for_an_exchange(talk):
    a = talk.channel()
    target = talk.name("target")
    a(ExchangeDeclare(talk.x, HISTORY))
    a(ExchangeDeclare(target, "fanout"))
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, target, ""))
    for number in (1, 2, 3):
        a.publish(talk.x, f"k{number}", b"%d" % number)
    a(ExchangeBind(target, talk.x, ""))
    a.count(talk.q, 3)
    a.drain(talk.q)


# The event exchange

EVENT = "amq.rabbitmq.event"


@conversation
def event_exchange(talk):
    a = talk.channel()
    a(ExchangeDeclare(EVENT, "topic", durable=True, internal=True))
    a.publish(EVENT, "key")
    a.quiet()


@conversation
def event_exchange_is_not_deleted(talk):
    a = talk.channel()
    a(ExchangeDelete(EVENT))


# What only one of the brokers tells, or tells in its own way.
DIFFERENT = ("timestamp_in_ms", "user_who_performed_action", "channel")


def _hear_events(talk, a, watch, count):
    """Hear events that are about this conversation, whatever else happens in the broker."""
    lines = talk.lines
    heard = []
    while len(heard) < count:
        start = len(lines)
        a.send(BasicGet(watch, no_ack=True))
        [event] = a.hear()
        del lines[start:]
        if talk.name("") in str(event.properties.headers or ""):
            heard.append(event)
    for event in heard:
        headers = event.properties.headers.items()
        told = {name: value for name, value in sorted(headers) if name not in DIFFERENT}
        mode = event.properties.delivery_mode
        a.note(f"< {event.method.routing_key} {told} delivery_mode={mode} {event.body!r}")


def _watch(talk, a, *keys):
    watch = f"watch {talk.title}"
    a(QueueDeclare(watch, exclusive=True))
    for key in keys:
        a(QueueBind(watch, EVENT, key))
    return watch


@conversation
def events_of_queues(talk):
    a = talk.channel()
    watch = _watch(talk, a, "queue.*")
    a(QueueDeclare(talk.q, durable=True, arguments={"x-max-length": 5, "x-queue-mode": "lazy"}))
    a(QueueDeclare(talk.q, durable=True, arguments={"x-max-length": 5, "x-queue-mode": "lazy"}))
    a(QueueDelete(talk.q))
    _hear_events(talk, a, watch, 2)


@conversation
def events_of_exchanges(talk):
    a = talk.channel()
    watch = _watch(talk, a, "exchange.*")
    a(ExchangeDeclare(talk.x, "topic", auto_delete=True, arguments={"alternate-exchange": "a"}))
    a(ExchangeDelete(talk.x))
    a(ExchangeDelete(talk.x))
    _hear_events(talk, a, watch, 2)


@conversation
def events_of_bindings(talk):
    a = talk.channel()
    watch = _watch(talk, a, "binding.*")
    a(ExchangeDeclare(talk.x, "headers"))
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, "k", arguments={"a": 1, "b": "text", "c": True}))
    a(QueueUnbind(talk.q, talk.x, "k", {"a": 1, "b": "text", "c": True}))
    a(ExchangeBind(talk.x, "amq.topic", "e"))
    a(ExchangeDelete(talk.x))
    _hear_events(talk, a, watch, 4)


@conversation
def events_of_consumers(talk):
    a = talk.channel()
    watch = _watch(talk, a, "consumer.*")
    b = talk.channel()
    b(QueueDeclare(talk.q))
    b(BasicQos(0, 7))
    b(BasicConsume(talk.q, "one", no_ack=True, arguments={"x-priority": 3}))
    b(BasicCancel("one"))
    b(BasicConsume(talk.q, "two", exclusive=True))
    b(QueueDelete(talk.q))
    b.hear()
    _hear_events(talk, a, watch, 4)


@conversation
def event_of_a_login(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, EVENT, "user.authentication.failure"))
    b = talk.raw()
    with b.unheard():
        b.start()
        b.log_in(talk.name("nobody"), "wrong")
    event = None
    start = len(talk.lines)
    while event is None or event.properties.headers["name"] != talk.name("nobody"):
        a.send(BasicGet(talk.q, no_ack=True))
        [event] = a.hear()
        if event.method.name == "basic.get-empty":
            event = None
    del talk.lines[start:]
    a.note(f"< {event.method.routing_key} {event.properties.headers['auth_mechanism']}")
