"""Definitions survive: what was kept gives the same broker again, or an error with a name."""

from contextlib import suppress
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from leveret.broker.core.arguments import milliseconds
from leveret.broker.core.broker import Broker
from leveret.broker.core.exchange_types import EXCHANGE_TYPES, Direct
from leveret.broker.core.policy import Policy, PolicyError
from leveret.broker.core.registry import Registry
from leveret.broker.core.users import Permissions, TopicPermissions, User, hash_password
from leveret.broker.definitions import export, parse
from leveret.broker.document import DocumentError
from leveret.broker.storage.base import Definition, StoreError
from leveret.broker.storage.catalog import Catalog
from leveret.broker.storage.catalog_format import pack_names, seal, unseal
from leveret.protocol.errors import AMQPError, PreconditionFailed
from leveret.protocol.table import decode_table, encode_table

ALL = Permissions(".*", ".*", ".*")


class Kept:
    """A store's definitions, and a broker that feeds them.

    Attributes:
      rows: What a store would have, by kind and key.
      log: All definitions since the last start, in order.
    """

    def __init__(self):
        self.rows = {}
        self.restart()

    def note(self, definition):
        kind, key, value = definition
        self.log.append(definition)
        if value is None:
            self.rows.pop((kind, key), None)
        else:
            self.rows[kind, key] = value

    def restart(self):
        """Go on with a new broker, made of what is kept."""
        self.log = []
        self.broker = Broker()
        self.catalog = Catalog(self.broker, self.note)
        self.queues = self.catalog.restore(
            [(kind, key, value) for (kind, key), value in self.rows.items()]
        )
        assert [] == self.log

    @property
    def kinds(self):
        """The kinds of the definitions since the last start; those that delete with a minus."""
        return [("-" if value is None else "") + kind for kind, _, value in self.log]

    @property
    def vhost(self):
        return self.broker.add_vhost("/")

    def durable(self, name="q", **properties):
        return self.vhost.declare_queue(name, durable=True, **properties)


@pytest.fixture
def kept():
    kept = Kept()
    kept.broker.add_vhost("/")
    kept.log.clear()
    return kept


def octets(table):
    return encode_table(table).hex()


def described(broker):
    """Return all that must survive, with the octets of arguments, and what follows from it."""
    document = export(broker)
    for kind in ("permissions", "topic_permissions"):
        document[kind].sort(key=repr)
    for kind in ("queues", "exchanges", "bindings"):
        for entry in document[kind]:
            entry["arguments"] = octets(entry["arguments"])
    return document, [effects(vhost) for vhost in broker.vhosts.values()], noted(broker)


def effects(vhost):
    """Return what policies and bindings come to, as far as durable things are concerned."""
    exchanges = [exchange for exchange in vhost.exchanges.values() if exchange.durable]
    queues = [queue for queue in vhost.queues.values() if queue.durable]
    return (
        [(exchange.name, dict(exchange.policy), exchange.alternate) for exchange in exchanges],
        [(queue.name, dict(queue.policy)) for queue in queues],
        [
            (queue.name, [b.identity for b in vhost.bindings_to(queue) if durable(vhost, b)])
            for queue in queues
        ],
        [
            set(destinations(exchange, key, headers))
            for exchange in exchanges
            for key in ("", "a", "a.b", "q")
            for headers in ({}, {"k": 1}, {"k": "1", "x-y": None})
        ],
    )


def durable(vhost, binding):
    return vhost.exchanges[binding.source].durable


def destinations(exchange, key, headers):
    return [repr(one) for one in exchange.match([key], headers) if one.durable]


def owners_in(vhost):
    """Return some that notes are kept of."""
    names = ("queue", "q"), ("exchange", "x"), ("exchange", "amq.direct"), ("vhost", vhost.name)
    return [(vhost.name, *name) for name in names]


def noted(broker):
    """Return all notes of what is durable, by owner and plugin."""
    return {
        (owner, plugin): dict(broker.notes.get(owner, plugin))
        for plugin in ("plugin", "other")
        for owner in broker.notes.owners(plugin)
    }


def fill(broker):
    """Define something of each kind, in two virtual hosts."""
    broker.add_defaults()
    users = broker.users
    users.put(User("old", hash_password("s", b"salt", MD5), MD5, ("monitoring", "x y")))
    users.add("none", "")
    users.set_topic_permissions("guest", "/", "amq.topic", TopicPermissions("^{username}", "a"))
    broker.add_vhost("v").max_queues = 7
    for vhost in broker.vhosts.values():
        policy = {"max-length": 5, "alternate-exchange": "x", "ha-params": ["a", 1.5, None]}
        vhost.policies.put(Policy("p", "^[qx]", policy, "all", 3))
        vhost.policies.put(Policy("o", "q", {"max-length": 4}, "queues"), operator=True)
        arguments = {"alternate-exchange": "amq.fanout", "nested": {"list": [1, "a", b"\xff"]}}
        x = vhost.declare_exchange("x", "topic", durable=True, arguments=arguments)
        vhost.declare_exchange("h", "headers", durable=True, auto_delete=True, internal=True)
        q = vhost.declare_queue("q", durable=True, arguments={"x-max-length": 3})
        vhost.declare_queue("k", durable=True, arguments={"x-queue-type": "quorum"})
        vhost.declare_queue("auto", durable=True, auto_delete=True)
        vhost.bind("x", q, "a.#")
        vhost.bind("h", q, "", {"x-match": "any", "k": 1})
        vhost.bind("h", q, "", {"k": 1})
        vhost.bind("amq.direct", x, "a")
        vhost.bind("amq.direct", vhost.exchange("h"), "a")
        vhost.apply_policies()
        for owner in owners_in(vhost):
            broker.notes.put(owner, "plugin", b"\x00key\xff", b"\x00value\xff" + owner[2].encode())
            broker.notes.put(owner, "other", b"", b"")


MD5 = "rabbit_password_hashing_md5"


# All of it


def test_a_broker_comes_back_as_it_was(kept):
    fill(kept.broker)
    before = described(kept.broker)
    numbers = {queue.name: kept.catalog.queue_number(queue) for queue in kept.vhost.queues.values()}

    kept.restart()

    assert before == described(kept.broker)
    assert numbers == {q.name: n for n, q in kept.queues.items() if q.vhost.name == "/"}
    assert all(kept.catalog.queue_number(queue) == n for n, queue in kept.queues.items())
    assert [] == kept.catalog.notes
    assert kept.broker.users.authenticate("guest", "guest")
    assert not kept.broker.users.authenticate("none", "")


def test_what_came_back_can_be_taken_away(kept):
    fill(kept.broker)
    kept.restart()

    for name in ("/", "v"):
        kept.broker.delete_vhost(name)
    for user in list(kept.broker.users):
        kept.broker.users.delete(user.name)

    assert ["number"] == [kind for kind, _ in kept.rows]


def test_defining_again_what_is_there_writes_nothing(kept):
    for _ in range(2):
        kept.log.clear()
        fill(kept.broker)
    assert [] == kept.log

    kept.restart()
    fill(kept.broker)
    assert [] == kept.log


# What is kept


@pytest.mark.parametrize("durable_source", [True, False])
def test_what_is_transient_or_exclusive_leaves_no_trace(kept, durable_source):
    vhost = kept.vhost
    source = "amq.direct" if durable_source else "x"
    vhost.declare_exchange("x", "fanout")
    queues = [
        vhost.declare_queue("transient"),
        vhost.declare_queue("own", durable=True, owner=object()),
        vhost.declare_queue("", auto_delete=True),
    ]
    for destination in (*queues, vhost.exchange("x")):
        vhost.bind(source, destination, "k")
    vhost.unbind(source, queues[0], "k")
    for queue in queues:
        vhost.delete_queue(queue)
    vhost.delete_exchange("x")

    assert [] == kept.log


def test_a_binding_is_kept_only_if_both_ends_are(kept):
    kept.vhost.declare_exchange("transient", "fanout")
    kept.vhost.declare_exchange("x", "fanout", durable=True)
    q = kept.durable()
    kept.log.clear()

    kept.vhost.bind("transient", q, "")
    kept.vhost.bind("x", kept.vhost.exchange("transient"), "")
    assert [] == kept.kinds

    kept.vhost.bind("x", q, "")
    assert ["binding"] == kept.kinds


@pytest.mark.parametrize("end", ["queue", "source", "destination", "all"])
def test_bindings_go_with_either_end(kept, end):
    vhost = kept.vhost
    for name in ("x", "y"):
        vhost.declare_exchange(name, "fanout", durable=True)
    vhost.bind("x", kept.durable(), "")
    vhost.bind("x", vhost.exchange("y"), "")
    kept.log.clear()

    match end:
        case "queue":
            vhost.delete_queue(vhost.queue("q"))
            assert ["-binding", "-queue", "number"] == kept.kinds
        case "source":
            vhost.delete_exchange("x")
            assert ["-binding", "-binding", "-exchange"] == kept.kinds
        case "destination":
            vhost.delete_exchange("y")
            assert ["-binding", "-exchange"] == kept.kinds
        case _:
            kept.broker.delete_vhost("/")
            assert ["number"] == [kind for kind, _ in kept.rows]


def test_an_auto_delete_exchange_goes_with_its_last_binding(kept):
    vhost = kept.vhost
    vhost.declare_exchange("x", "fanout", durable=True, auto_delete=True)
    vhost.bind("x", kept.durable(), "")
    kept.log.clear()

    vhost.delete_queue(vhost.queue("q"))

    assert ["-binding", "-queue", "number", "-exchange"] == kept.kinds


def test_a_user_takes_its_permissions_along(kept):
    users = kept.broker.users
    users.add("alice", "secret")
    users.set_permissions("alice", "/", ALL)
    users.set_topic_permissions("alice", "/", "t", TopicPermissions("", ""))
    users.set_topic_permissions("alice", "/", "u", TopicPermissions("", ""))
    kept.log.clear()

    users.delete("alice")

    deleted = ["-permissions", "-topic_permissions", "-topic_permissions", "-user"]
    assert deleted == kept.kinds


def test_a_change_keeps_the_place_of_what_is_changed(kept):
    for name in ("a", "b"):
        kept.broker.users.add(name, "secret")
    kept.broker.users.put(User("a", "", tags=("new",)))

    kept.restart()

    assert [("a", ("new",)), ("b", ())] == [(user.name, user.tags) for user in kept.broker.users]


def test_a_limit_below_what_is_there_does_not_keep_queues_from_coming_back(kept):
    for name in ("a", "b"):
        kept.durable(name)
    kept.vhost.max_queues = 1

    kept.restart()

    assert (["a", "b"], 1) == (list(kept.vhost.queues), kept.vhost.max_queues)


# Numbers


def test_a_queue_that_takes_the_place_of_another_has_another_number(kept):
    first = kept.catalog.queue_number(kept.durable())
    kept.log.clear()

    kept.vhost.delete_queue(kept.vhost.queue("q"))
    second = kept.catalog.queue_number(kept.durable(auto_delete=True))

    assert ["-queue", "number", "queue"] == kept.kinds
    assert first != second
    kept.restart()
    assert {second: kept.vhost.queue("q")} == kept.queues
    assert kept.vhost.queue("q").auto_delete


def test_a_number_is_never_given_twice(kept):
    given = []
    for step in range(12):
        queue = kept.durable(f"q{step}")
        given.append(kept.catalog.queue_number(queue))
        if step % 3:
            kept.vhost.delete_queue(queue)
        if step % 2:
            kept.restart()

    assert sorted(set(given)) == given
    assert all(number > 0 for number in given)


def test_a_queue_that_is_not_kept_has_no_number(kept):
    with pytest.raises(KeyError):
        kept.catalog.queue_number(kept.vhost.declare_queue("transient"))


# Names and arguments


def test_names_may_hold_anything(kept):
    names = ["", "a", "b", "ab", "a\x00", "\x01b", "é\n'", "\udcff\udc80", "n" * 254, "n" * 255]
    names.append("m" * 300)
    for vhost_name in names:
        vhost = kept.broker.add_vhost(vhost_name)
        for name in filter(None, names):
            vhost.declare_exchange(name, "direct", durable=True)
            vhost.declare_queue(name, durable=True)
            vhost.bind(name, vhost.queue(name), "ab")
            vhost.bind(name, vhost.exchange(name), "")
            vhost.policies.put(Policy(name, "^" + "x" * 300, {"max-length": 1}))
    for name in filter(None, names):
        kept.broker.users.put(User(name, "", tags=(name,)))
        kept.broker.users.set_permissions(name, name, Permissions("", "é\x00", ""))
    before = described(kept.broker)

    kept.restart()

    assert before == described(kept.broker)


@pytest.mark.parametrize("other", [("a", "bc"), ("abc",), ("ab", "c", ""), ("", "ab", "c")])
def test_keys_of_other_names_are_other_keys(other):
    assert pack_names("ab", "c") != pack_names(*other)


# Each tag once, with values at the edges of those that are plain Python; and two names that are
# no UTF-8.
ENTRIES = b"".join(
    b"\x02" + bytes((0x80 + number, 0x41)) + entry
    for number, entry in enumerate(
        [
            *(b"t\x00", b"t\x01", b"b\xff", b"B\xff", b"s\x80\x00", b"u\xff\xff"),
            *(b"I\x80\x00\x00\x00", b"i\xff\xff\xff\xff", b"l" + bytes(7) + b"\x01"),
            *(b"l\x80" + bytes(7), b"L" + bytes(8), b"T\xff" + bytes(7)),
            *(b"f\x7f\xc0\x00\x01", b"f\x80\x00\x00\x00", b"d\x7f\xf8\x00\x00\x00\x00\x00\x01"),
            *(b"D\x02\x00\x00\x01\xf4", b"D\xff\xff\xff\xff\xff", b"V", b"x\x00\x00\x00\x01\xff"),
            *(b"S\x00\x00\x00\x02\xc3\xa9", b"S\x00\x00\x00\x01\xff", b"S\x00\x00\x00\x00"),
            *(b"A\x00\x00\x00\x03b\x01V", b"F\x00\x00\x00\x04\x01at\x01"),
        ]
    )
)
EVERY_TAG = len(ENTRIES).to_bytes(4, "big") + ENTRIES


@pytest.mark.parametrize("kind", ["queue", "exchange", "binding"])
def test_arguments_come_back_octet_by_octet(kept, kind):
    arguments, _ = decode_table(EVERY_TAG)
    vhost = kept.vhost
    match kind:
        case "queue":
            kept.durable(arguments=arguments)
        case "exchange":
            vhost.declare_exchange("x", "direct", durable=True, arguments=arguments)
        case _:
            vhost.bind("amq.headers", kept.durable(), "", arguments)

    kept.restart()

    vhost = kept.vhost
    match kind:
        case "queue":
            found = vhost.queue("q").arguments
        case "exchange":
            found = vhost.exchange("x").arguments
        case _:
            (binding,) = vhost.bindings()
            found = binding.arguments
            kept.vhost.unbind("amq.headers", vhost.queue("q"), "", arguments)
            assert ["-binding"] == kept.kinds
            assert "binding" not in {kind for kind, _ in kept.rows}
    assert EVERY_TAG.hex() == octets(found)


# What cannot be understood


def kinds_of(kept):
    fill(kept.broker)
    kept.vhost.delete_queue(kept.vhost.declare_queue("last", durable=True))
    return {kind: (key, value) for (kind, key), value in kept.rows.items()}


KINDS = (
    *("number", "note", "vhost", "user", "permissions", "topic_permissions", "policy"),
    *("operator_policy", "exchange", "queue", "binding"),
)


def test_the_list_of_kinds_is_complete(kept):
    assert set(KINDS) == set(kinds_of(kept))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_definition_is_an_error_that_names_it(kept, kind):
    key, value = kinds_of(kept)[kind]
    good = value
    damages = [value[:length] for length in range(len(value))]
    damages += [value[:at] + bytes((value[at] ^ 1,)) + value[at + 1 :] for at in range(len(value))]
    named = {"vhost": r"'v'", "queue": r"'v' 'auto'", "policy": r"'v' 'p'"}.get(kind, "")
    for damaged in damages:
        with pytest.raises(StoreError, match=rf"^the definition of {kind} ?{named}.* is damaged: "):
            Catalog(Broker(), kept.note).restore([(kind, key, damaged)])
    if key:
        with pytest.raises(
            StoreError, match=rf"^the definition of {kind} .* is damaged: .*checksum"
        ):
            Catalog(Broker(), kept.note).restore([(kind, key[:-1] + b"\x00\x00", good)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_of_a_newer_format_is_an_error(kept, kind):
    key, _ = kinds_of(kept)[kind]
    newer = seal_as(2, kind, key, b"what nobody knows yet")

    with pytest.raises(
        StoreError, match=rf"^the definition of {kind}.*: its format 2 is not known"
    ):
        Catalog(Broker(), kept.note).restore([(kind, key, newer)])


def seal_as(number, kind, key, content):
    """Return a sealed value of another format."""
    from zlib import crc32

    tail = bytes((number,)) + content
    return crc32(kind.encode() + key + tail).to_bytes(4, "little") + tail


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"[", b"{}", b"[1]", b"\xff" * 30])
def test_content_that_makes_no_sense_is_an_error_and_no_crash(kind, content):
    names = ("/", "q", "queue", "q", "k")[: 5 if kind == "binding" else 2]
    definition = seal(kind, pack_names(*names), content)
    rows = [seal("vhost", pack_names("/"), b'{"max_queues":null}'), definition]

    with suppress(StoreError):
        Catalog(Broker(), [].append).restore(rows)


def test_what_stands_on_nothing_is_an_error(kept):
    kept.durable()
    del kept.rows["vhost", pack_names("/")]

    with pytest.raises(StoreError, match="queue '/' 'q' cannot be restored: no vhost '/'"):
        kept.restart()


def test_an_error_is_one_line_whatever_the_names_hold(kept):
    kept.broker.add_vhost("v\n\udcff").declare_queue("q\n", durable=True)
    del kept.rows["vhost", pack_names("v\n\udcff")]

    with pytest.raises(StoreError) as error:
        kept.restart()

    text = r"queue 'v\n\udcff' 'q\n' cannot be restored: no vhost 'v\n\udcff'"
    assert text == str(error.value)


def test_two_queues_of_one_number_are_an_error(kept):
    kept.durable()
    content = unseal("queue", pack_names("/", "q"), kept.rows["queue", pack_names("/", "q")])
    kept.note(seal("queue", pack_names("/", "p"), content))

    with pytest.raises(StoreError, match="queue '/' 'p' cannot be restored: its number 1 is that"):
        kept.restart()


# What is held


def test_an_unknown_kind_is_kept_and_listed(kept):
    kept.note(Definition("shovel", pack_names("/", "x\n"), b"anything"))
    before = dict(kept.rows)

    kept.restart()
    fill(kept.broker)
    kept.restart()

    assert [r"shovel '/' 'x\n': this kind is not known; kept as it is"] == kept.catalog.notes
    assert before.items() <= kept.rows.items()


class Odd(Direct):
    name = "x-odd"


@pytest.fixture
def without_odd(kept):
    """A broker that knew an exchange type once, and a binding from there to queue q."""
    kept.broker.registry.exchange_type(Odd)
    kept.vhost.declare_exchange("odd", "x-odd", durable=True)
    kept.vhost.bind("odd", kept.durable(), "k")
    kept.vhost.bind("amq.fanout", kept.vhost.exchange("odd"), "")
    before = dict(kept.rows)
    kept.restart()
    assert before == kept.rows
    return kept


def bindings_in(rows):
    return [key for kind, key in rows if kind == "binding"]


def test_an_exchange_of_an_unknown_type_is_held_with_its_bindings(without_odd, monkeypatch):
    kept = without_odd

    assert [
        "exchange '/' 'odd': its type 'x-odd' is not known; kept as it is",
        "binding '/' 'odd' 'queue' 'q' 'k': exchange 'odd' is not there; kept as it is",
        "binding '/' 'amq.fanout' 'exchange' 'odd' '': exchange 'odd' is not there; kept as it is",
    ] == kept.catalog.notes
    assert "odd" not in kept.vhost.exchanges

    monkeypatch.setitem(EXCHANGE_TYPES, "x-odd", Odd)  # a new broker knows it from the start
    kept.restart()
    assert ["k", ""] == [b.routing_key for b in kept.vhost.bindings()][::-1]


def test_bindings_of_an_exchange_that_a_plugin_made_are_held_without_it(kept):
    kept.catalog._is_restoring = True  # a plugin makes it again at each start: it has no row
    exchange = kept.vhost.declare_exchange("amq.plugin", "topic", durable=True)
    kept.catalog._is_restoring = False
    kept.vhost.bind(exchange.name, kept.durable(), "k")

    kept.restart()

    text = "binding '/' 'amq.plugin' 'queue' 'q' 'k': exchange 'amq.plugin' is not there"
    assert [f"{text}; kept as it is"] == kept.catalog.notes


def test_what_is_held_gives_way_to_an_exchange_of_its_name(without_odd):
    kept = without_odd
    kept.vhost.declare_exchange("odd", "fanout", durable=True)

    assert ["-binding", "-binding", "exchange"] == kept.kinds
    kept.restart()
    assert [] == kept.catalog.notes
    assert "fanout" == kept.vhost.exchange("odd").type_name
    assert [] == list(kept.vhost.bindings())


def test_a_transient_exchange_of_its_name_changes_nothing(without_odd):
    without_odd.vhost.declare_exchange("odd", "fanout")
    without_odd.vhost.delete_exchange("odd")

    assert [] == without_odd.log


def test_held_bindings_go_with_their_queue(without_odd):
    kept = without_odd
    kept.vhost.delete_queue(kept.vhost.queue("q"))

    assert ["-binding", "-queue", "number"] == kept.kinds
    kept.restart()
    assert 2 == len(kept.catalog.notes)


def test_what_is_held_goes_with_its_virtual_host(without_odd):
    without_odd.broker.delete_vhost("/")

    assert ["number"] == [kind for kind, _ in without_odd.rows]


def test_a_policy_with_an_unknown_setting_is_held(kept):
    kept.broker.registry.argument("x-odd", lambda value, arguments: None)
    kept.vhost.policies.put(Policy("p", ".*", {"odd": 1}))
    kept.vhost.policies.put(Policy("p", ".*", {"odd": 1}), operator=True)
    kept.restart()

    text = "policy 'p': unknown key 'odd' in its definition; kept as it is"
    assert [f"policy '/' 'p': {text}", f"operator_policy '/' 'p': {text}"] == kept.catalog.notes
    assert [] == list(kept.vhost.policies)
    kept.vhost.policies.put(Policy("p", ".*", {"max-length": 1}))
    kept.restart()
    assert 1 == len(kept.catalog.notes)


def test_an_argument_that_would_be_refused_today_has_no_effect(kept, monkeypatch):
    arguments = {"x-odd": -1, "x-max-length": 5}
    kept.vhost.declare_queue("q", durable=True, arguments=arguments)
    kept.vhost.declare_exchange("e", "direct", durable=True, arguments={"x-odd": "s"})
    before = dict(kept.rows)

    registry = Registry()  # of a later version, which knows it
    for where in ("queues", "exchanges"):
        registry.argument("x-odd", milliseconds, applies_to=where)
    monkeypatch.setitem(globals(), "Broker", partial(Broker, registry=registry))
    kept.restart()

    assert [
        "exchange 'e' in vhost '/': argument 'x-odd' has no effect: "
        '"expected integer, got longstr"; kept as it is',
        "queue 'q' in vhost '/': argument 'x-odd' has no effect: {value_negative,-1}; "
        "kept as it is",
    ] == kept.catalog.notes
    queue = kept.vhost.queue("q")
    assert (arguments, {"max-length": 5}) == (queue.arguments, queue.settings)
    assert before == kept.rows
    assert queue is kept.vhost.declare_queue("q", durable=True, arguments=arguments)


class Picky(Direct):
    """Has no use for what it was declared and bound with before."""

    name = "x-odd"

    def __init__(self, arguments):
        super().__init__(arguments)
        if "bad" in arguments:
            raise PreconditionFailed("it is bad")

    def check_binding(self, binding_key, arguments):
        if binding_key == "bad":
            raise PreconditionFailed("so is this")


def test_what_an_exchange_type_refuses_today_is_held(kept, monkeypatch):
    kept.broker.registry.exchange_type(Odd)
    for name, arguments in (("bad", {"bad": 1}), ("good", {})):
        kept.vhost.declare_exchange(name, "x-odd", durable=True, arguments=arguments)
        for key in ("bad", "k"):
            kept.vhost.bind(name, kept.durable(), key)
    before = dict(kept.rows)

    monkeypatch.setitem(EXCHANGE_TYPES, "x-odd", Picky)
    kept.restart()

    assert [
        "exchange '/' 'bad': it is bad; kept as it is",
        "binding '/' 'bad' 'queue' 'q' 'bad': exchange 'bad' is not there; kept as it is",
        "binding '/' 'bad' 'queue' 'q' 'k': exchange 'bad' is not there; kept as it is",
        "binding '/' 'good' 'queue' 'q' 'bad': so is this; kept as it is",
    ] == kept.catalog.notes
    assert [("good", "k")] == [(b.source, b.routing_key) for b in kept.vhost.bindings()]
    assert before == kept.rows


# Notes of plugins

QUEUE = ("/", "queue", "q")


def test_a_note_is_kept_as_it_changes(kept):
    kept.durable()
    kept.log.clear()
    for value in (b"1", b"2", None):
        kept.broker.notes.put(QUEUE, "dedup", b"k", value)

    assert ["note", "note", "-note"] == kept.kinds
    kept.restart()
    assert {} == kept.broker.notes.get(QUEUE, "dedup")


def test_notes_come_back_whatever_is_in_them(kept):
    kept.durable()
    values = {b"": b"", b"\xff\x00": b"\x00" * 70_000, bytes(range(256)): bytes(range(256))}
    for key, value in values.items():
        kept.broker.notes.put(QUEUE, "n\udcff\n", key, value)

    kept.restart()

    assert list(values.items()) == list(kept.broker.notes.get(QUEUE, "n\udcff\n").items())
    assert [] == kept.catalog.notes


def test_notes_of_what_is_transient_or_exclusive_are_not_kept(kept):
    for name, properties in {"t": {}, "e": {"durable": True, "owner": kept}}.items():
        queue = kept.vhost.declare_queue(name, **properties)
        kept.broker.notes.put(("/", "queue", name), "dedup", b"k", b"1")
        kept.vhost.delete_queue(queue)
    kept.vhost.declare_exchange("t", "fanout")
    kept.broker.notes.put(("/", "exchange", "t"), "dedup", b"k", b"1")

    assert [] == kept.log


@pytest.mark.parametrize("kind", ["queue", "exchange", "vhost"])
def test_kept_notes_go_with_their_owner(kept, kind):
    fill(kept.broker)
    before = noted(kept.broker)
    match kind:
        case "queue":
            kept.vhost.delete_queue(kept.vhost.queue("q"))
        case "exchange":
            kept.vhost.delete_exchange("x")
        case _:
            kept.broker.delete_vhost("/")
    kept.restart()

    gone = {"queue": [QUEUE], "exchange": [("/", "exchange", "x")]}
    gone = gone.get(kind) or [owner for owner, _ in before if owner[0] == "/"]
    left = {key: notes for key, notes in before.items() if key[0] not in gone}
    assert left == noted(kept.broker)
    assert len(left) < len(before)
    assert [] == kept.catalog.notes


def test_notes_are_there_before_their_owners(kept):
    kept.durable()
    kept.vhost.declare_exchange("x", "fanout", durable=True)
    owners = {"queue": QUEUE, "exchange": ("/", "exchange", "x"), "vhost": ("/", "vhost", "/")}
    for owner in owners.values():
        kept.broker.notes.put(owner, "dedup", b"k", b"1")
    seen = {}

    def look(kind):
        def created(vhost, **_):
            seen.setdefault(kind, dict(vhost.broker.notes.get(owners[kind], "dedup")))

        return created

    broker = Broker()
    for kind in owners:
        broker.events.subscribe(f"{kind}.created", look(kind))
    rows = [(kind, key, value) for (kind, key), value in kept.rows.items()]
    Catalog(broker, kept.note).restore(rows)

    assert {kind: {b"k": b"1"} for kind in owners} == seen


def test_what_a_plugin_notes_while_its_queue_comes_back_is_kept(kept):
    kept.durable()
    broker = Broker()
    broker.events.subscribe(
        "queue.created", lambda **_: broker.notes.put(QUEUE, "dedup", b"k", b"1")
    )
    rows = [(kind, key, value) for (kind, key), value in kept.rows.items()]
    Catalog(broker, kept.note).restore(rows)

    kept.restart()

    assert {b"k": b"1"} == kept.broker.notes.get(QUEUE, "dedup")


@pytest.fixture
def with_held_notes(kept):
    """A broker that knew an exchange type once; what plugins noted of an exchange is held."""
    kept.broker.registry.exchange_type(Odd)
    kept.vhost.declare_exchange("odd", "x-odd", durable=True)
    for key in (b"k", b"l"):
        kept.broker.notes.put(("/", "exchange", "odd"), "dedup", key, b"1")
    kept.restart()
    assert 1 == len([note for note in kept.catalog.notes if "2 notes: " in note])
    return kept


def test_notes_of_an_exchange_that_is_held_are_held(with_held_notes, monkeypatch):
    kept = with_held_notes
    before = dict(kept.rows)

    text = "2 notes: exchange 'odd' in vhost '/' is not there; kept as they are"
    assert text == kept.catalog.notes[-1]
    assert [] == kept.broker.notes.owners("dedup")

    monkeypatch.setitem(EXCHANGE_TYPES, "x-odd", Odd)
    kept.restart()
    assert before == kept.rows
    assert [b"k", b"l"] == list(kept.broker.notes.get(("/", "exchange", "odd"), "dedup"))


@pytest.mark.parametrize("durable", [False, True])
def test_held_notes_give_way_to_a_durable_owner_of_their_name(with_held_notes, durable):
    kept = with_held_notes
    kept.vhost.declare_exchange("odd", "fanout", durable=durable)

    assert (["-note", "-note", "exchange"] if durable else []) == kept.kinds


def test_held_notes_go_with_their_virtual_host(with_held_notes):
    with_held_notes.broker.delete_vhost("/")

    assert {} == with_held_notes.rows


@pytest.mark.parametrize(
    ("owner", "kind"), [(QUEUE, "queue"), (("v", "vhost", "v"), "vhost"), (QUEUE, "exchange")]
)
def test_notes_whose_owner_is_lost_are_held_until_there_is_another(kept, owner, kind):
    kept.durable()
    kept.broker.add_vhost("v")
    kept.broker.notes.put(owner, "dedup", b"k", b"1")
    kept.rows.pop((owner[1], pack_names(*dict.fromkeys((owner[0], owner[2])))))
    kept.restart()
    assert 1 == len(kept.catalog.notes)

    if kind == "queue":
        kept.durable()
    elif kind == "vhost":
        kept.broker.add_vhost("v")
    else:
        kept.vhost.declare_exchange("q", "fanout", durable=True)

    assert (kind == owner[1]) == ("note" not in {name for name, _ in kept.rows})


# Then the topology file


def test_the_topology_file_of_last_time_changes_nothing(kept):
    source = """
vhosts: [{name: v, limits: {max-queues: 4}}]
users: {app: {password: secret, tags: [monitoring], permissions: {/: .*}}}
exchanges: {x: topic}
queues: [{name: q, arguments: {x-max-length: 5, y: 1.5, z: [1, {a: null}]}}]
bindings: ["x -> q: a.#"]
policies: {p: {pattern: q, definition: {max-length: 1}}}
"""
    parse("t.yaml", source).apply(kept.broker)
    kept.restart()

    parse("t.yaml", source).apply(kept.broker)

    assert [] == kept.log


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "queues:\n- new\n- {name: q, durable: false}",
            "t.yaml:3: queues[1]: inequivalent arg 'durable' for queue 'q' in vhost '/': "
            "received 'false' but current is 'true'; it exists already",
        ),
        (
            "queues:\n- name: q\n  arguments:\n    x-max-length: 4",
            "t.yaml:4: queues[0].arguments.x-max-length: inequivalent arg 'x-max-length' for queue "
            "'q' in vhost '/': received '4' but current is '3'; it exists already",
        ),
        (
            "queues: [{name: q}]",
            "t.yaml:1: queues[0]: inequivalent arg 'x-max-length' for queue 'q' in vhost '/': "
            "received none but current is the value '3' of type 'signedint'; it exists already",
        ),
        (
            "users: {new: {password: x}}\nexchanges:\n  x: fanout",
            "t.yaml:3: exchanges.x: inequivalent arg 'type' for exchange 'x' in vhost '/': "
            "received 'fanout' but current is 'topic'; it exists already",
        ),
        (
            "exchanges:\n  x: {type: topic, internal: true}",
            "t.yaml:2: exchanges.x: inequivalent arg 'internal' for exchange 'x' in vhost '/': "
            "received 'true' but current is 'false'; it exists already",
        ),
        ("permissions:\n- {user: guest, vhost: /, configure: '', write: '', read: ''}", "no user"),
    ],
)
def test_a_file_that_contradicts_what_is_kept_is_refused_as_a_whole(kept, source, text):
    kept.vhost.declare_exchange("x", "topic", durable=True)
    kept.durable(arguments={"x-max-length": 3})
    kept.restart()

    with pytest.raises(DocumentError) as error:
        parse("t.yaml", source).apply(kept.broker)

    assert text in str(error.value)
    assert [] == kept.log


def test_a_default_virtual_host_that_is_not_there_is_an_error_with_a_place(kept):
    loaded = parse("t.yaml", "exchanges:\n  x: topic", default_vhost="other")

    with pytest.raises(DocumentError, match=r"^t.yaml:2: exchanges.x: no virtual host 'other'$"):
        loaded.apply(kept.broker)


def test_a_file_may_raise_a_limit_for_its_own_queues(kept):
    kept.vhost.max_queues = 1
    kept.durable("old")
    kept.restart()

    source = "vhosts: [{name: /, limits: {max-queues: 3}}]\nqueues: [a, b]"
    parse("t.yaml", source).apply(kept.broker)

    assert (3, ["old", "a", "b"]) == (kept.vhost.max_queues, list(kept.vhost.queues))


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("queues:\n- name: q\n  arguments:\n    n: {}", "t.yaml:4: queues[0].arguments.n"),
        ("exchanges:\n  x:\n    arguments:\n      n: {}", "t.yaml:4: exchanges.x.arguments.n"),
        (
            "queues: [q]\nbindings:\n"
            "- {{source: amq.topic, destination: q, arguments: {{n: [{}]}}}}",
            "t.yaml:3: bindings[0].arguments.n",
        ),
    ],
)
def test_an_argument_that_is_no_amqp_value_is_refused_at_its_place(source, place):
    with pytest.raises(DocumentError, match="AMQP cannot carry it") as error:
        parse("t.yaml", source.format(1 << 64))

    assert str(error.value).startswith(place + ": invalid arg 'n': ")


# Whatever is done

vhosts = st.sampled_from(["/", "v\x00"])
names = st.sampled_from(["q", "a", "ab", "\udcff"])
keys = st.sampled_from(["", "a", "a.#", "*.b"])
types = st.sampled_from(["direct", "fanout", "topic", "headers"])
tables = st.sampled_from(
    [
        {},
        {"k": 1},
        {"k": "1", "x-match": "any"},
        {"k": 1.0, "n": float("nan")},
        {"alternate-exchange": "a"},
    ]
)
flags = st.booleans()
often = st.sampled_from([True, True, True, False])
picks = st.integers(0, 1 << 16)


class CatalogMachine(RuleBasedStateMachine):
    """Random changes of the topology; a restart at any time finds what was there."""

    @initialize()
    def start(self):
        self.kept = Kept()
        self.given = set()
        self.kept.broker.add_defaults()
        self.watch()

    def watch(self):
        self.kept.broker.events.subscribe("queue.created", self.queue_created)

    def queue_created(self, vhost, queue):
        if queue.durable:
            number = self.kept.catalog.queue_number(queue)
            assert number not in self.given
            self.given.add(number)

    def vhost(self, name):
        return self.kept.broker.add_vhost(name)

    @rule(where=vhosts, name=names, type_name=types, is_durable=often, auto=flags, arguments=tables)
    def declare_exchange(self, where, name, type_name, is_durable, auto, arguments):
        with suppress(AMQPError):
            self.vhost(where).declare_exchange(
                name, type_name, durable=is_durable, auto_delete=auto, arguments=arguments
            )

    @rule(where=vhosts, name=names, is_durable=often, auto=flags, own=flags, arguments=tables)
    def declare_queue(self, where, name, is_durable, auto, own, arguments):
        with suppress(AMQPError):
            self.vhost(where).declare_queue(
                name,
                durable=is_durable,
                auto_delete=auto,
                owner=self if own and auto else None,
                arguments=arguments,
            )

    @rule(where=vhosts, source=picks, destination=picks, key=keys, arguments=tables)
    def bind(self, where, source, destination, key, arguments):
        vhost = self.vhost(where)
        exchanges = [exchange for name, exchange in vhost.exchanges.items() if name]
        ends = [*exchanges, *vhost.queues.values(), *vhost.queues.values()]
        name = exchanges[-1 - source % len(exchanges)].name
        vhost.bind(name, ends[-1 - destination % len(ends)], key, arguments)

    @rule(where=vhosts, pick=picks)
    def unbind(self, where, pick):
        vhost = self.vhost(where)
        bindings = list(vhost.bindings())
        if bindings:
            binding = bindings[pick % len(bindings)]
            ends = vhost.queues if binding.destination_kind == "queue" else vhost.exchanges
            end = ends[binding.destination]
            vhost.unbind(binding.source, end, binding.routing_key, binding.arguments)

    @rule(where=vhosts, name=names, is_queue=flags)
    def delete(self, where, name, is_queue):
        vhost = self.vhost(where)
        if not is_queue:
            vhost.delete_exchange(name)
        elif name in vhost.queues:
            vhost.delete_queue(vhost.queue(name))

    @rule(where=vhosts, name=names, length=st.integers(-1, 3), operator=flags)
    def put_policy(self, where, name, length, operator):
        vhost = self.vhost(where)
        definition = {"max-length": length, "alternate-exchange": "a"}
        with suppress(PolicyError):
            vhost.policies.put(
                Policy(name, "^[qa]", definition, priority=length), operator=operator
            )
            vhost.apply_policies()

    @rule(where=vhosts, name=names, operator=flags)
    def delete_policy(self, where, name, operator):
        with suppress(KeyError):
            self.vhost(where).policies.delete(name, operator=operator)
            self.vhost(where).apply_policies()

    @rule(name=names, tags=st.sampled_from([(), ("a", "b")]))
    def put_user(self, name, tags):
        self.kept.broker.users.put(User(name, "", tags=tags))

    @rule(where=vhosts, name=names, exchange=names, pattern=st.sampled_from(["", ".*"]), row=picks)
    def permit(self, where, name, exchange, pattern, row):
        users = self.kept.broker.users
        if name not in users:
            return
        match row % 5:
            case 0:
                users.clear_permissions(name, where)
            case 1:
                users.clear_topic_permissions(name, where, exchange)
            case 2:
                users.set_topic_permissions(name, where, exchange, TopicPermissions(pattern, ""))
            case 3:
                users.set_permissions(name, where, Permissions(pattern, "", ""))
            case _:
                users.delete(name)

    @rule(where=vhosts, most=st.sampled_from([None, 1, 5]), is_gone=st.integers(0, 9))
    def change_vhost(self, where, most, is_gone):
        self.vhost(where).max_queues = most
        if is_gone == 9:
            self.kept.broker.delete_vhost(where)

    @rule()
    def restart(self):
        before = described(self.kept.broker)
        self.kept.restart()
        assert before == described(self.kept.broker)
        self.watch()

    def teardown(self):
        self.restart()


CatalogMachine.TestCase.settings = settings(
    max_examples=50, stateful_step_count=30, deadline=None, database=None
)
TestCatalog = CatalogMachine.TestCase


def test_a_number_that_rows_name_still_is_not_given_anew(kept):
    kept.catalog.spare(7)
    queue = kept.vhost.declare_queue("q", durable=True)

    assert 8 == kept.catalog.queue_number(queue)
    kept.catalog.spare(3)
    assert 9 == kept.catalog.queue_number(kept.vhost.declare_queue("r", durable=True))
