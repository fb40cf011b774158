"""Methods: every method of AMQP 0-9-1 and of RabbitMQ's extensions, as data.

Law: this file is the specification's table and nothing else. Fields stand in wire order with
their wire types; reserved fields are not part of the value (`before` and `after` say where
they are) and are written as zero. `codec` compiles its functions from what stands here.

Called by: everything that speaks of methods. A method is a named tuple: compare, unpack and
match it as one, and tell it from other commands with `isinstance(command, Method)`.
"""

import re
from collections import namedtuple
from collections.abc import Callable
from typing import ClassVar, TypeVar, cast, dataclass_transform

from leveret.protocol.wire import (
    EMPTY_TABLE,
    Bit,
    Long,
    LongLong,
    LongStr,
    LongText,
    Octet,
    Short,
    ShortStr,
    Table,
    Wire,
)


class Method(tuple[object, ...]):
    """The base of all methods.

    Attributes:
      class_id: Index of the class in the specification.
      method_id: Index of the method in its class.
      name: The specification's name, such as "queue.declare-ok".
      has_content: Whether header and body frames follow.
      replies: What the peer may answer; empty for replies and one-way methods.
      layout: Names and wire types in wire order; reserved fields have the name "".
    """

    __slots__ = ()

    class_id: ClassVar[int]
    method_id: ClassVar[int]
    name: ClassVar[str]
    has_content: ClassVar[bool]
    replies: ClassVar[tuple[type["Method"], ...]] = ()
    layout: ClassVar[tuple[tuple[str, Wire], ...]]


M = TypeVar("M", bound=Method)

BY_ID: dict[tuple[int, int], type[Method]] = {}
_reply_ids: dict[type[Method], tuple[int, ...]] = {}


@dataclass_transform(frozen_default=True)
def method(
    class_id: int,
    method_id: int,
    *,
    content: bool = False,
    replies: tuple[int, ...] = (),
    before: tuple[object, ...] = (),
    after: tuple[object, ...] = (),
) -> Callable[[type[M]], type[M]]:
    """Make a class of annotations the named tuple of a method.

    Args:
      class_id: Index of the class.
      method_id: Index of the method.
      content: Whether a content follows.
      replies: Method ids, of the same class, that may answer.
      before: Wire types of the reserved fields before the fields.
      after: Wire types of the reserved fields behind them.
    """

    def build(fields: type[M]) -> type[M]:
        types = {name: _wire(alias) for name, alias in _annotations(fields).items()}
        defaults = [vars(fields)[name] for name in types if name in vars(fields)]
        layout = (
            *(("", _wire(alias)) for alias in before),
            *types.items(),
            *(("", _wire(alias)) for alias in after),
        )
        attributes = {
            "__slots__": (),
            "__doc__": fields.__doc__,
            "__module__": fields.__module__,
            "class_id": class_id,
            "method_id": method_id,
            "name": _spec_name(fields.__name__),
            "has_content": content,
            "layout": layout,
        }
        base = _namedtuple(fields.__name__, tuple(types), defaults=defaults)
        built = cast(type[M], type(fields.__name__, (Method, base), attributes))
        BY_ID[class_id, method_id] = built
        _reply_ids[built] = replies
        return built

    return build


# mypy takes a call of `namedtuple` itself for a declaration, and wants literals
_namedtuple: Callable[..., type] = namedtuple


def _annotations(fields: type) -> dict[str, object]:
    return cast(dict[str, object], vars(fields).get("__annotations__") or {})


def _wire(alias: object) -> Wire:
    return cast(tuple[Wire], vars(alias)["__metadata__"])[0]


def _spec_name(class_name: str) -> str:
    first, *rest = re.findall("[A-Z][a-z]*", class_name)
    return f"{first}.{'-'.join(rest)}".lower()


# connection: the handshake, the end, and what concerns all channels


@method(10, 10, replies=(11,))
class ConnectionStart(Method):
    """Offer versions, mechanisms and locales."""

    version_major: Octet
    version_minor: Octet
    server_properties: Table
    mechanisms: LongText = "PLAIN"
    locales: LongText = "en_US"


@method(10, 11)
class ConnectionStartOk(Method):
    """Choose a mechanism and log in."""

    client_properties: Table
    mechanism: ShortStr = "PLAIN"
    response: LongStr = b""
    locale: ShortStr = "en_US"


@method(10, 20, replies=(21,))
class ConnectionSecure(Method):
    """Ask for another step of the login."""

    challenge: LongStr


@method(10, 21)
class ConnectionSecureOk(Method):
    """Answer a challenge."""

    response: LongStr


@method(10, 30, replies=(31,))
class ConnectionTune(Method):
    """Propose limits; 0 means none."""

    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


@method(10, 31)
class ConnectionTuneOk(Method):
    """Settle the limits."""

    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


@method(10, 40, replies=(41,), after=(ShortStr, Bit))
class ConnectionOpen(Method):
    """Enter a virtual host."""

    virtual_host: ShortStr = "/"


@method(10, 41, after=(ShortStr,))
class ConnectionOpenOk(Method):
    """The connection is ready."""


@method(10, 50, replies=(51,))
class ConnectionClose(Method):
    """End the connection, and say why."""

    reply_code: Short = 200
    reply_text: ShortStr = ""
    class_id_: Short = 0
    method_id_: Short = 0


@method(10, 51)
class ConnectionCloseOk(Method):
    """Confirm the end."""


@method(10, 60)
class ConnectionBlocked(Method):
    """The server reads no more publishes (RabbitMQ)."""

    reason: ShortStr = ""


@method(10, 61)
class ConnectionUnblocked(Method):
    """The server reads again (RabbitMQ)."""


@method(10, 70, replies=(71,))
class ConnectionUpdateSecret(Method):
    """Replace the secret of the login before it expires (RabbitMQ)."""

    new_secret: LongStr
    reason: ShortStr = ""


@method(10, 71)
class ConnectionUpdateSecretOk(Method):
    """The secret is replaced (RabbitMQ)."""


# channel


@method(20, 10, replies=(11,), after=(ShortStr,))
class ChannelOpen(Method):
    """Open a channel."""


@method(20, 11, after=(LongStr,))
class ChannelOpenOk(Method):
    """The channel is open."""


@method(20, 20, replies=(21,))
class ChannelFlow(Method):
    """Ask the peer to stop or restart its contents."""

    active: Bit = True


@method(20, 21)
class ChannelFlowOk(Method):
    """The peer complies."""

    active: Bit = True


@method(20, 40, replies=(41,))
class ChannelClose(Method):
    """End a channel, and say why."""

    reply_code: Short = 200
    reply_text: ShortStr = ""
    class_id_: Short = 0
    method_id_: Short = 0


@method(20, 41)
class ChannelCloseOk(Method):
    """Confirm the end."""


# access: gone from 0-9-1, still sent by old clients


@method(30, 10, replies=(11,))
class AccessRequest(Method):
    """Ask for a ticket to a realm (0-8)."""

    realm: ShortStr = "/data"
    exclusive: Bit = False
    passive: Bit = True
    active: Bit = True
    write: Bit = True
    read: Bit = True


@method(30, 11)
class AccessRequestOk(Method):
    """The ticket (0-8)."""

    ticket: Short = 1


# exchange


@method(40, 10, replies=(11,), before=(Short,))
class ExchangeDeclare(Method):
    """Create an exchange, or check that it is there."""

    exchange: ShortStr = ""
    type: ShortStr = "direct"
    passive: Bit = False
    durable: Bit = False
    auto_delete: Bit = False
    internal: Bit = False
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(40, 11)
class ExchangeDeclareOk(Method):
    """The exchange is there."""


@method(40, 20, replies=(21,), before=(Short,))
class ExchangeDelete(Method):
    """Delete an exchange."""

    exchange: ShortStr = ""
    if_unused: Bit = False
    no_wait: Bit = False


@method(40, 21)
class ExchangeDeleteOk(Method):
    """The exchange is gone."""


@method(40, 30, replies=(31,), before=(Short,))
class ExchangeBind(Method):
    """Bind an exchange to an exchange (RabbitMQ)."""

    destination: ShortStr = ""
    source: ShortStr = ""
    routing_key: ShortStr = ""
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(40, 31)
class ExchangeBindOk(Method):
    """The binding is there (RabbitMQ)."""


@method(40, 40, replies=(51,), before=(Short,))
class ExchangeUnbind(Method):
    """Remove a binding between exchanges (RabbitMQ)."""

    destination: ShortStr = ""
    source: ShortStr = ""
    routing_key: ShortStr = ""
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(40, 51)
class ExchangeUnbindOk(Method):
    """The binding is gone; the id is no slip of ours (RabbitMQ)."""


# queue


@method(50, 10, replies=(11,), before=(Short,))
class QueueDeclare(Method):
    """Create a queue, or check that it is there; no name asks the server for one."""

    queue: ShortStr = ""
    passive: Bit = False
    durable: Bit = False
    exclusive: Bit = False
    auto_delete: Bit = False
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(50, 11)
class QueueDeclareOk(Method):
    """The queue is there."""

    queue: ShortStr
    message_count: Long = 0
    consumer_count: Long = 0


@method(50, 20, replies=(21,), before=(Short,))
class QueueBind(Method):
    """Bind a queue to an exchange."""

    queue: ShortStr = ""
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(50, 21)
class QueueBindOk(Method):
    """The binding is there."""


@method(50, 30, replies=(31,), before=(Short,))
class QueuePurge(Method):
    """Drop the ready messages of a queue."""

    queue: ShortStr = ""
    no_wait: Bit = False


@method(50, 31)
class QueuePurgeOk(Method):
    """How many were dropped."""

    message_count: Long = 0


@method(50, 40, replies=(41,), before=(Short,))
class QueueDelete(Method):
    """Delete a queue with its messages."""

    queue: ShortStr = ""
    if_unused: Bit = False
    if_empty: Bit = False
    no_wait: Bit = False


@method(50, 41)
class QueueDeleteOk(Method):
    """How many messages went with it."""

    message_count: Long = 0


@method(50, 50, replies=(51,), before=(Short,))
class QueueUnbind(Method):
    """Remove a binding."""

    queue: ShortStr = ""
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    arguments: Table = EMPTY_TABLE


@method(50, 51)
class QueueUnbindOk(Method):
    """The binding is gone."""


# basic


@method(60, 10, replies=(11,))
class BasicQos(Method):
    """Limit the unsettled messages of a consumer, or with `global_` of the channel."""

    prefetch_size: Long = 0
    prefetch_count: Short = 0
    global_: Bit = False


@method(60, 11)
class BasicQosOk(Method):
    """The limit holds."""


@method(60, 20, replies=(21,), before=(Short,))
class BasicConsume(Method):
    """Start a consumer."""

    queue: ShortStr = ""
    consumer_tag: ShortStr = ""
    no_local: Bit = False
    no_ack: Bit = False
    exclusive: Bit = False
    no_wait: Bit = False
    arguments: Table = EMPTY_TABLE


@method(60, 21)
class BasicConsumeOk(Method):
    """The consumer is there, under this tag."""

    consumer_tag: ShortStr


@method(60, 30, replies=(31,))
class BasicCancel(Method):
    """End a consumer; the server says so too when it does (RabbitMQ)."""

    consumer_tag: ShortStr
    no_wait: Bit = False


@method(60, 31)
class BasicCancelOk(Method):
    """The consumer is gone."""

    consumer_tag: ShortStr


@method(60, 40, content=True, before=(Short,))
class BasicPublish(Method):
    """Publish a message."""

    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    mandatory: Bit = False
    immediate: Bit = False


@method(60, 50, content=True)
class BasicReturn(Method):
    """Give a mandatory message back."""

    reply_code: Short
    reply_text: ShortStr = ""
    exchange: ShortStr = ""
    routing_key: ShortStr = ""


@method(60, 60, content=True)
class BasicDeliver(Method):
    """Deliver a message to a consumer."""

    consumer_tag: ShortStr
    delivery_tag: LongLong
    redelivered: Bit = False
    exchange: ShortStr = ""
    routing_key: ShortStr = ""


@method(60, 70, replies=(71, 72), before=(Short,))
class BasicGet(Method):
    """Ask for one message."""

    queue: ShortStr = ""
    no_ack: Bit = False


@method(60, 71, content=True)
class BasicGetOk(Method):
    """The message asked for, and how many are left."""

    delivery_tag: LongLong
    redelivered: Bit = False
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    message_count: Long = 0


@method(60, 72, after=(ShortStr,))
class BasicGetEmpty(Method):
    """There is no message."""


@method(60, 80)
class BasicAck(Method):
    """Settle messages; from the server, confirm publishes (RabbitMQ)."""

    delivery_tag: LongLong = 0
    multiple: Bit = False


@method(60, 90)
class BasicReject(Method):
    """Give one message back, or drop it."""

    delivery_tag: LongLong = 0
    requeue: Bit = True


@method(60, 100)
class BasicRecoverAsync(Method):
    """Ask for all unsettled messages again, without an answer."""

    requeue: Bit = False


@method(60, 110, replies=(111,))
class BasicRecover(Method):
    """Ask for all unsettled messages again."""

    requeue: Bit = False


@method(60, 111)
class BasicRecoverOk(Method):
    """They are queued again."""


@method(60, 120)
class BasicNack(Method):
    """Give messages back, or drop them; from the server, refuse publishes (RabbitMQ)."""

    delivery_tag: LongLong = 0
    multiple: Bit = False
    requeue: Bit = True


# confirm (RabbitMQ) and tx


@method(85, 10, replies=(11,))
class ConfirmSelect(Method):
    """Ask for publisher confirms on this channel (RabbitMQ)."""

    no_wait: Bit = False


@method(85, 11)
class ConfirmSelectOk(Method):
    """Publishes are confirmed from here on (RabbitMQ)."""


@method(90, 10, replies=(11,))
class TxSelect(Method):
    """Start transactions on this channel."""


@method(90, 11)
class TxSelectOk(Method):
    """Transactions are on."""


@method(90, 20, replies=(21,))
class TxCommit(Method):
    """Commit."""


@method(90, 21)
class TxCommitOk(Method):
    """Committed."""


@method(90, 30, replies=(31,))
class TxRollback(Method):
    """Roll back."""


@method(90, 31)
class TxRollbackOk(Method):
    """Rolled back."""


for _request, _ids in _reply_ids.items():
    _request.replies = tuple(BY_ID[_request.class_id, reply] for reply in _ids)
