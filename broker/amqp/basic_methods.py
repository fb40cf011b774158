"""Handlers of basic.* except publish: qos, consume, cancel, get, settle, recover.

Law: settlement of one tag or of many is the same path: entries are taken out of `unacked`,
then discarded, requeued, or held by the transaction. Errors name what RabbitMQ's name.

Called by: amqp.session, through HANDLERS; `acknowledge_row` for single acks in a row.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from functools import partial
from secrets import token_bytes
from typing import TYPE_CHECKING, TypeAlias

from leveret.broker.amqp import reply_to
from leveret.broker.amqp.queue_methods import last_queue
from leveret.broker.amqp.transaction import Settlement
from leveret.broker.core.arguments import check_consumer_arguments, ineffective
from leveret.broker.core.checks import check_consumer, check_exclusive, check_may_be_asked
from leveret.broker.core.consumer import Consumer
from leveret.broker.core.message import octets
from leveret.protocol.errors import NotAllowed, Unsupported
from leveret.protocol.methods import (
    AccessRequest,
    AccessRequestOk,
    BasicAck,
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    BasicGetEmpty,
    BasicGetOk,
    BasicNack,
    BasicPublish,
    BasicQos,
    BasicQosOk,
    BasicRecover,
    BasicRecoverAsync,
    BasicRecoverOk,
    BasicReject,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.amqp.channel import Channel
    from leveret.broker.core.queue import Queue

    Recover: TypeAlias = BasicRecover | BasicRecoverAsync


def qos(channel: Channel, method: BasicQos) -> None:
    """Limit unacknowledged messages: of the channel, or of each consumer started later."""
    if method.prefetch_size:
        raise Unsupported(f"prefetch_size!=0 ({method.prefetch_size})")
    if method.global_:
        channel.window = method.prefetch_count
        channel.unpark()
    else:
        # RabbitMQ lifts the channel's limit here (seen on 3.10.8): the one set last counts
        channel.window = 0
        channel.prefetch_count = method.prefetch_count
        channel.unpark()
    channel.reply(BasicQosOk())


def consume(channel: Channel, method: BasicConsume) -> None:
    """Start a consumer."""
    tag = method.consumer_tag or f"amq.ctag-{urlsafe_b64encode(token_bytes(16))[:-2].decode()}"
    if method.consumer_tag in channel.consumers:
        raise NotAllowed(f"attempt to reuse consumer tag '{tag}'")
    if method.queue == reply_to.PSEUDO_QUEUE:
        _consume_replies(channel, method, tag)
        return
    queue = _readable_queue(channel, method.queue)
    subject = channel.session.vhost.described("queue", queue.name)
    known = channel.session.broker.registry.consumer_arguments
    check_consumer_arguments(method.arguments, subject, known)
    check_exclusive(queue, channel.session)
    check_consumer(queue, method.exclusive)
    queue.vhost.warn_of(queue, ineffective(method.arguments, known))
    priority = method.arguments.get("x-priority", 0)
    consumer = Consumer(
        queue,
        channel,
        tag,
        no_ack=method.no_ack,
        exclusive=method.exclusive,
        priority=priority if isinstance(priority, int) else 0,
        prefetch_count=channel.prefetch_count,
        arguments=method.arguments,
    )
    channel.consumers[tag] = consumer
    consumer.hold()
    channel.then(partial(_start, consumer, channel, method.no_wait))
    queue.add_consumer(consumer)
    channel.session.broker.events.emit("consumer.created", consumer=consumer)


def _start(consumer: Consumer, channel: Channel, no_wait: bool) -> None:
    """Give a consumer what comes for it, after consume-ok and no sooner."""
    if not no_wait:
        channel.send(BasicConsumeOk(consumer.tag))
    consumer.release()
    if consumer in channel.parked:
        consumer.queue.unpark(consumer)


def _readable_queue(channel: Channel, name: str) -> Queue:
    session = channel.session
    name = last_queue(channel, name)
    session.check_permission("read", "queue", name)
    return session.vhost.queue(name)


def _consume_replies(channel: Channel, method: BasicConsume, tag: str) -> None:
    reply_to.consume(channel, tag, method.no_ack)
    if not method.no_wait:
        channel.reply(BasicConsumeOk(tag))


def cancel(channel: Channel, method: BasicCancel) -> None:
    """End a consumer; what it has not settled stays with the channel."""
    consumer = channel.consumers.pop(method.consumer_tag, None)
    if consumer is not None:
        consumer.queue.remove_consumer(consumer)
        channel.session.broker.events.emit("consumer.deleted", consumer=consumer)
    elif channel.reply_key and channel.reply_tag == method.consumer_tag:
        reply_to.cancel(channel)
    if not method.no_wait:
        channel.reply(BasicCancelOk(method.consumer_tag))


def get(channel: Channel, method: BasicGet) -> None:
    """Hand out the first ready message of a queue."""
    queue = _readable_queue(channel, method.queue)
    check_exclusive(queue, channel.session)
    check_may_be_asked(queue)
    queue.used()
    found = queue.pop()
    if found is None:
        channel.reply(BasicGetEmpty())
        return
    position, message, redelivered = found
    if queue.vhost.tap is not None:
        queue.vhost.tap.delivered(channel, queue, (message,), redelivered)
    tag = channel.next_tag
    channel.next_tag += 1
    if method.no_ack:
        queue.settle(1, octets((message,)))
        if queue.log is not None:
            queue.log.settled((position,))
        if queue.extras is not None:
            queue.extras.forget((position,))
    else:
        getter = Consumer(queue, channel, "", prefetch_count=1)
        channel.unacked[tag] = (getter, position, message)
    publish = message.envelope.method
    assert isinstance(publish, BasicPublish)
    commit = queue.waits_for_commit(position)
    if commit:
        channel.session.hold(channel.number, commit, _nothing)  # what follows waits behind it
    channel.send_content(
        BasicGetOk(tag, redelivered, publish.exchange, publish.routing_key, queue.ready_count),
        message,
    )


def _nothing() -> None:
    pass


def acknowledge_row(channel: Channel, tags: list[int]) -> None:
    """Settle single acks that came in a row."""
    if channel.transaction is not None:
        for tag in tags:
            _settle(channel, tag, False, Settlement.ACK)
    else:
        channel.discard(channel.take_row(tags))


def ack(channel: Channel, method: BasicAck) -> None:
    """Settle a message, or all up to it."""
    _settle(channel, method.delivery_tag, method.multiple, Settlement.ACK)


def nack(channel: Channel, method: BasicNack) -> None:
    """Refuse a message, or all up to it."""
    _settle(channel, method.delivery_tag, method.multiple, _refusal(method.requeue))


def reject(channel: Channel, method: BasicReject) -> None:
    """Refuse a message."""
    _settle(channel, method.delivery_tag, False, _refusal(method.requeue))


def _refusal(requeue: bool) -> Settlement:
    return Settlement.REQUEUE if requeue else Settlement.REJECT


def _settle(channel: Channel, tag: int, multiple: bool, how: Settlement) -> None:
    taken = channel.take(tag, multiple)
    if channel.transaction is not None:
        channel.transaction.hold_settlement(taken, how)
    elif how is Settlement.REQUEUE:
        channel.requeue(taken)
    elif how is Settlement.REJECT:
        channel.reject_many(taken)
    else:
        channel.discard_many(taken)


def recover(channel: Channel, method: Recover) -> None:
    """Put everything unacknowledged of the channel back."""
    if not method.requeue:
        raise Unsupported("requeue=false")
    channel.requeue(channel.take(0, True))
    if isinstance(method, BasicRecover):
        channel.reply(BasicRecoverOk())


def access_request(channel: Channel, method: AccessRequest) -> None:
    """Answer a method of AMQP 0-8 that some clients still send."""
    channel.reply(AccessRequestOk(1))


HANDLERS: dict[type, Callable[..., None]] = {
    AccessRequest: access_request,
    BasicQos: qos,
    BasicConsume: consume,
    BasicCancel: cancel,
    BasicGet: get,
    BasicAck: ack,
    BasicNack: nack,
    BasicReject: reject,
    BasicRecover: recover,
    BasicRecoverAsync: recover,
}
