"""pika's blocking client, for tests that outlive the broker they talk to.

Called by: test_restart.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

SECONDS = 20  # for whatever must come


@contextmanager
def channel(
    broker, vhost: str = "/", user: str = "guest", password: str = "guest"
) -> Iterator[BlockingChannel]:
    """Open a channel; the broker may be gone when it is left."""
    login = pika.PlainCredentials(user, password)
    connection = pika.BlockingConnection(
        pika.ConnectionParameters(
            broker.host, broker.port, vhost, login, blocked_connection_timeout=SECONDS
        )
    )
    try:
        yield connection.channel()
    finally:
        with suppress(AMQPError):
            connection.close()


def declare(broker, queue: str, **options: object) -> None:
    """Declare a durable queue."""
    with channel(broker) as here:
        here.queue_declare(queue, **{"durable": True, **options})


def publish(
    here: BlockingChannel,
    queue: str,
    *bodies: bytes,
    exchange: str = "",
    persistent: bool = True,
    **properties: object,
) -> None:
    """Publish messages; on a channel that confirms each is confirmed when this returns."""
    mode = 2 if persistent else 1
    for body in bodies:
        here.basic_publish(
            exchange, queue, body, pika.BasicProperties(delivery_mode=mode, **properties)
        )


def store(broker, queue: str, *bodies: bytes, **options: object) -> None:
    """Publish messages and have them confirmed, on a connection of their own."""
    with channel(broker) as here:
        here.confirm_delivery()
        publish(here, queue, *bodies, **options)


def receipt(here: BlockingChannel, queue: str = "receipts") -> None:
    """Have what was asked for on a channel committed: a confirm of something persistent is last.

    The channel must confirm.
    """
    here.queue_declare(queue, durable=True)
    publish(here, queue, b"receipt")


def content(broker, queue: str) -> list[tuple[bytes, bool]]:
    """Return body and redelivered flag of all messages of a queue; they are returned to it."""
    found = []
    with channel(broker) as here:
        while True:
            method, _, body = here.basic_get(queue)
            if method is None:
                return found
            found.append((body, method.redelivered))


def bodies(broker, queue: str) -> list[bytes]:
    """Return the bodies of all messages of a queue; they are returned to it."""
    return [body for body, _ in content(broker, queue)]
