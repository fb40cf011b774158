"""Exchanges: declared, declared again, looked for and deleted; bound to each other."""

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

from .conversation import conversation, differs

PREDECLARED = {
    "direct": ("amq.direct", "direct"),
    "fanout": ("amq.fanout", "fanout"),
    "topic": ("amq.topic", "topic"),
    "headers": ("amq.headers", "headers"),
    "match": ("amq.match", "headers"),
}
TYPES = {name: name for name in ("direct", "fanout", "topic", "headers")}


@conversation(each=TYPES)
def exchange_of_each_type(talk, kind):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind))
    a(ExchangeDeclare(talk.x, passive=True))
    a(ExchangeDeclare(talk.x, kind))
    a(ExchangeDelete(talk.x))
    a(ExchangeDeclare(talk.x, passive=True))


def _unknown(kind: str, *heard: str):
    return differs(
        "406 on the channel since 3.13",
        *heard,
        "a1 < channel.close 406"
        f""" "PRECONDITION_FAILED - unknown exchange type '{kind}'" at exchange.declare""",
    )


UNKNOWN = {"unknown": "x-none", "empty": "", "upper_case": "Direct", "umlaut": "f\u00e4nout"}


@conversation(each=UNKNOWN, unless={label: _unknown(kind) for label, kind in UNKNOWN.items()})
def exchange_of_unknown_type(talk, kind):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, kind))


@conversation(unless=_unknown("x-none", "a1 < exchange.declare-ok"))
def exchange_of_unknown_type_under_an_existing_name(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "direct"))
    a(ExchangeDeclare(talk.x, "x-none"))


@conversation
def passive_declare_looks_at_the_name_only(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "direct"))
    a(ExchangeDeclare(talk.x, "x-none", passive=True, durable=True, arguments={"x-odd": 1}))


@conversation
def passive_declare_of_a_missing_exchange(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, passive=True))


@conversation(each=PREDECLARED)
def predeclared_exchange_declared_alike(talk, name, kind):
    a = talk.channel()
    a(ExchangeDeclare(name, kind, durable=True))


@conversation(each=PREDECLARED)
def predeclared_exchange_declared_differently(talk, name, kind):
    a = talk.channel()
    a(ExchangeDeclare(name, kind))


@conversation(each=PREDECLARED)
def predeclared_exchange_is_not_deleted(talk, name, kind):
    a = talk.channel()
    a(ExchangeDelete(name))


@conversation
def trace_exchange(talk):
    a = talk.channel()
    a(ExchangeDeclare("amq.rabbitmq.trace", "topic", durable=True, internal=True))
    a.publish("amq.rabbitmq.trace", "key")
    a.quiet()


@conversation(each={"declare": False, "passive": True})
def reserved_exchange_name(talk, passive):
    a = talk.channel()
    a(ExchangeDeclare("amq.mine", "direct", passive=passive))


@conversation
def reserved_exchange_name_deleted(talk):
    a = talk.channel()
    a(ExchangeDelete("amq.none"))


@conversation
def name_that_only_resembles_a_reserved_one(talk):
    a = talk.channel()
    a(ExchangeDeclare("amq", "direct"))
    a(ExchangeDelete("amq"))
    a(ExchangeDeclare("AMQ.x", "direct"))
    a(ExchangeDelete("AMQ.x"))


DEFAULT = {
    "declare": ExchangeDeclare("", "direct", durable=True),
    "passive": ExchangeDeclare("", "direct", passive=True),
    "delete": ExchangeDelete(""),
    "bind_source": ExchangeBind("amq.fanout", "", "key"),
    "bind_destination": ExchangeBind("", "amq.fanout", "key"),
    "unbind_source": ExchangeUnbind("amq.fanout", "", "key"),
    "unbind_destination": ExchangeUnbind("", "amq.fanout", "key"),
}


@conversation(each=DEFAULT)
def default_exchange_is_not_to_be_touched(talk, method):
    a = talk.channel()
    a(method)


@conversation
def default_exchange_does_not_bind_queues(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, "", "key"))


@conversation
def default_exchange_does_not_unbind_queues(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueUnbind(talk.q, "", talk.q))


DIFFERENT = {
    "type": ({}, {"type": "fanout"}),
    "durable": ({"durable": True}, {}),
    "not_durable": ({}, {"durable": True}),
    "auto_delete": ({"auto_delete": True}, {}),
    "not_auto_delete": ({}, {"auto_delete": True}),
    "internal": ({"internal": True}, {}),
    "not_internal": ({}, {"internal": True}),
    "alternate_missing": ({"arguments": {"alternate-exchange": "a"}}, {}),
    "alternate_added": ({}, {"arguments": {"alternate-exchange": "a"}}),
    "alternate_other": (
        {"arguments": {"alternate-exchange": "a"}},
        {"arguments": {"alternate-exchange": "b"}},
    ),
    "several": ({"durable": True}, {"type": "topic", "auto_delete": True}),
}


@conversation(each=DIFFERENT)
def exchange_declared_differently(talk, first, second):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, **first))
    a(ExchangeDeclare(talk.x, **second))


@conversation
def unknown_arguments_of_an_exchange_are_not_compared(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, arguments={"x-odd": 1}))
    a(ExchangeDeclare(talk.x, arguments={"x-odd": "two"}))
    a(ExchangeDeclare(talk.x))


@conversation(each={"number": 5, "bool": True, "table": {"a": 1}, "void": None, "empty": ""})
def alternate_exchange_of_another_type(talk, value):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, arguments={"alternate-exchange": value}))


@conversation
def deleting_a_missing_exchange_is_fine(talk):
    a = talk.channel()
    a(ExchangeDelete(talk.x))
    a(ExchangeDelete(talk.x, if_unused=True))


@conversation
def deleting_an_exchange_in_use(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x, "key"))
    a(ExchangeDelete(talk.x, if_unused=True))


@conversation
def exchange_that_is_only_a_destination_is_unused(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x))
    a(ExchangeBind(talk.x, "amq.fanout", talk.x))
    a(ExchangeDelete(talk.x, if_unused=True))


@conversation
def deleting_an_exchange_removes_its_bindings(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x, "key"))
    a(ExchangeDelete(talk.x))
    a(ExchangeDeclare(talk.x))
    a.publish(talk.x, "key", b"x", mandatory=True)
    a.hear()


@conversation
def no_wait_gives_no_answer(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "fanout", no_wait=True))
    a(ExchangeDeclare(talk.name("y"), "fanout", no_wait=True))
    a(ExchangeBind(talk.name("y"), talk.x, no_wait=True))
    a(QueueDeclare(talk.q, exclusive=True, no_wait=True))
    a(QueueBind(talk.q, talk.name("y"), no_wait=True))
    a.publish(talk.x, "", b"through")
    a(BasicGet(talk.q, no_ack=True))
    a(ExchangeUnbind(talk.name("y"), talk.x, no_wait=True))
    a(ExchangeDelete(talk.x, no_wait=True))
    a(QueueDelete(talk.q, no_wait=True))
    a(QueueDeclare(talk.q, passive=True))


@conversation
def no_wait_still_gives_errors(talk):
    a = talk.channel()
    a(ExchangeDeclare("amq.new", "fanout", no_wait=True))
    a.quiet()


@conversation
def auto_delete_exchange_goes_with_its_last_binding(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, auto_delete=True))
    a(ExchangeDeclare(talk.x, passive=True))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x, "one"))
    a(QueueBind(talk.q, talk.x, "two"))
    a(QueueUnbind(talk.q, talk.x, "one"))
    a(ExchangeDeclare(talk.x, passive=True))
    a(QueueUnbind(talk.q, talk.x, "two"))
    a(ExchangeDeclare(talk.x, passive=True))


@conversation
def auto_delete_exchange_goes_with_its_last_queue(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, auto_delete=True))
    a(QueueDeclare(talk.q))
    a(QueueBind(talk.q, talk.x, "one"))
    a(QueueDelete(talk.q))
    a(ExchangeDeclare(talk.x, passive=True))


@conversation
def auto_delete_exchange_stays_when_it_was_a_destination(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, auto_delete=True))
    a(ExchangeBind(talk.x, "amq.direct", talk.x))
    a(ExchangeUnbind(talk.x, "amq.direct", talk.x))
    a(ExchangeDeclare(talk.x, passive=True))
    a(ExchangeDelete(talk.x))


@conversation
def auto_delete_goes_along_a_chain(talk):
    a = talk.channel()
    first, second = talk.names("first second")
    a(ExchangeDeclare(first, auto_delete=True))
    a(ExchangeDeclare(second, auto_delete=True))
    a(QueueDeclare(talk.q))
    a(ExchangeBind(second, first, "key"))
    a(QueueBind(talk.q, second, "key"))
    a(QueueDelete(talk.q))
    b = a.peer.channel()
    a(ExchangeDeclare(first, passive=True))
    b(ExchangeDeclare(second, passive=True))


@conversation
def publishing_to_an_internal_exchange(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "fanout", internal=True))
    a.publish(talk.x, "", b"x")
    a.quiet()


@conversation
def internal_exchange_routes_what_another_passes_on(talk):
    a = talk.channel()
    outer = talk.name("outer")
    a(ExchangeDeclare(talk.x, "fanout", internal=True))
    a(ExchangeDeclare(outer, "fanout"))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x))
    a(ExchangeBind(talk.x, outer))
    a.publish(outer, "", b"x")
    a(BasicGet(talk.q, no_ack=True))


@conversation(
    each={
        "source": ExchangeBind("amq.direct", "no such exchange", "key"),
        "destination": ExchangeBind("no such exchange", "amq.direct", "key"),
        "both": ExchangeBind("no such exchange", "nor this one", "key"),
        "unbind_source": ExchangeUnbind("amq.direct", "no such exchange", "key"),
        "unbind_destination": ExchangeUnbind("no such exchange", "amq.direct", "key"),
        "unbind_neither": ExchangeUnbind("amq.topic", "amq.direct", "never bound"),
    }
)
def binding_a_missing_exchange(talk, method):
    a = talk.channel()
    a(method)


@conversation
def exchange_names_lose_line_ends(talk):
    a = talk.channel()
    a(ExchangeDeclare(f"{talk.x}\r\nend", "fanout"))
    a(ExchangeDeclare(f"{talk.x}end", "fanout", passive=True))


@conversation
def exchange_bound_to_itself(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x, "fanout"))
    a(ExchangeBind(talk.x, talk.x))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x))
    a(ConfirmSelect())
    a.publish(talk.x, "", b"once")
    a.hear_confirms(1)
    a.drain(talk.q)


@conversation
def long_names_are_fine(talk):
    a = talk.channel()
    name = talk.x.ljust(255, "x")
    a(ExchangeDeclare(name, "fanout"))
    a(ExchangeDeclare(name, "direct"))


@conversation
def any_text_may_be_a_name(talk):
    a = talk.channel()
    for name in ("\u00fcml\u00e4ut", "\u6f22\u5b57", " space ", "quote'", "%", "\x01", "a/b"):
        a(ExchangeDeclare(talk.name(name), "fanout"))
        a(ExchangeDelete(talk.name(name)))
