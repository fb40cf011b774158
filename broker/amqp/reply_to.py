"""Direct reply-to: answers that go straight to the channel that asked, through no queue.

Law: at most once, never stored. The address a requester's messages get names its channel by an
opaque key; nobody who was not given it can guess it.

Called by: amqp.publish, amqp.basic_methods (consume, cancel), amqp.queue_methods, amqp.channel.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from secrets import token_bytes
from typing import TYPE_CHECKING, cast

from leveret.broker.core.checks import DIRECT_REPLY
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.methods import BasicDeliver, BasicPublish
from leveret.protocol.properties import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.amqp.channel import Channel
    from leveret.broker.amqp.session import Session
    from leveret.broker.core.consumer import Target
    from leveret.broker.core.message import Message

PSEUDO_QUEUE = DIRECT_REPLY
PREFIX = PSEUDO_QUEUE + "."


def consume(channel: Channel, tag: str, no_ack: bool) -> None:
    """Make a channel's consumer of the pseudo queue."""
    if not no_ack:
        raise PreconditionFailed("reply consumer cannot acknowledge")
    if channel.reply_key:
        raise PreconditionFailed("reply consumer already set")
    channel.reply_tag = tag
    channel.reply_key = urlsafe_b64encode(token_bytes(18)).decode()
    channel.session.broker.reply_channels[channel.reply_key] = channel


def cancel(channel: Channel) -> None:
    """End a channel's consumer of the pseudo queue."""
    channel.session.broker.reply_channels.pop(channel.reply_key, None)
    channel.reply_key = ""
    channel.reply_tag = ""


def rewrite(channel: Channel, message: Message) -> Message:
    """Return a request with the address of its channel in the place of the pseudo queue."""
    if not channel.reply_key:
        raise PreconditionFailed("fast reply consumer does not exist")
    properties = message.properties._replace(reply_to=PREFIX + channel.reply_key)
    return message.with_header(encode(properties, message.size))


def find(session: Session, address: str) -> Target | None:
    """Return the channel that an address belongs to, if it is still there."""
    return session.broker.reply_channels.get(address[len(PREFIX) :])


def deliver(session: Session, routing_keys: Sequence[str], message: Message) -> bool:
    """Hand an answer to the channels that asked; tell whether one was still there."""
    publish = message.envelope.method
    assert isinstance(publish, BasicPublish)
    is_delivered = False
    for key in routing_keys:
        target = find(session, key) if key.startswith(PREFIX) else None
        if target is not None:
            is_delivered = True
            channel = cast("Channel", target)
            if channel.outbox.size >= channel.session.outbox_high:
                continue  # it does not read its answers, which come at most once
            method = BasicDeliver(
                channel.reply_tag, channel.next_tag, False, publish.exchange, publish.routing_key
            )
            channel.next_tag += 1
            channel.send_content(method, message)
    return is_delivered
