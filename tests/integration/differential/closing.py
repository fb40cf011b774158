"""Channels and connections that end, in every state they may be in."""

from leveret.protocol.methods import (
    AccessRequest,
    BasicAck,
    BasicConsume,
    BasicGet,
    BasicPublish,
    BasicQos,
    ChannelClose,
    ChannelCloseOk,
    ChannelFlow,
    ChannelOpen,
    ConfirmSelect,
    ConnectionBlocked,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionUnblocked,
    QueueBind,
    QueueDeclare,
    TxSelect,
)

from .conversation import conversation
from .talk import HEADER, METHOD, frame, method_frame

MISSING = QueueDeclare("no such queue anywhere", passive=True)


def _prepared(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    for body in (b"1", b"2", b"3"):
        a.publish("", talk.q, body)
    return a


@conversation
def method_on_an_unopened_channel(talk):
    talk.connect().unopened(5)(BasicQos())


@conversation
def close_on_an_unopened_channel(talk):
    talk.connect().unopened(5)(ChannelClose())


@conversation
def close_ok_on_an_unopened_channel(talk):
    peer = talk.connect()
    peer.unopened(5).send(ChannelCloseOk())
    peer.unopened(5)(BasicQos())


@conversation
def close_ok_on_an_open_channel(talk):
    a = talk.channel()
    a.send(ChannelCloseOk())
    a(BasicQos())


@conversation
def channel_opened_closed_and_opened_again(talk):
    a = talk.channel()
    a(ChannelClose(200, "bye"))
    a(ChannelOpen())
    a(QueueDeclare(talk.q, exclusive=True))


@conversation
def method_on_a_closed_channel(talk):
    a = talk.channel()
    a(ChannelClose())
    a(BasicQos())


@conversation
def content_on_a_closed_channel(talk):
    a = talk.channel()
    a(ChannelClose())
    a.publish("", "nowhere", b"late")
    a.peer.end()


@conversation
def number_is_reusable_after_an_error(talk):
    a = talk.channel()
    a(MISSING)
    a(ChannelOpen())
    a(QueueDeclare(talk.q, exclusive=True))
    a(MISSING)
    a(ChannelOpen())


@conversation
def error_of_one_channel_leaves_the_others_alone(talk):
    a = talk.channel()
    b = a.peer.channel()
    a(MISSING)
    b(QueueDeclare(talk.q, exclusive=True))


@conversation
def what_follows_an_error_is_dropped_until_close_ok(talk):
    a = talk.channel()
    a.polite = False
    a(MISSING)
    a.send(QueueDeclare(talk.q))
    a.publish("", "nowhere", b"dropped", mandatory=True)
    a.send(BasicAck(99))
    a.send(ChannelCloseOk())
    a(ChannelOpen())
    a(QueueDeclare(talk.q, passive=True))


@conversation
def error_in_the_middle_of_a_pipeline(talk):
    a = talk.channel()
    a.polite = False
    for method in (QueueDeclare(talk.q, exclusive=True), MISSING, BasicQos(), BasicQos()):
        a.send(method)
    a.hear(2)
    a.send(ChannelCloseOk())
    a(ChannelOpen())


@conversation
def open_before_close_ok(talk):
    a = talk.channel()
    a.polite = False
    a(MISSING)
    a(ChannelOpen())


@conversation
def closes_that_cross(talk):
    a = talk.channel()
    a.polite = False
    a.send(MISSING)
    a.send(ChannelClose())
    a.hear(2)
    a.send(ChannelCloseOk())
    a(ChannelOpen())


@conversation
def two_errors_give_one_close(talk):
    a = talk.channel()
    a.polite = False
    a.send(MISSING)
    a.send(MISSING)
    a.hear()
    a.send(ChannelCloseOk())
    a(ChannelOpen())


@conversation
def close_ok_in_the_middle_of_a_content(talk):
    a = talk.channel()
    a.polite = False
    a(MISSING)
    publish, header, _body = a.publish_frames(BasicPublish("", talk.q), b"x")
    a.peer.say_bytes(publish + header, "method and header of a content")
    a.send(ChannelCloseOk())
    a(ChannelOpen())


@conversation
def closing_a_channel_requeues(talk):
    a = _prepared(talk)
    b = a.peer.channel()
    a(BasicGet(talk.q))
    a(BasicGet(talk.q))
    a(ChannelClose())
    b.count(talk.q, 3)
    b(BasicGet(talk.q))
    b(BasicGet(talk.q))
    b(BasicGet(talk.q))
    b(BasicGet(talk.q))


@conversation
def error_requeues_and_ends_consumers(talk):
    a = _prepared(talk)
    b = a.peer.channel()
    a(BasicConsume(talk.q, "tag"))
    a.hear(3)
    a(MISSING)
    b.count(talk.q, 3, 0)
    b.drain(talk.q)


@conversation
def closing_a_channel_with_open_transaction_drops_it(talk):
    a = talk.channel()
    b = a.peer.channel()
    a(QueueDeclare(talk.q))
    a(TxSelect())
    a.publish("", talk.q, b"never")
    a(ChannelClose())
    b.count(talk.q, 0)


@conversation
def closing_a_channel_with_half_a_content(talk):
    a = talk.channel()
    publish, *_ = a.publish_frames(BasicPublish("", talk.q), b"x")
    a.peer.say_bytes(publish, "the method of a content")
    a(ChannelClose())


@conversation
def closing_a_connection_with_half_a_content(talk):
    a = talk.channel()
    publish, *_ = a.publish_frames(BasicPublish("", talk.q), b"x")
    a.peer.say_bytes(publish, "the method of a content")
    a.peer.close()


@conversation
def closing_a_connection_requeues(talk):
    a = _prepared(talk)
    b = talk.channel()
    a(BasicGet(talk.q))
    a(BasicConsume(talk.q, "tag"))
    a.hear(2)
    a.peer.close()
    b.count(talk.q, 3, 0)
    b.drain(talk.q)


@conversation
def hanging_up_requeues(talk):
    a = _prepared(talk)
    b = talk.channel()
    a(BasicQos(prefetch_count=2))
    a(BasicConsume(talk.q, "tag"))
    a.hear(2)
    b(BasicConsume(talk.q, "other"))
    b.hear(1)
    a.peer.drop()
    b.hear(2)


@conversation
def closing_a_connection_deletes_exclusive_queues_first(talk):
    a = talk.channel()
    b = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a.peer.close()
    b(QueueDeclare(talk.q, passive=True))


@conversation
def connection_close_is_answered_with_channels_open(talk):
    peer = talk.connect()
    a, b = peer.channel(), peer.channel()
    a(ConfirmSelect())
    b(TxSelect())
    peer.close()


@conversation
def connection_error_ends_all(talk):
    peer = talk.connect()
    a, b = peer.channel(), peer.channel()
    b(BasicQos(prefetch_size=1))
    a(BasicQos())


@conversation
def what_follows_a_connection_error_is_dropped(talk):
    a = talk.channel()
    b = talk.channel()
    a.peer.polite = False
    a(BasicQos(prefetch_size=1))
    a.send(QueueDeclare(talk.q))
    a.peer.send(ConnectionCloseOk())
    a.peer.end()
    b(QueueDeclare(talk.q, passive=True))


@conversation
def connection_closes_that_cross(talk):
    a = talk.channel()
    a.peer.polite = False
    a.send(BasicQos(prefetch_size=1))
    a.peer.hear()
    a.peer.send(ConnectionClose())
    a.peer.hear()


@conversation
def connection_close_ok_out_of_the_blue(talk):
    peer = talk.connect()
    peer(ConnectionCloseOk(), hears=True)


@conversation(each={"blocked": ConnectionBlocked("why"), "unblocked": ConnectionUnblocked()})
def notifications_that_only_servers_send(talk, method):
    peer = talk.connect()
    peer(method, hears=True)


@conversation
def more_channels_than_agreed(talk):
    peer = talk.connect(channel_max=2)
    peer.channel(1)
    peer.channel(2)
    peer.unopened(3)(ChannelOpen())


@conversation
def channel_max_counts_channels_not_numbers(talk):
    peer = talk.connect(channel_max=2)
    peer.unopened(9)(ChannelOpen())
    peer.unopened(65535)(ChannelOpen())
    peer.unopened(9)(ChannelClose())
    peer.unopened(10)(ChannelOpen())


@conversation
def flow_active(talk):
    a = talk.channel()
    a(ChannelFlow(active=True))


@conversation
def flow_inactive_is_not_implemented(talk):
    a = talk.channel()
    a(ChannelFlow(active=False))


@conversation
def access_request_gives_a_ticket(talk):
    a = talk.channel()
    a(AccessRequest("/data"))


@conversation
def closing_tells_consumers_of_a_deleted_exclusive_queue_nothing(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(BasicConsume(talk.q, "tag"))
    a.peer.close()


@conversation
def last_declared_queue_is_forgotten_with_the_channel(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(ChannelClose())
    a(ChannelOpen())
    a(QueueBind("", "amq.fanout"))


@conversation
def frame_for_a_closing_channel_may_be_garbage(talk):
    a = talk.channel()
    a.polite = False
    a(MISSING)
    a.peer.say_bytes(frame(METHOD, 1, b"\0\x32\0\x0a"), "queue.declare without arguments")
    a.peer.say_bytes(frame(HEADER, 1, b"\0"), "a header of one octet")
    a.peer.write(method_frame(1, ChannelCloseOk()))
    a(ChannelOpen(), hears=True)
