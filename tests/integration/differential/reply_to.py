"""Direct reply-to: answers without a queue."""

from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    ChannelClose,
    ConfirmSelect,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    QueuePurge,
)

from .conversation import conversation, differs, reworded

REPLY_TO = "amq.rabbitmq.reply-to"


def _asked(talk):
    """Return a requester, a responder and the address to answer to."""
    a = talk.channel()
    b = talk.channel()
    b(QueueDeclare(talk.q, exclusive=True))
    a(BasicConsume(REPLY_TO, "replies", no_ack=True))
    a(ConfirmSelect())
    a.publish("", talk.q, b"question", reply_to=REPLY_TO, correlation_id="1")
    a.hear_confirms(1)
    b.send(BasicGet(talk.q, no_ack=True))
    (event,) = b.hear()
    return a, b, event.properties.reply_to


SECOND = "redelivered=False exchange='' routing_key='amq.rabbitmq.reply-to.(1)' b'another answer'"


@conversation(
    unless=reworded(
        "replies are counted like all deliveries",
        (f"delivery_tag=1 {SECOND}", f"delivery_tag=2 {SECOND}"),
    )
)
def question_and_answer(talk):
    a, b, address = _asked(talk)
    b.publish("", address, b"answer", correlation_id="1", headers={"a": 1})
    a.hear()
    b.publish("", address, b"another answer")
    a.hear()


@conversation(
    unless=differs(
        "an answer that is delivered counts as routed",
        "b1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0",
        "a1 < basic.consume-ok consumer_tag='replies'",
        "a1 < confirm.select-ok",
        "a1 < confirms [1]",
        "b1 < basic.get-ok delivery_tag=1 redelivered=False exchange='' routing_key='~q'"
        " message_count=0 correlation_id='1' reply_to='amq.rabbitmq.reply-to.(1)' b'question'",
        "b1 < confirm.select-ok",
        "b1 < confirms [1]",
        "a1 < basic.deliver consumer_tag='replies' delivery_tag=1 redelivered=False exchange=''"
        " routing_key='amq.rabbitmq.reply-to.(1)' b'answer'",
    )
)
def mandatory_answer_is_not_returned(talk):
    a, b, address = _asked(talk)
    b(ConfirmSelect())
    b.publish("", address, b"answer", mandatory=True)
    b.hear_confirms(1)
    a.hear()


@conversation
def answer_after_the_requester_left(talk):
    a, b, address = _asked(talk)
    a.peer.close()
    b(ConfirmSelect())
    b.publish("", address, b"too late", mandatory=True)
    b.hear_confirms(1)


@conversation
def answer_after_the_channel_closed(talk):
    a, b, address = _asked(talk)
    a(ChannelClose())
    b.publish("", address, b"too late")
    b.gone(address)


@conversation
def answer_after_cancel(talk):
    a, b, address = _asked(talk)
    a(BasicCancel("replies"))
    b(ConfirmSelect())
    b.publish("", address, b"too late")
    b.hear_confirms(1)
    a.quiet()


@conversation
def declaring_the_address(talk):
    _a, b, address = _asked(talk)
    b(QueueDeclare(address))
    b(QueueDeclare(address, passive=True))


@conversation(each={"plain": {}, "passive": {"passive": True}, "durable": {"durable": True}})
def declaring_the_pseudo_queue(talk, options):
    a = talk.channel()
    a(QueueDeclare(REPLY_TO, **options))


@conversation(each={"nonsense": "nonsense", "empty": ""})
def declaring_an_address_that_is_none(talk, suffix):
    a = talk.channel()
    a(QueueDeclare(f"{REPLY_TO}.{suffix}", passive=True))


@conversation
def publishing_to_an_address_that_is_none(talk):
    a = talk.channel()
    a(ConfirmSelect())
    a.publish("", f"{REPLY_TO}.nonsense", b"x", mandatory=True)
    a.hear_confirms(1)


@conversation
def publishing_to_the_pseudo_queue(talk):
    a = talk.channel()
    a.publish("", REPLY_TO, b"x", mandatory=True)
    a.hear()


@conversation
def asking_without_consuming(talk):
    a = talk.channel()
    a.publish("", "nowhere", b"question", reply_to=REPLY_TO)
    a.quiet()


@conversation
def asking_on_another_channel(talk):
    a = talk.channel()
    b = a.peer.channel()
    a(BasicConsume(REPLY_TO, "replies", no_ack=True))
    b.publish("", "nowhere", b"question", reply_to=REPLY_TO)
    b.quiet()


@conversation
def replies_are_not_acknowledged(talk):
    a = talk.channel()
    a(BasicConsume(REPLY_TO, "replies"))


@conversation
def one_reply_consumer_a_channel(talk):
    a = talk.channel()
    a(BasicConsume(REPLY_TO, "one", no_ack=True))
    a(BasicConsume(REPLY_TO, "two", no_ack=True))


@conversation
def another_reply_consumer_after_cancel(talk):
    a = talk.channel()
    a(BasicConsume(REPLY_TO, "one", no_ack=True))
    a(BasicCancel("one"))
    a(BasicConsume(REPLY_TO, "two", no_ack=True))


@conversation
def reply_consumer_with_a_tag_in_use(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(BasicConsume(talk.q, "one"))
    a(BasicConsume(REPLY_TO, "one", no_ack=True))


@conversation
def reply_consumer_with_a_tag_of_the_server(talk):
    a = talk.channel()
    a(BasicConsume(REPLY_TO, no_ack=True))


@conversation
def exclusive_reply_consumer(talk):
    a = talk.channel()
    a(BasicConsume(REPLY_TO, "one", no_ack=True, exclusive=True))


@conversation
def addresses_of_two_questions_are_the_same(talk):
    a, b, address = _asked(talk)
    a.publish("", talk.q, b"second question", reply_to=REPLY_TO)
    a.hear_confirms(1)
    b(BasicGet(talk.q, no_ack=True))
    b.publish("", address, b"answer")
    a.hear()


@conversation(
    each={
        "bind": QueueBind(REPLY_TO, "amq.direct", "key"),
        "get": BasicGet(REPLY_TO),
        "purge": QueuePurge(REPLY_TO),
        "delete": QueueDelete(REPLY_TO),
    }
)
def pseudo_queue_is_no_queue(talk, method):
    a = talk.channel()
    a(BasicConsume(REPLY_TO, "one", no_ack=True))
    a(method)


@conversation
def answer_through_another_exchange_does_not_arrive(talk):
    a, b, address = _asked(talk)
    b.publish("amq.direct", address, b"answer", mandatory=True)
    b.hear()
    a.quiet()


@conversation
def replies_count_as_deliveries(talk):
    a, b, address = _asked(talk)
    b.publish("", address, b"answer")
    a.hear()
    a(BasicAck(1))
    a.quiet()


@conversation
def answer_with_copies(talk):
    a, b, address = _asked(talk)
    b.publish("", "nowhere", b"copied", headers={"CC": [address]})
    a.hear()


@conversation
def other_reply_to_is_left_alone(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a.publish("", talk.q, b"x", reply_to=f"{REPLY_TO}.of.my.own")
    a.publish("", talk.q, b"x", reply_to="a queue")
    a.drain(talk.q)
