"""Which message reaches which queue: topic, headers, direct and fanout tables, e2e, alternates.

A table publishes messages whose body says what they are, and gets what the queue holds.
"""

from decimal import Decimal

from leveret.protocol.methods import (
    BasicGet,
    ConfirmSelect,
    ExchangeBind,
    ExchangeDeclare,
    ExchangeDelete,
    ExchangeUnbind,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    QueueUnbind,
)
from leveret.protocol.table import Float32, Int8, Int64, Timestamp, UInt8

from .conversation import conversation

KEYS = (
    "",
    ".",
    "..",
    "a",
    "b",
    "A",
    "a.b",
    "a.",
    ".a",
    "a..b",
    "a.b.c",
    "a.x.c",
    "a.b.b.c",
    "b.a",
    "x.a.b",
    "a.*",
    "a.#",
    "*",
    "#",
    "a b",
    "\u00fc.b",
)
PATTERNS = {
    "exact": "a.b",
    "empty": "",
    "dot": ".",
    "star": "*",
    "hash": "#",
    "star_star": "*.*",
    "hash_hash": "#.#",
    "star_hash": "*.#",
    "hash_star": "#.*",
    "prefix_star": "a.*",
    "prefix_hash": "a.#",
    "suffix_star": "*.a",
    "suffix_hash": "#.b",
    "middle_star": "a.*.c",
    "middle_hash": "a.#.c",
    "empty_middle": "a..b",
    "empty_end": "a.",
    "star_within_word": "a*",
    "hash_within_word": "a#.b",
    "three_hashes": "#.a.#.b.#",
    "unicode": "\u00fc.*",
}


@conversation(each=PATTERNS)
def topic(talk, pattern):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "topic"))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x, pattern))
    for key in KEYS:
        a.publish(talk.x, key, key.encode())
    a.drain(talk.q)


@conversation
def topic_with_overlapping_bindings_delivers_once(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "topic"))
    a(QueueDeclare(talk.q, exclusive=True))
    for pattern in ("#", "a.#", "*.b", "a.b"):
        a(QueueBind(talk.q, talk.x, pattern))
    a.publish(talk.x, "a.b", b"once")
    a.drain(talk.q)
    for pattern in ("#", "a.#", "a.b"):
        a(QueueUnbind(talk.q, talk.x, pattern))
    a.publish(talk.x, "a.b", b"by the last binding")
    a.publish(talk.x, "b.c", b"not at all", mandatory=True)
    a.hear()
    a.drain(talk.q)


@conversation
def topic_with_many_queues(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "topic"))
    queues = talk.names("one two three")
    for queue, pattern in zip(queues, ("a.*", "*.b", "a.#"), strict=True):
        a(QueueDeclare(queue, exclusive=True))
        a(QueueBind(queue, talk.x, pattern))
    for key in ("a.b", "a.c", "c.b", "a", "b"):
        a.publish(talk.x, key, key.encode())
    for queue in queues:
        a.drain(queue)


def _headers(talk, arguments):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "headers"))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x, "ignored", arguments=arguments))
    return a


MESSAGES = {
    "no headers": None,
    "empty": {},
    "a=1": {"a": 1},
    "a=1 as int8": {"a": Int8(1)},
    "a=1 as int64": {"a": Int64(1)},
    "a=1 as float": {"a": 1.0},
    "a='1'": {"a": "1"},
    "a=true": {"a": True},
    "a=2": {"a": 2},
    "a=void": {"a": None},
    "b='x'": {"b": "x"},
    "a=1 b='x'": {"a": 1, "b": "x"},
    "a=1 b='y'": {"a": 1, "b": "y"},
    "a=1 b='x' c=3": {"a": 1, "b": "x", "c": 3},
    "A=1": {"A": 1},
    "x-a=1": {"x-a": 1},
    "a=1 x-a=1": {"a": 1, "x-a": 1},
    "x-match='all'": {"x-match": "all"},
}
HEADERS = {
    "none": {},
    "all_none": {"x-match": "all"},
    "any_none": {"x-match": "any"},
    "all_with_x_none": {"x-match": "all-with-x"},
    "any_with_x_none": {"x-match": "any-with-x"},
    "default_a": {"a": 1},
    "all_ab": {"x-match": "all", "a": 1, "b": "x"},
    "any_ab": {"x-match": "any", "a": 1, "b": "x"},
    "all_void": {"x-match": "all", "a": None},
    "any_void": {"x-match": "any", "a": None, "c": None},
    "all_string": {"x-match": "all", "a": "1"},
    "all_bool": {"x-match": "all", "a": True},
    "all_float": {"x-match": "all", "a": 1.0},
    "all_x_skipped": {"x-match": "all", "x-a": 1},
    "any_x_skipped": {"x-match": "any", "x-a": 1},
    "all_with_x": {"x-match": "all-with-x", "x-a": 1},
    "any_with_x": {"x-match": "any-with-x", "a": 2, "x-a": 1},
}


@conversation(each=HEADERS)
def headers(talk, arguments):
    a = _headers(talk, arguments)
    for name, message in MESSAGES.items():
        a.publish(talk.x, "key", name.encode(), headers=message)
    a.drain(talk.q)


VALUES = {
    "string": "text",
    "bytes": b"text",
    "bool": True,
    "int": 300,
    "negative": -7,
    "uint8": UInt8(7),
    "float": 1.5,
    "float32": Float32(1.5),
    "decimal": Decimal("1.5"),
    "timestamp": Timestamp(300),
    "void": None,
    "array": [1, "a"],
    "table": {"a": 1},
}


@conversation(each=VALUES)
def headers_compare_values_of_every_type(talk, value):
    a = _headers(talk, {"x-match": "all", "key": value})
    for name, other in VALUES.items():
        a.publish(talk.x, "", name.encode(), headers={"key": other})
    a.drain(talk.q)


@conversation(each={"unknown": "some", "number": 1, "void": None, "empty": "", "upper_case": "ALL"})
def headers_binding_with_a_bad_match(talk, value):
    _headers(talk, {"x-match": value, "a": 1})


@conversation
def headers_binding_removed(talk):
    a = _headers(talk, {"x-match": "any", "a": 1})
    a(QueueBind(talk.q, talk.x, arguments={"x-match": "any", "b": 1}))
    a(QueueUnbind(talk.q, talk.x, "ignored", {"x-match": "any", "a": 1}))
    a.publish(talk.x, "", b"a", headers={"a": 1}, mandatory=True)
    a.hear()
    a.publish(talk.x, "", b"b", headers={"b": 1})
    a.drain(talk.q)


@conversation
def direct_compares_whole_keys(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "direct"))
    a(QueueDeclare(talk.q, exclusive=True))
    for key in ("a.b", "", "*", "\u00fc"):
        a(QueueBind(talk.q, talk.x, key))
    for key in KEYS:
        a.publish(talk.x, key, key.encode())
    a.drain(talk.q)


@conversation
def fanout_ignores_keys(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "fanout"))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x, "one"))
    a(QueueBind(talk.q, talk.x, "two"))
    a.publish(talk.x, "three", b"once")
    a.drain(talk.q)
    a(QueueUnbind(talk.q, talk.x, "one"))
    a.publish(talk.x, "", b"again")
    a.drain(talk.q)
    a(QueueUnbind(talk.q, talk.x, "two"))
    a.publish(talk.x, "", b"never", mandatory=True)
    a.hear()


@conversation
def default_exchange_routes_by_queue_name(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a.publish("", talk.q, b"here")
    a.publish("", talk.q.upper(), b"nowhere", mandatory=True)
    a.hear()
    a.publish("", "", b"nowhere", mandatory=True)
    a.hear()
    a.drain(talk.q)


@conversation
def deleted_queue_gets_nothing(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, "amq.direct", talk.q))
    a(QueueDelete(talk.q))
    a.publish("amq.direct", talk.q, b"gone", mandatory=True)
    a.publish("", talk.q, b"gone", mandatory=True)
    a.hear(2)
    a(QueueDeclare(talk.q, exclusive=True))
    a.publish("amq.direct", talk.q, b"not bound any more", mandatory=True)
    a.hear()


@conversation
def exchange_to_exchange(talk):
    a = talk.channel()
    inner = talk.name("inner")
    a(ExchangeDeclare(talk.x, "topic"))
    a(ExchangeDeclare(inner, "direct"))
    a(ExchangeBind(inner, talk.x, "a.#"))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, inner, "a.b"))
    for key in ("a.b", "a.c", "b.b"):
        a.publish(talk.x, key, key.encode(), mandatory=True)
    a.hear(2)
    a.drain(talk.q)
    a(ExchangeUnbind(inner, talk.x, "a.#"))
    a.publish(talk.x, "a.b", b"unbound", mandatory=True)
    a.hear()


@conversation
def exchange_cycle_ends(talk):
    a = talk.channel()
    names = talk.names("one two three")
    for name in names:
        a(ExchangeDeclare(name, "fanout"))
    for source, destination in zip(names, (*names[1:], names[0]), strict=True):
        a(ExchangeBind(destination, source))
    a(QueueDeclare(talk.q, exclusive=True))
    for name in names:
        a(QueueBind(talk.q, name))
    a.publish(names[1], "", b"once")
    a.drain(talk.q)


@conversation
def diamond_delivers_once(talk):
    a = talk.channel()
    top, left, right = talk.names("top left right")
    for name in (top, left, right):
        a(ExchangeDeclare(name, "fanout"))
    for side in (left, right):
        a(ExchangeBind(side, top))
    a(QueueDeclare(talk.q, exclusive=True))
    for side in (left, right):
        a(QueueBind(talk.q, side))
    a.publish(top, "", b"once")
    a.drain(talk.q)


@conversation
def deleting_an_exchange_in_the_middle_cuts_the_way(talk):
    a = talk.channel()
    inner = talk.name("inner")
    a(ExchangeDeclare(talk.x, "fanout"))
    a(ExchangeDeclare(inner, "fanout"))
    a(ExchangeBind(inner, talk.x))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, inner))
    a(ExchangeDelete(inner))
    a.publish(talk.x, "", b"cut", mandatory=True)
    a.hear()
    a(ExchangeDeclare(inner, "fanout"))
    a(QueueBind(talk.q, inner))
    a.publish(talk.x, "", b"still cut", mandatory=True)
    a.hear()


def _with_alternate(talk, kind="direct"):
    a = talk.channel()
    other = talk.name("alternate")
    a(ExchangeDeclare(other, "fanout"))
    a(ExchangeDeclare(talk.x, kind, arguments={"alternate-exchange": other}))
    a(QueueDeclare(talk.q, exclusive=True))
    return a, other


@conversation
def alternate_exchange_takes_what_is_not_routed(talk):
    a, other = _with_alternate(talk)
    main = talk.name("main")
    a(QueueBind(talk.q, other))
    a(QueueDeclare(main, exclusive=True))
    a(QueueBind(main, talk.x, "known"))
    a.publish(talk.x, "known", b"known", mandatory=True)
    a.publish(talk.x, "unknown", b"unknown", mandatory=True)
    a.drain(main)
    a.drain(talk.q)


@conversation
def alternate_exchange_that_routes_nothing_returns(talk):
    a, _ = _with_alternate(talk)
    a.publish(talk.x, "unknown", b"unknown", mandatory=True)
    a.hear()


@conversation
def alternate_exchange_that_is_missing_returns(talk):
    a, other = _with_alternate(talk)
    a(ExchangeDelete(other))
    a.publish(talk.x, "unknown", b"unknown", mandatory=True)
    a.hear()


@conversation
def alternate_exchange_chains(talk):
    a = talk.channel()
    first, second, third = talk.names("first second third")
    a(ExchangeDeclare(third, "fanout"))
    a(ExchangeDeclare(second, arguments={"alternate-exchange": third}))
    a(ExchangeDeclare(first, arguments={"alternate-exchange": second}))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, third))
    a.publish(first, "key", b"through", mandatory=True)
    a.drain(talk.q)


@conversation
def alternate_exchange_cycle_ends(talk):
    a = talk.channel()
    first, second = talk.names("first second")
    a(ExchangeDeclare(first, arguments={"alternate-exchange": second}))
    a(ExchangeDeclare(second, arguments={"alternate-exchange": first}))
    a.publish(first, "key", b"round and round", mandatory=True)
    a.hear()


@conversation
def alternate_exchange_is_itself(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, arguments={"alternate-exchange": talk.x}))
    a.publish(talk.x, "key", b"round and round", mandatory=True)
    a.hear()


@conversation
def alternate_exchange_may_be_the_default_exchange(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, arguments={"alternate-exchange": ""}))
    a(QueueDeclare(talk.q, exclusive=True))
    a.publish(talk.x, talk.q, b"by name")
    a.drain(talk.q)


@conversation
def alternate_exchange_may_be_internal(talk):
    a = talk.channel()
    other = talk.name("other")
    a(ExchangeDeclare(other, "fanout", internal=True))
    a(ExchangeDeclare(talk.x, arguments={"alternate-exchange": other}))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, other))
    a.publish(talk.x, "key", b"through")
    a.drain(talk.q)


@conversation
def alternate_of_an_inner_exchange_is_used(talk):
    a, other = _with_alternate(talk)
    outer = talk.name("outer")
    a(ExchangeDeclare(outer, "fanout"))
    a(ExchangeBind(talk.x, outer))
    a(QueueBind(talk.q, other))
    a.publish(outer, "unknown", b"through", mandatory=True)
    a.drain(talk.q)


@conversation
def alternate_is_not_used_when_an_exchange_takes_it(talk):
    a, other = _with_alternate(talk, "fanout")
    dead_end = talk.name("dead_end")
    a(ExchangeDeclare(dead_end, "direct"))
    a(ExchangeBind(dead_end, talk.x))
    a(QueueBind(talk.q, other))
    a.publish(talk.x, "key", b"into the dead end", mandatory=True)
    a.hear()
    a.drain(talk.q)


@conversation
def alternate_exchange_by_policy(talk):
    a = talk.channel()
    b = talk.channel()
    name = f"by_policy.{talk.title}"
    a(ExchangeDeclare(name, "direct"))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, "amq.fanout"))
    a(ConfirmSelect())
    a.publish(name, "unknown", talk.title.encode(), mandatory=True)
    a.hear_confirms(1)
    b(ExchangeDelete(name))


CARBON = {
    "cc": {"CC": ["two"]},
    "bcc": {"BCC": ["two"]},
    "both": {"CC": ["two"], "BCC": ["three"]},
    "several": {"CC": ["two", "three"]},
    "same_key": {"CC": ["one", "one"]},
    "empty": {"CC": [], "BCC": []},
    "unknown_keys": {"CC": ["four", "five"]},
    "other_headers": {"x": 1, "BCC": ["two"], "y": [1]},
    "lower_case": {"cc": ["two"]},
}


@conversation(each=CARBON)
def carbon_copies(talk, message):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "direct"))
    queues = {key: talk.name(key) for key in ("one", "two", "three")}
    for key, queue in queues.items():
        a(QueueDeclare(queue, exclusive=True))
        a(QueueBind(queue, talk.x, key))
    a.publish(talk.x, "one", b"copied", headers=message, message_id="id", app_id="app")
    for queue in queues.values():
        a.drain(queue)


@conversation
def carbon_copies_on_the_default_exchange(talk):
    a = talk.channel()
    other = talk.name("other")
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueDeclare(other, exclusive=True))
    a.publish("", "nowhere", b"copied", headers={"CC": [talk.q], "BCC": [other]}, mandatory=True)
    a.drain(talk.q)
    a.drain(other)


@conversation
def carbon_copies_on_a_topic_exchange(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "topic"))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x, "*.b"))
    a.publish(talk.x, "a", b"once", headers={"CC": ["a.b", "c.b"]})
    a.drain(talk.q)


@conversation
def carbon_copies_go_through_exchange_bindings(talk):
    a = talk.channel()
    outer = talk.name("outer")
    a(ExchangeDeclare(outer, "fanout"))
    a(ExchangeDeclare(talk.x, "direct"))
    a(ExchangeBind(talk.x, outer))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x, "two"))
    a.publish(outer, "one", b"by copy", headers={"CC": ["two"]})
    a.drain(talk.q)


@conversation
def blind_copy_is_removed_before_a_return(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "direct"))
    a.publish(talk.x, "one", b"x", headers={"CC": ["two"], "BCC": ["three"]}, mandatory=True)
    a.hear()


BAD_CARBON = {
    "cc_string": {"CC": "two"},
    "bcc_string": {"BCC": "two"},
    "cc_number": {"CC": 5},
    "cc_void": {"CC": None},
    "cc_of_numbers": {"CC": [1, 2]},
    "cc_mixed": {"CC": ["two", 2]},
    "cc_of_tables": {"CC": [{"a": 1}]},
}


@conversation(each=BAD_CARBON)
def carbon_copies_that_are_no_list_of_keys(talk, message):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a.publish("", talk.q, b"x", headers=message)
    a(BasicGet(talk.q, no_ack=True))
