"""The firehose: copies of what is published and delivered, on `amq.rabbitmq.trace`.

Law: a copy has the body of its message; what the message was, and what became of it, stands in the
headers, under RabbitMQ's names. Messages of the trace exchange itself are not traced: they would
never end.

Called by: whoever publishes and delivers, where tracing is on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leveret.broker.core.message import Message
from leveret.broker.core.placing import find, republish
from leveret.broker.core.vhost import TRACE
from leveret.protocol.codec import encode_method
from leveret.protocol.constants import HAS_HEADERS
from leveret.protocol.content import Envelope
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from leveret.broker.core.vhost import VirtualHost
    from leveret.protocol.wire import Value


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
    """Return the routing keys that a queued message still shows: its own, and CC."""
    copies = (message.headers or {}).get("CC") if message.flags & HAS_HEADERS else None
    further = copies if isinstance(copies, list) else ()
    return [_published(message).routing_key, *(key for key in further if isinstance(key, str))]


def _fitting(key: str) -> str:
    """Return a routing key cut to what fits one: names may be as long themselves."""
    return key.encode()[:255].decode(errors="ignore")
