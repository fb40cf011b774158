"""Handlers of queue.*: declare, bind, unbind, purge, delete.

Law: checks come in RabbitMQ's order, since a client sees which one fails first; counts in
replies are exact, so the queue deals what is due before it is asked; an empty name means the
queue this channel declared last.

Called by: amqp.session, through HANDLERS; amqp.basic_methods (last_queue, check_exclusive).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.amqp import reply_to
from leveret.broker.amqp.exchange_methods import check_source, stripped
from leveret.broker.core.arguments import check_exchange_name
from leveret.broker.core.checks import (
    check_exclusive,
    check_may_be_unnamed,
    check_new_name,
    check_queue_limit,
    generated_name,
)
from leveret.protocol.errors import NotFound
from leveret.protocol.methods import (
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
    QueueDelete,
    QueueDeleteOk,
    QueuePurge,
    QueuePurgeOk,
    QueueUnbind,
    QueueUnbindOk,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.amqp.channel import Channel
    from leveret.broker.core.queue import Queue


def last_queue(channel: Channel, name: str) -> str:
    """Return a queue's name as given; an empty one means the queue declared last."""
    name = stripped(name) or channel.last_queue
    if not name:
        raise NotFound("no previously declared queue")
    return name


def queue_declare(channel: Channel, method: QueueDeclare) -> None:
    """Make a queue, or check that it is there, and say how full it is."""
    session, vhost = channel.session, channel.session.vhost
    name = stripped(method.queue)
    if name.startswith(reply_to.PSEUDO_QUEUE):
        _declare_reply_to(channel, name)
        if not method.no_wait:
            channel.reply(QueueDeclareOk(name, 0, 1))
        return
    if method.passive:
        queue = vhost.queue(name)
        check_exclusive(queue, session)
    else:
        queue = _declare(channel, method, name)
    channel.last_queue = queue.name
    queue.used()
    if not method.no_wait:
        counts = queue.ready_count, queue.consumer_count
        channel.reply_durably(QueueDeclareOk(queue.name, *counts))


def _declare_reply_to(channel: Channel, name: str) -> None:
    """Answer for direct reply-to: there is no such queue, but it may be asked for."""
    if name != reply_to.PSEUDO_QUEUE and reply_to.find(channel.session, name) is None:
        channel.session.vhost.queue(name)
    channel.last_queue = name


def _declare(channel: Channel, method: QueueDeclare, name: str) -> Queue:
    session, vhost = channel.session, channel.session.vhost
    if name:
        check_new_name("queue", name)
    else:
        check_may_be_unnamed(method.arguments)
        name = generated_name()
    session.check_permission("configure", "queue", name)
    if name not in vhost.queues:
        check_queue_limit(vhost, name)
        subject = vhost.described("queue", name)
        dead_letters = check_exchange_name(method.arguments, "x-dead-letter-exchange", subject)
        if dead_letters is not None:
            session.check_permission("read", "queue", name)
            session.check_permission("write", "exchange", dead_letters)
    return vhost.declare_queue(
        name,
        durable=method.durable,
        auto_delete=method.auto_delete,
        owner=session if method.exclusive else None,
        arguments=method.arguments,
    )


def queue_bind(channel: Channel, method: QueueBind) -> None:
    """Bind a queue to an exchange."""
    vhost = channel.session.vhost
    source, name, routing_key = _check_ends(channel, method)
    exchange = vhost.exchange(source)
    queue = vhost.queue(name)
    exchange.type.check_binding(routing_key, method.arguments)
    check_exclusive(queue, channel.session)
    vhost.bind(source, queue, routing_key, method.arguments)
    if not method.no_wait:
        channel.reply_durably(QueueBindOk())


def queue_unbind(channel: Channel, method: QueueUnbind) -> None:
    """Remove a binding; one that does not exist is gone already."""
    vhost = channel.session.vhost
    source, name, routing_key = _check_ends(channel, method)
    queue = vhost.queues.get(name)
    if queue is not None and vhost.find_binding(source, queue, routing_key, method.arguments):
        check_exclusive(queue, channel.session)
        vhost.unbind(source, queue, routing_key, method.arguments)
    channel.reply_durably(QueueUnbindOk())


def _check_ends(channel: Channel, method: QueueBind | QueueUnbind) -> tuple[str, str, str]:
    """Return source, queue and binding key after the checks that need no existence."""
    source, name, routing_key = stripped(method.exchange), method.queue, method.routing_key
    if not name and not routing_key:
        routing_key = last_queue(channel, name)
    name = last_queue(channel, name)
    channel.session.check_permission("write", "queue", name)
    check_source(channel, source, routing_key)
    return source, name, routing_key


def queue_purge(channel: Channel, method: QueuePurge) -> None:
    """Drop the ready messages of a queue."""
    session = channel.session
    name = last_queue(channel, method.queue)
    session.check_permission("read", "queue", name)
    queue = session.vhost.queue(name)
    check_exclusive(queue, session)
    count = queue.purge()
    if queue.log is not None:
        session.broker.batch.must_tell()
    if not method.no_wait:
        channel.reply_durably(QueuePurgeOk(count))


def queue_delete(channel: Channel, method: QueueDelete) -> None:
    """Delete a queue; one that does not exist is gone already."""
    session, vhost = channel.session, channel.session.vhost
    name = last_queue(channel, method.queue)
    session.check_permission("configure", "queue", name)
    queue = vhost.queues.get(name)
    count = 0
    if queue is not None:
        check_exclusive(queue, session)
        count = vhost.delete_queue(queue, if_unused=method.if_unused, if_empty=method.if_empty)
    if not method.no_wait:
        channel.reply_durably(QueueDeleteOk(count))


HANDLERS: dict[type, Callable[..., None]] = {
    QueueDeclare: queue_declare,
    QueueBind: queue_bind,
    QueueUnbind: queue_unbind,
    QueuePurge: queue_purge,
    QueueDelete: queue_delete,
}
