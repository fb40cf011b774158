"""Consumers: tags, deliveries, prefetch, fairness, priorities, cancellation both ways."""

from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicQos,
    ChannelClose,
    QueueDeclare,
    QueueDelete,
)

from .conversation import conversation
from .talk import CAPABILITIES


def _queue(talk, messages=0, **options):
    a = talk.channel()
    a(QueueDeclare(talk.q, **options))
    for number in range(1, messages + 1):
        a.publish("", talk.q, str(number).encode())
    return a


@conversation
def consumer_gets_what_is_there_and_what_comes(talk):
    a = _queue(talk, 2)
    a(BasicConsume(talk.q, "tag"))
    a.hear(2)
    a.publish("", talk.q, b"3")
    a.hear()


@conversation
def consumer_tag_made_by_the_server(talk):
    a = _queue(talk)
    first = a(BasicConsume(talk.q))
    a(BasicConsume(talk.q))
    a(BasicCancel(first.consumer_tag))


@conversation
def consume_without_answer(talk):
    a = _queue(talk, 1)
    a(BasicConsume(talk.q, "tag", no_wait=True))
    a.hear()


@conversation
def consume_without_tag_and_answer(talk):
    a = _queue(talk, 1)
    a(BasicConsume(talk.q, no_wait=True))
    a.hear()


@conversation
def consumer_tag_used_twice_on_a_channel(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "tag"))
    a(BasicConsume(talk.q, "tag"))


@conversation
def consumer_tag_used_on_two_channels(talk):
    a = _queue(talk, 2)
    b = a.peer.channel()
    a(BasicQos(prefetch_count=1))
    b(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    b(BasicConsume(talk.q, "tag"))
    a.hear()
    b.hear()


@conversation
def consumer_tag_used_again_after_cancel(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "tag"))
    a(BasicCancel("tag"))
    a(BasicConsume(talk.q, "tag"))


@conversation
def consumer_tag_used_twice_for_a_missing_queue(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "tag"))
    a(BasicConsume("no such queue", "tag"))


@conversation
def cancelling_an_unknown_tag(talk):
    a = talk.channel()
    a(BasicCancel("never heard of"))
    a(BasicCancel("never heard of", no_wait=True))
    a(BasicCancel(""))


@conversation
def nothing_is_delivered_after_cancel(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "tag"))
    a(BasicCancel("tag"))
    a.publish("", talk.q, b"stays")
    a.count(talk.q, 1)


@conversation
def cancel_leaves_unsettled_messages_with_the_channel(talk):
    a = _queue(talk, 2)
    a(BasicConsume(talk.q, "tag"))
    a.hear(2)
    a(BasicCancel("tag"))
    a.count(talk.q, 0)
    a(BasicAck(1))
    a(ChannelClose())
    b = a.peer.channel()
    b.count(talk.q, 1)
    b.drain(talk.q)


@conversation
def cancel_without_answer(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "tag"))
    a(BasicCancel("tag", no_wait=True))
    a.count(talk.q, 0)


@conversation
def deleting_a_queue_cancels_its_consumers(talk):
    a = _queue(talk)
    b = talk.channel()
    a(BasicConsume(talk.q, "one"))
    b(QueueDelete(talk.q))
    a.hear()
    a(BasicCancel("one"))


@conversation
def deleting_a_queue_tells_an_old_client_nothing(talk):
    a = talk.channel(capabilities={})
    a(QueueDeclare(talk.q))
    b = talk.channel()
    a(BasicConsume(talk.q, "one"))
    b(QueueDelete(talk.q))
    a.quiet()


@conversation
def capability_that_is_false_counts_as_missing(talk):
    a = talk.channel(capabilities={**CAPABILITIES, "consumer_cancel_notify": False})
    a(QueueDeclare(talk.q))
    a(BasicConsume(talk.q, "one"))
    a(QueueDelete(talk.q))
    a.quiet()


@conversation
def deleting_a_queue_on_the_channel_of_its_consumer(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "one"))
    a(QueueDelete(talk.q))
    a.hear()


@conversation
def unsettled_messages_of_a_deleted_queue_may_be_settled(talk):
    a = _queue(talk, 2)
    a(BasicConsume(talk.q, "one"))
    a.hear(2)
    a(QueueDelete(talk.q))
    a.hear()
    a(BasicAck(2, multiple=True))
    a.quiet()


@conversation
def tag_of_a_cancelled_consumer_is_free(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "one"))
    a(QueueDelete(talk.q))
    a.hear()
    a(QueueDeclare(talk.q))
    a(BasicConsume(talk.q, "one"))


@conversation
def no_ack_consumer(talk):
    a = _queue(talk, 3)
    a(BasicConsume(talk.q, "tag", no_ack=True))
    a.hear(3)
    a(BasicAck(1))
    a.quiet()


@conversation
def no_ack_consumer_ignores_prefetch(talk):
    a = _queue(talk, 5)
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag", no_ack=True))
    a.hear(5)


@conversation
def prefetch_limits_each_consumer(talk):
    a = _queue(talk, 5)
    a(BasicQos(prefetch_count=2))
    a(BasicConsume(talk.q, "tag"))
    a.hear(2)
    a.count(talk.q, 3)
    a(BasicAck(1))
    a.hear()
    a(BasicAck(3, multiple=True))
    a.hear(2)


@conversation
def prefetch_applies_to_later_consumers_only(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "before"))
    a(BasicQos(prefetch_count=1))
    for body in (b"1", b"2", b"3"):
        a.publish("", talk.q, body)
    a.hear(3)


@conversation
def prefetch_zero_is_no_limit(talk):
    a = _queue(talk, 4)
    a(BasicQos(prefetch_count=1))
    a(BasicQos(prefetch_count=0))
    a(BasicConsume(talk.q, "tag"))
    a.hear(4)


@conversation
def each_consumer_has_its_own_window(talk):
    a = _queue(talk, 4)
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "one"))
    a.hear()
    a(BasicQos(prefetch_count=2))
    a(BasicConsume(talk.q, "two"))
    a.hear(2)
    a.count(talk.q, 1)
    a(BasicAck(1))
    a.hear()


@conversation
def global_prefetch_is_shared_by_the_channel(talk):
    a = _queue(talk, 5)
    a(BasicQos(prefetch_count=3, global_=True))
    a(BasicConsume(talk.q, "one"))
    a.hear(3)
    a(BasicConsume(talk.q, "two"))
    a.count(talk.q, 2)
    a(BasicAck(1))
    a.hear()
    a.count(talk.q, 1)


@conversation
def global_prefetch_moves_on_a_live_consumer(talk):
    a = _queue(talk, 5)
    a(BasicQos(prefetch_count=1, global_=True))
    a(BasicConsume(talk.q, "one"))
    a.hear()
    a(BasicQos(prefetch_count=3, global_=True))
    a.hear(2)
    a(BasicQos(prefetch_count=0, global_=True))
    a.hear(2)


@conversation
def global_prefetch_lowered_waits_for_acks(talk):
    a = _queue(talk, 5)
    a(BasicQos(prefetch_count=3, global_=True))
    a(BasicConsume(talk.q, "one"))
    a.hear(3)
    a(BasicQos(prefetch_count=1, global_=True))
    a(BasicAck(1))
    a(BasicAck(2))
    a.count(talk.q, 2)
    a(BasicAck(3))
    a.hear()
    a.count(talk.q, 1)


@conversation
def both_prefetch_limits_apply(talk):
    a = _queue(talk, 5)
    a(BasicQos(prefetch_count=2))
    a(BasicQos(prefetch_count=3, global_=True))
    a(BasicConsume(talk.q, "one"))
    a.hear(2)
    a(BasicConsume(talk.q, "two"))
    a.hear()
    a.count(talk.q, 2)


@conversation
def get_is_not_limited_by_prefetch(talk):
    a = _queue(talk, 3)
    a(BasicQos(prefetch_count=1))
    a(BasicQos(prefetch_count=1, global_=True))
    a(BasicGet(talk.q))
    a(BasicGet(talk.q))
    a(BasicGet(talk.q))


@conversation(each={"local": False, "global": True})
def prefetch_size_is_not_implemented(talk, shared):
    a = talk.channel()
    a(BasicQos(prefetch_size=4096, prefetch_count=1, global_=shared))


@conversation
def consumers_take_turns(talk):
    a = _queue(talk)
    for tag in ("one", "two", "three"):
        a(BasicConsume(talk.q, tag))
    for number in range(7):
        a.publish("", talk.q, str(number).encode())
        a.hear()


@conversation
def consumers_of_two_channels_take_turns(talk):
    a = _queue(talk)
    b = talk.channel()
    a(BasicConsume(talk.q, "one"))
    b(BasicConsume(talk.q, "two"))
    for number in range(4):
        a.publish("", talk.q, str(number).encode())
        (b if number % 2 else a).hear()


@conversation
def full_consumer_is_passed_over(talk):
    a = _queue(talk)
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "one"))
    a(BasicQos(prefetch_count=0))
    a(BasicConsume(talk.q, "two"))
    for number in range(4):
        a.publish("", talk.q, str(number).encode())
        a.hear()


@conversation
def higher_priority_goes_first(talk):
    a = _queue(talk)
    a(BasicQos(prefetch_count=2))
    a(BasicConsume(talk.q, "low", arguments={"x-priority": -1}))
    a(BasicConsume(talk.q, "high", arguments={"x-priority": 10}))
    a(BasicConsume(talk.q, "plain"))
    for number in range(6):
        a.publish("", talk.q, str(number).encode())
        a.hear()
    a(BasicAck(1))
    a.publish("", talk.q, b"back to high")
    a.hear()


@conversation
def exclusive_consumer_keeps_others_out(talk):
    a = _queue(talk)
    b = a.peer.channel()
    a(BasicConsume(talk.q, "one", exclusive=True))
    b(BasicConsume(talk.q, "two"))


@conversation
def exclusive_consumer_needs_to_be_alone(talk):
    a = _queue(talk)
    b = a.peer.channel()
    a(BasicConsume(talk.q, "one"))
    b(BasicConsume(talk.q, "two", exclusive=True))


@conversation
def exclusive_consumer_allows_get(talk):
    a = _queue(talk, 1)
    b = talk.channel()
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "one", exclusive=True))
    a.hear()
    a.publish("", talk.q, b"2")
    a.count(talk.q, 1)
    b(BasicGet(talk.q))


@conversation
def exclusive_consumer_gone_lets_others_in(talk):
    a = _queue(talk)
    b = a.peer.channel()
    a(BasicConsume(talk.q, "one", exclusive=True))
    a(BasicCancel("one"))
    b(BasicConsume(talk.q, "two"))


@conversation
def consumer_of_a_closed_channel_is_gone(talk):
    a = _queue(talk)
    b = a.peer.channel()
    a(BasicConsume(talk.q, "one"))
    a(ChannelClose())
    b.count(talk.q, 0, 0)
    b.publish("", talk.q, b"stays")
    b.count(talk.q, 1)


@conversation
def no_local_is_ignored(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "one", no_local=True))
    a.publish("", talk.q, b"own")
    a.hear()


@conversation
def delivery_tags_are_shared_by_consumers_and_gets(talk):
    a = _queue(talk, 1)
    a(BasicGet(talk.q))
    a(BasicConsume(talk.q, "one"))
    a.publish("", talk.q, b"2")
    a.hear()
    a(BasicCancel("one"))
    a.publish("", talk.q, b"3")
    a(BasicGet(talk.q, no_ack=True))
    a(BasicAck(0, multiple=True))
    a.quiet()


@conversation
def delivery_of_every_message_property(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "one"))
    a.publish("", talk.q, b"x", content_type="a/b", headers={"h": [1]}, message_id="m")
    a.hear()


@conversation
def large_delivery(talk):
    a = talk.channel(frame_max=4096)
    a(QueueDeclare(talk.q))
    a(BasicConsume(talk.q, "one"))
    a.publish("", talk.q, bytes(20_000))
    (event,) = a.hear()
    a.note(f"< body frames of {event.frames}")


@conversation
def get_counts_what_is_left(talk):
    a = _queue(talk, 3)
    for _ in range(4):
        a(BasicGet(talk.q))


@conversation
def get_takes_what_consumers_do_not_want(talk):
    a = _queue(talk)
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "one"))
    for number in (1, 2, 3):
        a.publish("", talk.q, str(number).encode())
    a.hear()
    a(BasicGet(talk.q))
    a.count(talk.q, 1)


@conversation
def ready_counts_leave_out_what_is_delivered_at_once(talk):
    a = _queue(talk)
    a(BasicConsume(talk.q, "one"))
    for number in range(20):
        a.publish("", talk.q, str(number).encode())
    a(QueueDeclare(talk.q, passive=True))
    a.hear(20)
