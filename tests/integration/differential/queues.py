"""Queues: declared, declared again, looked for, bound, purged and deleted."""

from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    ChannelClose,
    ConfirmSelect,
    ExchangeDeclare,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    QueuePurge,
    QueueUnbind,
)

from .conversation import conversation


@conversation
def queue_declared_again(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a(QueueDeclare(talk.q))
    a(QueueDeclare(talk.q, passive=True))
    a(QueueDelete(talk.q))


@conversation
def queue_named_by_the_server(talk):
    a = talk.channel()
    first = a(QueueDeclare(exclusive=True))
    a(QueueDeclare(exclusive=True))
    a(QueueDeclare(first.queue, passive=True))


@conversation
def name_made_by_the_server_is_reserved_when_declared(talk):
    a = talk.channel()
    first = a(QueueDeclare(exclusive=True))
    a(QueueDeclare(first.queue, exclusive=True))


@conversation(each={"declare": {}, "passive": {"passive": True}, "exclusive": {"exclusive": True}})
def reserved_queue_name(talk, options):
    a = talk.channel()
    a(QueueDeclare("amq.mine", **options))


@conversation
def passive_declare_of_a_missing_queue(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, passive=True))


@conversation
def passive_declare_without_a_name(talk):
    a = talk.channel()
    a(QueueDeclare(passive=True))


@conversation
def passive_declare_without_a_name_after_another(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueDeclare(passive=True))


@conversation
def passive_declare_compares_nothing_but_exclusivity(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(
        QueueDeclare(
            talk.q, passive=True, durable=True, auto_delete=True, arguments={"x-expires": 1}
        )
    )


DIFFERENT = {
    "durable": ({"durable": True}, {}),
    "not_durable": ({}, {"durable": True}),
    "auto_delete": ({"auto_delete": True}, {}),
    "not_auto_delete": ({}, {"auto_delete": True}),
    "exclusive": ({"exclusive": True}, {}),
    "not_exclusive": ({}, {"exclusive": True}),
    "exclusive_ignores_durable": ({"exclusive": True, "durable": True}, {"exclusive": True}),
    "exclusive_and_durable": ({"exclusive": True}, {"exclusive": True, "durable": True}),
    "several": ({"durable": True, "auto_delete": True}, {}),
}


@conversation(each=DIFFERENT)
def queue_declared_differently(talk, first, second):
    a = talk.channel()
    a(QueueDeclare(talk.q, **first))
    a(QueueDeclare(talk.q, **second))


FOREIGN = {
    "declare": lambda q: QueueDeclare(q, exclusive=True),
    "declare_shared": QueueDeclare,
    "passive": lambda q: QueueDeclare(q, passive=True),
    "bind": lambda q: QueueBind(q, "amq.fanout"),
    "unbind": lambda q: QueueUnbind(q, "amq.fanout"),
    "purge": QueuePurge,
    "delete": QueueDelete,
    "get": BasicGet,
    "consume": BasicConsume,
}


@conversation(each=FOREIGN)
def exclusive_queue_of_another_connection(talk, make):
    a = talk.channel()
    b = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    b(make(talk.q))


@conversation(each=FOREIGN)
def exclusive_queue_of_the_same_connection(talk, make):
    a = talk.channel()
    b = a.peer.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    b(make(talk.q))


@conversation
def publishing_to_an_exclusive_queue_of_another_connection(talk):
    a = talk.channel()
    b = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    b(ConfirmSelect())
    b.publish("", talk.q, b"x", mandatory=True)
    b.hear_confirms(1)
    a(BasicGet(talk.q, no_ack=True))


MISSING = {
    "bind": lambda q: QueueBind(q, "amq.fanout"),
    "bind_exchange": lambda q: QueueBind(q, "no such exchange"),
    "unbind": lambda q: QueueUnbind(q, "amq.fanout"),
    "unbind_exchange": lambda q: QueueUnbind(q, "no such exchange"),
    "purge": QueuePurge,
    "delete": QueueDelete,
    "delete_if_unused": lambda q: QueueDelete(q, if_unused=True, if_empty=True),
    "get": BasicGet,
    "consume": BasicConsume,
}


@conversation(each=MISSING)
def missing_queue(talk, make):
    a = talk.channel()
    a(make(talk.q))


@conversation(each=MISSING)
def empty_name_without_a_declared_queue(talk, make):
    a = talk.channel()
    a(make(""))


@conversation(each=MISSING)
def empty_name_means_the_queue_declared_last(talk, make):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(make(""))


@conversation
def empty_name_of_a_deleted_queue(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueDelete(talk.q))
    a(QueuePurge(""))


@conversation
def empty_name_is_remembered_from_passive_declares_too(talk):
    a = talk.channel()
    b = a.peer.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    b(QueueDeclare(talk.q, passive=True))
    b(QueuePurge(""))


@conversation
def empty_key_and_name_bind_by_the_name_of_the_queue(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind("", talk.x, ""))
    a.publish(talk.x, talk.q, b"by name")
    a.publish(talk.x, "", b"by empty key", mandatory=True)
    a.hear()
    a.drain(talk.q)
    a(QueueUnbind("", talk.x, ""))
    a.publish(talk.x, talk.q, b"unbound", mandatory=True)
    a.hear()


@conversation
def empty_key_with_a_name_stays_empty(talk):
    a = talk.channel()
    a(ExchangeDeclare(talk.x))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x, ""))
    a.publish(talk.x, talk.q, b"by name", mandatory=True)
    a.hear()
    a(QueueUnbind(talk.q, talk.x, ""))


@conversation
def binding_to_a_missing_exchange(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, talk.x, "key"))


@conversation
def unbinding_what_was_never_bound(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueUnbind(talk.q, "amq.direct", "key"))
    a(QueueUnbind(talk.q, "amq.direct", "key", {"a": 1}))


@conversation
def binding_twice_is_binding_once(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, "amq.direct", talk.q))
    a(QueueBind(talk.q, "amq.direct", talk.q))
    a.publish("amq.direct", talk.q, b"once")
    a.drain(talk.q)
    a(QueueUnbind(talk.q, "amq.direct", talk.q))
    a.publish("amq.direct", talk.q, b"unbound", mandatory=True)
    a.hear()


@conversation
def arguments_tell_bindings_apart(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, "amq.direct", talk.q, arguments={"a": 1, "b": 2}))
    a(QueueBind(talk.q, "amq.direct", talk.q))
    a(QueueUnbind(talk.q, "amq.direct", talk.q))
    a.publish("amq.direct", talk.q, b"still bound")
    a.drain(talk.q)
    a(QueueUnbind(talk.q, "amq.direct", talk.q, {"b": 2, "a": 1}))
    a.publish("amq.direct", talk.q, b"unbound", mandatory=True)
    a.hear()


@conversation
def purge_counts_ready_messages_only(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    for body in (b"1", b"2", b"3"):
        a.publish("", talk.q, body)
    a(BasicGet(talk.q))
    a(QueuePurge(talk.q))
    a(QueuePurge(talk.q))
    a(ChannelClose())
    b = a.peer.channel()
    b.count(talk.q, 1)
    b.drain(talk.q)


@conversation
def delete_counts_ready_messages_only(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    for body in (b"1", b"2", b"3"):
        a.publish("", talk.q, body)
    a(BasicGet(talk.q))
    a(QueueDelete(talk.q))
    a(BasicAck(1))
    a(QueueDeclare(talk.q))


@conversation
def delete_if_empty(talk):
    a = talk.channel()
    b = a.peer.channel()
    a(QueueDeclare(talk.q))
    a.publish("", talk.q, b"x")
    a(QueueDelete(talk.q, if_empty=True))
    b(BasicGet(talk.q))
    b(QueueDelete(talk.q, if_empty=True))


@conversation
def delete_if_unused(talk):
    a = talk.channel()
    b = a.peer.channel()
    a(QueueDeclare(talk.q))
    b(BasicConsume(talk.q, "tag"))
    a(QueueDelete(talk.q, if_unused=True))
    b(BasicCancel("tag"))
    b(QueueDelete(talk.q, if_unused=True))


@conversation
def delete_if_unused_and_empty_says_in_use_first(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"x")
    a.hear()
    a.publish("", talk.q, b"x")
    a.hear()
    a(QueueDelete(talk.q, if_unused=True, if_empty=True))


@conversation
def declare_counts_ready_messages_and_consumers(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    for body in (b"1", b"2", b"3"):
        a.publish("", talk.q, body)
    a.count(talk.q, 3)
    a(BasicGet(talk.q))
    a.count(talk.q, 2)
    a(BasicConsume(talk.q, "tag"))
    a.hear(2)
    a.count(talk.q, 0)
    a(QueueDeclare(talk.q))


@conversation
def auto_delete_queue_goes_with_its_last_consumer(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, auto_delete=True))
    a(BasicConsume(talk.q, "one"))
    a(BasicConsume(talk.q, "two"))
    a(BasicCancel("one"))
    a(QueueDeclare(talk.q, passive=True))
    a(BasicCancel("two"))
    a.gone(talk.q)


@conversation
def auto_delete_queue_goes_with_the_channel(talk):
    a = talk.channel()
    b = a.peer.channel()
    a(QueueDeclare(talk.q, auto_delete=True))
    a(BasicConsume(talk.q, "one"))
    a(ChannelClose())
    b.gone(talk.q)


@conversation
def auto_delete_queue_goes_with_the_connection(talk):
    a = talk.channel()
    b = talk.channel()
    a(QueueDeclare(talk.q, auto_delete=True))
    a(BasicConsume(talk.q, "one"))
    a.peer.close()
    b.gone(talk.q)


@conversation
def auto_delete_queue_never_consumed_stays(talk):
    a = talk.channel()
    b = talk.channel()
    a(QueueDeclare(talk.q, auto_delete=True))
    a.publish("", talk.q, b"x")
    a(BasicGet(talk.q, no_ack=True))
    a.peer.close()
    b(QueueDeclare(talk.q, passive=True))
    b(QueueDelete(talk.q))


@conversation
def queue_names_lose_line_ends(talk):
    a = talk.channel()
    a(QueueDeclare(f"{talk.q}\r\nend", exclusive=True))
    a(QueueDeclare(f"{talk.q}end", passive=True))
    a(QueueDelete(f"{talk.q}\nend"))


@conversation
def name_of_line_ends_only(talk):
    a = talk.channel()
    a(QueueDeclare("\r\n", exclusive=True))


@conversation
def long_queue_name(talk):
    a = talk.channel()
    name = talk.q.ljust(255, "q")
    a(QueueDeclare(name, exclusive=True))
    a(QueueDeclare(name))


@conversation
def error_text_is_cut_at_255_octets(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q.ljust(250, "\u00fc"[0:1])[:120], passive=True))


@conversation
def no_wait_declare_without_a_name_sets_the_last_queue(talk):
    a = talk.channel()
    a(QueueDeclare(exclusive=True, no_wait=True))
    a(QueueBind("", "amq.direct", talk.q))
    a.publish("amq.direct", talk.q, b"x")
    a(BasicGet("", no_ack=True))


@conversation
def queue_and_exchange_may_share_a_name(talk):
    a = talk.channel()
    a(QueueDeclare("amq_like", exclusive=True))
    a(QueueDeclare(talk.q, exclusive=True))
    a(QueueBind(talk.q, "amq.topic", "a.key"))
    a(QueueUnbind(talk.q, "amq.topic", "a.key"))


@conversation
def more_queues_than_the_virtual_host_may_have(talk):
    a = talk.channel(vhost="small")
    first, second, third = talk.names("first second third")
    a(QueueDeclare(first))
    a(QueueDeclare(second, exclusive=True))
    a(QueueDeclare(first))
    a(QueueDeclare(third, passive=True))
    b = a.peer.channel()
    b(QueueDeclare(third))
