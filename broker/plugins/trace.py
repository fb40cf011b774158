"""The firehose: copies of what is published and delivered, on `amq.rabbitmq.trace`.

Law: a copy has the body of its message; what the message was, and what became of it, stands in the
headers, under RabbitMQ's names. Messages of the trace exchange itself are not traced: they would
never end.

While it is off nothing is asked of any message. Whether it is on is kept: it is so after a restart.

RabbitMQ: firehose.html; `rabbitmqctl trace_on` is `trace_on`.

Called by: amqp (through `VirtualHost.tap`), where tracing is on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from leveret.broker.core.message import BlindEnvelope, Message
from leveret.broker.core.placing import find, republish
from leveret.broker.core.vhost import TRACE
from leveret.protocol.codec import encode_method
from leveret.protocol.constants import HAS_HEADERS
from leveret.protocol.content import Envelope
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from leveret.broker.core.broker import Broker
    from leveret.broker.core.notes import Owner
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry
    from leveret.broker.core.users import User
    from leveret.broker.core.vhost import VirtualHost
    from leveret.protocol.wire import Value

NAME: Final = "trace"
IS_ON: Final = b"on"  # the key of the one note of a virtual host that is traced


class _Session(Protocol):
    peer: str
    user: User | None


class _Channel(Protocol):
    number: int
    session: _Session


class Origin(NamedTuple):
    """Where a message was published or delivered to.

    Attributes:
      node: The broker's name.
      vhost: Name of the virtual host.
      connection: Name of the connection.
      channel: Number of the channel.
      user: Name of the user.
    """

    node: str
    vhost: str
    connection: str
    channel: int
    user: str


def trace_publish(
    vhost: VirtualHost,
    message: Message,
    routing_keys: Sequence[str],
    queues: Iterable[str],
    origin: Origin,
) -> None:
    """Trace a message that came in.

    Args:
      vhost: Where it was published.
      message: The message as it is queued, without BCC.
      routing_keys: Its routing key, then those of CC and BCC.
      queues: Names of the queues it goes to.
      origin: Who published it.
    """
    exchange = _published(message).exchange
    extra: dict[str, Value] = {**_known(origin), "routed_queues": list(queues)}
    _trace(vhost, message, f"publish.{exchange}", routing_keys, extra, origin)


def trace_delivery(
    vhost: VirtualHost, message: Message, queue: str, redelivered: bool, origin: Origin
) -> None:
    """Trace a message that goes out.

    Args:
      vhost: Where its queue is.
      message: The message.
      queue: Name of its queue.
      redelivered: Whether it was delivered before.
      origin: Who gets it.
    """
    extra: dict[str, Value] = {**_known(origin), "redelivered": int(redelivered)}
    _trace(vhost, message, f"deliver.{queue}", _keys(message), extra, origin)


def _trace(
    vhost: VirtualHost,
    message: Message,
    key: str,
    routing_keys: Sequence[str],
    extra: Mapping[str, Value],
    origin: Origin,
) -> None:
    exchange = vhost.exchanges[TRACE]
    published = _published(message)
    if not exchange.bindings or published.exchange == TRACE:
        return
    headers: dict[str, Value] = {
        "exchange_name": published.exchange,
        "routing_keys": list(routing_keys),
        "properties": _told(message),
        "node": origin.node,
        **extra,
    }
    key = _fitting(key)
    method = BasicPublish(TRACE, key)
    header = encode(Properties(headers=headers), message.size)
    envelope = Envelope(method, 0, encode_method(method))
    copy = Message(envelope, (header, *message.chunks), len(header), message.size, HAS_HEADERS)
    republish(copy, find(exchange, (key,), copy))


def _known(origin: Origin) -> dict[str, Value]:
    return {
        "vhost": origin.vhost,
        "connection": origin.connection,
        "channel": origin.channel,
        "user": origin.user,
    }


def _told(message: Message) -> dict[str, Value]:
    """Return the properties that are there, by name."""
    properties = message.properties._asdict()
    return {name: value for name, value in properties.items() if value is not None}


def _published(message: Message) -> BasicPublish:
    method = message.envelope.method
    assert isinstance(method, BasicPublish)
    return method


def _keys(message: Message) -> list[str]:
    """Return all routing keys of a queued message: its own, those of CC, those of BCC."""
    copies = (message.headers or {}).get("CC") if message.flags & HAS_HEADERS else None
    further = copies if isinstance(copies, list) else ()
    keys = [_published(message).routing_key, *(key for key in further if isinstance(key, str))]
    envelope = message.envelope
    return [*keys, *envelope.copies] if isinstance(envelope, BlindEnvelope) else keys


def _fitting(key: str) -> str:
    """Return a routing key cut to what fits one: names may be as long themselves."""
    return key.encode()[:255].decode(errors="ignore")


# The switch


def trace_on(vhost: VirtualHost) -> None:
    """Have all that is published and delivered in a virtual host copied, until `trace_off`."""
    vhost.broker.notes.put(_owner(vhost), NAME, IS_ON, b"1")
    vhost.let_see(Firehose(vhost))


def trace_off(vhost: VirtualHost) -> None:
    """Copy nothing more."""
    vhost.broker.notes.put(_owner(vhost), NAME, IS_ON, None)
    vhost.let_see(None)


def is_traced(vhost: VirtualHost) -> bool:
    """Whether tracing is on."""
    return isinstance(vhost.tap, Firehose)


class Firehose:
    """Sees the messages of a virtual host, and copies them."""

    def __init__(self, vhost: VirtualHost) -> None:
        self._vhost = vhost

    def published(
        self,
        channel: object,
        message: Message,
        routing_keys: Sequence[str],
        queues: Sequence[Queue],
    ) -> None:
        """Trace a message that came in."""
        names = [queue.name for queue in queues if not queue.is_hidden]
        trace_publish(self._vhost, message, routing_keys, names, self._origin(channel))

    def delivered(
        self, channel: object, queue: Queue, messages: Sequence[Message], redelivered: bool
    ) -> None:
        """Trace messages that go out."""
        origin = self._origin(channel)
        for message in messages:
            trace_delivery(self._vhost, message, queue.name, redelivered, origin)

    def _origin(self, channel: object) -> Origin:
        known = cast("_Channel", channel)
        session = known.session
        user = "" if session.user is None else session.user.name
        node = self._vhost.broker.node
        return Origin(node, self._vhost.name, session.peer, known.number, user)


def _owner(vhost: VirtualHost) -> Owner:
    return vhost.name, "vhost", vhost.name


def _start(broker: Broker) -> None:
    """Have tracing go on where it was on, once what was kept is there."""

    def started() -> None:
        for name, _, _ in broker.notes.owners(NAME):
            if name in broker.vhosts:
                trace_on(broker.vhosts[name])

    broker.events.subscribe("broker.started", started)


def register(registry: Registry) -> None:
    """Add what this plugin is for."""
    registry.start(_start)
