"""Publishing: what happens to a message before it is in its queues.

Law: the common message (nothing to check in its properties but an expiration, a route known
already) costs one look-up and one append a queue. All others take the careful way, which checks
in RabbitMQ's order: permission, exchange, internal, reply-to, expiration, CC and BCC, topic
permission, user.

Called by: amqp.session (rows of contents).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leveret.broker.amqp import reply_to
from leveret.broker.core.checks import check_expiration, check_user_id
from leveret.broker.core.exchange import route, routing_keys, tell
from leveret.broker.core.message import BlindEnvelope
from leveret.broker.core.placing import Passed, admitted, pass_hooks
from leveret.broker.core.routes import ByHeaders, ByHook, have_to_be_asked
from leveret.protocol.constants import (
    HAS_EXPIRATION,
    HAS_HEADERS,
    HAS_REPLY_TO,
    HAS_USER_ID,
    NO_ROUTE,
)
from leveret.protocol.content import FRAME_HEAD
from leveret.protocol.errors import AccessRefused, CommandInvalid, Unsupported
from leveret.protocol.methods import BasicPublish

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leveret.broker.amqp.channel import Channel
    from leveret.broker.amqp.session import Session
    from leveret.broker.amqp.transaction import Transaction
    from leveret.broker.core.exchange import Exchange, Routing
    from leveret.broker.core.hooks import ExchangeHook
    from leveret.broker.core.message import Message
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.routes import Routes
    from leveret.protocol.content import Content, Envelope

LOOK_AT = HAS_HEADERS | HAS_EXPIRATION | HAS_REPLY_TO | HAS_USER_ID
# How the names of the headers CC and BCC stand in a table, and that of what answers are sent to.
CC, BCC = b"\x02CC", b"\x03BCC"
PSEUDO_QUEUE = reply_to.PSEUDO_QUEUE.encode()
# Appends after which the clock is looked at, and how many one look into a message stands for.
WORK, BY_MESSAGE = 2000, 50


def publish(
    channel: Channel, contents: Sequence[Content], start: int, out_of_time: Callable[[], bool]
) -> int:
    """Put a row of messages into their queues; return how far it came within its time."""
    session = channel.session
    memo = session.routes
    routes, by_message = memo.current(), memo.by_message
    touched = session.broker.batch.touched
    is_plain = channel.transaction is None
    work = 0
    index = start
    try:
        for index in range(start, len(contents)):
            message: Message = contents[index]  # type: ignore[assignment]
            found: Sequence[Queue] | None = routes.get(message.envelope)
            flags = message.flags & LOOK_AT
            frames = message.frames
            if (
                is_plain
                and (
                    not flags
                    # as `_to_look_at` says, without the price of a call
                    or (
                        flags == HAS_HEADERS
                        and frames.__class__ is bytes
                        and frames.find(b"CC", FRAME_HEAD, FRAME_HEAD + message.header_size) < 0
                    )
                    or not (flags := _to_look_at(message))
                    or (flags == HAS_EXPIRATION and found and _expires(message, found))
                )
                and (found is not None or message.envelope in by_message)
            ):
                if found is None:
                    work += BY_MESSAGE
                    found = by_message[message.envelope].find(message)
                    if found is None:
                        _publish_checked(channel, message, memo, index - start)
                        found = ()
                for queue in found:
                    if not queue.incoming:
                        touched[queue] = None
                    queue.incoming.append(message)
                    work += 1
            else:
                _publish_checked(channel, message, memo, index - start)
                work = WORK + 1  # its price depends on keys and bindings
            if work > WORK:
                work = 0
                if out_of_time():
                    break
        index += 1
    finally:
        if channel.is_confirming:
            channel.publish_seqno += index - start
            session.broker.batch.confirming[channel] = None
    return index


def _to_look_at(message: Content) -> int:
    """Return which properties may decide where a message goes or whether it is accepted.

    Of headers these are CC and BCC, of the addresses for an answer that of the pseudo queue: most
    have none of their octets in the header, and nothing has to be decoded to see that.
    """
    flags, frames = message.flags & LOOK_AT, message.frames
    start = FRAME_HEAD
    if isinstance(frames, tuple):
        frames, start = frames[0], 0
    end = start + message.header_size
    if flags & HAS_HEADERS and frames.find(CC, start, end) < 0 and frames.find(BCC, start, end) < 0:
        flags ^= HAS_HEADERS
    if flags & HAS_REPLY_TO and frames.find(PSEUDO_QUEUE, start, end) < 0:
        flags ^= HAS_REPLY_TO
    return flags


def _expires(message: Message, queues: Sequence[Queue]) -> bool:
    """Whether all queues look at expirations already, and nothing is wrong with that of a message.

    Raises:
      PreconditionFailed: Something is wrong with it.
    """
    for queue in queues:
        if not queue.is_timed:
            return False
    return message.life is not None


def _publish_checked(channel: Channel, message: Message, memo: Routes, before: int) -> None:
    """Publish a message the careful way; note if it is to be refused.

    Args:
      before: Messages of the row that were published before it and are not counted yet.
    """
    if _publish_carefully(channel, message, memo) and channel.is_confirming:
        channel.refused.append(channel.publish_seqno + before + 1)


def _publish_carefully(channel: Channel, message: Message, memo: Routes) -> bool:
    """Check a message, find its queues, put it into them; return whether one has refused it."""
    session = channel.session
    is_refused = _publish_known(channel, message, memo)
    if is_refused is not None:
        return is_refused
    method = message.envelope.method
    if not isinstance(method, BasicPublish):
        raise CommandInvalid("unimplemented method")
    if method.immediate:
        raise Unsupported("immediate=true")
    exchange = _check_exchange(session, method.exchange)
    envelope = message.envelope
    message, keys = _check_properties(channel, message, method.routing_key)
    if exchange.type.checks_topic:
        for key in keys:
            session.check_topic_permission("write", exchange.name, key)
    if message.flags & HAS_USER_ID:
        assert session.user is not None
        check_user_id(message.properties.user_id, session.user)
    queues, is_taken, hooks = _find(channel, message, envelope, exchange, keys, memo)
    if exchange.vhost.tap is not None:
        exchange.vhost.tap.published(channel, message, keys, queues)
    mandatory = method.mandatory and not is_taken
    if channel.transaction is not None:
        channel.transaction.hold_publish(message, queues, mandatory, hooks)
        return False
    return place(channel, message, queues, mandatory, hooks)


def _publish_known(channel: Channel, message: Message, memo: Routes) -> bool | None:
    """Publish a message that is like others before it.

    Returns:
      Whether a queue has refused it, None if nobody knows where it goes.
    """
    if channel.transaction is not None:
        return False if _hold_known(channel.transaction, message, memo) else None
    known = _known(message, memo)
    return None if known is None else _place_known(channel, message, known)


def _known(message: Message, memo: Routes) -> Passed | None:
    """Return where a message goes that is like others before it, None if nobody knows."""
    envelope, flags = message.envelope, message.flags & LOOK_AT
    if not (flags or memo.by_admission or memo.by_hooks):
        return None  # who publishes has looked for all others
    flags = flags and _to_look_at(message)
    if not flags & ~HAS_EXPIRATION:
        known = memo.by_admission.get(envelope)
        if known is None and flags:  # without, who publishes has looked there
            known = memo.current().get(envelope)
        if known:
            return Passed(known, False)
    found = memo.by_hooks.get(envelope)
    if found is None or flags:
        return None
    method = envelope.method
    assert isinstance(method, BasicPublish)
    return pass_hooks(found, (method.routing_key,), message)


def _hold_known(transaction: Transaction, message: Message, memo: Routes) -> bool:
    """Hold a message that is like others before it; return whether it is."""
    queues = None
    if not (message.flags & LOOK_AT and _to_look_at(message)):
        queues = memo.current().get(message.envelope)
    if queues is None:
        return False
    method = message.envelope.method
    assert isinstance(method, BasicPublish)
    transaction.hold_publish(message, queues, method.mandatory)
    return True


def _place_known(channel: Channel, message: Message, known: Passed) -> bool:
    """Put a message of which only its expiration is to be checked into the queues of its like."""
    if message.life is not None:
        for queue in known.queues:
            queue.keep_time()
    return place(channel, message, known.queues, False, known.hooks)


def _find(
    channel: Channel,
    message: Message,
    envelope: Envelope,
    exchange: Exchange,
    keys: Sequence[str],
    memo: Routes,
) -> Passed:
    """Find the queues of a message that was checked; remember them if others go there, too.

    Args:
      envelope: As it came in, which others have as well.
    """
    method = envelope.method
    assert isinstance(method, BasicPublish)
    # at most once and never queued
    is_taken = not exchange.name and reply_to.deliver(channel.session, keys, message)
    found = route(exchange, keys)
    depends = found.depends_on_headers
    if depends:
        found = route(exchange, keys, message=message)
        tell(found, keys, message)
    queues: Sequence[Queue] = found.queues
    hooks: Sequence[ExchangeHook] = ()
    if found.stops:
        queues, is_diverted, hooks = pass_hooks(found, keys, message)
        is_taken = is_taken or is_diverted
        if found.stops == (exchange,) and _may_be_remembered(exchange, method, keys):
            _remember_stop(memo, envelope, found, keys)
    elif _may_be_remembered(exchange, method, keys, is_routed=bool(queues) and not depends):
        if depends:
            if envelope not in memo.by_message:
                memo.by_message[envelope] = ByHeaders(memo, exchange, keys)
        elif have_to_be_asked(queues):
            memo.by_admission[envelope] = found.queues
        else:
            memo.current()[envelope] = found.queues
    if message.flags & HAS_EXPIRATION:
        for queue in queues:
            queue.keep_time()
    return Passed(queues, is_taken, hooks)


def _remember_stop(memo: Routes, envelope: Envelope, found: Routing, keys: Sequence[str]) -> None:
    """Remember a route that stops where it began."""
    memo.by_hooks[envelope] = found
    by_hook = ByHook.of(found.stops[0], keys)
    if by_hook is not None:
        memo.by_message[envelope] = by_hook


def _may_be_remembered(
    exchange: Exchange, method: BasicPublish, keys: Sequence[str], *, is_routed: bool = False
) -> bool:
    """Whether nothing more than its queues is to be known of a message like this one.

    Args:
      is_routed: Whether all like it get into a queue, as long as nothing changes: such a one does
        not come back, though it is mandatory.
    """
    is_kept = is_routed or not method.mandatory
    is_plain = len(keys) == 1 and is_kept and exchange.vhost.tap is None
    return is_plain and not keys[0].startswith(reply_to.PREFIX)


def place(
    channel: Channel,
    message: Message,
    queues: Sequence[Queue],
    mandatory: bool,
    hooks: Sequence[ExchangeHook] = (),
) -> bool:
    """Put a message into its queues, or send it back if there are none and it must not be lost.

    Args:
      hooks: Those of exchanges that are told of it if a queue gets it and none has refused it.

    Returns:
      Whether a queue has refused it; the others have it all the same.
    """
    if mandatory:
        send_back_if_lost(channel, message, queues)
    is_refused, targets = False, queues
    if have_to_be_asked(queues):
        targets, is_refused = admitted(message, queues)
    touched = channel.session.broker.batch.touched
    for queue in targets:
        if not queue.deleted:
            queue.incoming.append(message)
            touched[queue] = None
    if hooks and queues and not is_refused:
        for hook in hooks:
            hook.admitted(message)
    return is_refused


def send_back_if_lost(channel: Channel, message: Message, queues: Sequence[Queue]) -> None:
    """Send a message back to its publisher if none of its queues is there."""
    if all(queue.deleted for queue in queues):
        channel.send_return(NO_ROUTE, "NO_ROUTE", message)


def _check_exchange(session: Session, name: str) -> Exchange:
    session.check_permission("write", "exchange", name)
    exchange = session.vhost.exchange(name)
    if exchange.internal:
        raise AccessRefused(
            f"cannot publish to internal exchange '{name}' in vhost '{session.vhost.name}'"
        )
    return exchange


def _check_properties(
    channel: Channel, message: Message, routing_key: str
) -> tuple[Message, Sequence[str]]:
    """Check properties that change where a message goes or whether it is accepted.

    Returns:
      The message, without its blind copies; its routing keys.
    """
    flags = message.flags & LOOK_AT and _to_look_at(message)
    has_copies = flags & HAS_HEADERS
    if not flags & (HAS_HEADERS | HAS_EXPIRATION | HAS_REPLY_TO):
        return message, (routing_key,)
    properties = message.properties
    if properties.reply_to == reply_to.PSEUDO_QUEUE:
        message = reply_to.rewrite(channel, message)
    if properties.expiration is not None:
        check_expiration(properties.expiration)
    if not has_copies or not properties.headers:
        return message, (routing_key,)
    headers = dict(properties.headers)
    keys = routing_keys(routing_key, headers)
    if "BCC" in headers:
        blind = routing_keys("", {"CC": headers.pop("BCC")})[1:]
        message = message.with_headers(headers)
        message.envelope = BlindEnvelope.of(message.envelope, blind)
    return message, keys
