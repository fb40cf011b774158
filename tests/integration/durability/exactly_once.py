"""A publisher and a consumer that work as the README says, each a process that may be killed.

    python -m tests.integration.durability.exactly_once publish|consume PORT FILE COUNT

The publisher sends orders 0 to COUNT - 1, and writes down now and then which are confirmed; what
is not written down it sends again. The consumer has one effect an order, in the same transaction
as its note that it had it. Both connect again when the broker is gone.

Called by: test_exactly_once.
"""

import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

HOST = "127.0.0.1"
PUBLISHER = "shop-7"
EXCHANGE, WORK, AUDIT = "orders", "work", "audit"
DEDUP = {"x-message-deduplication": True}
NOTED = 20  # confirms after which the publisher writes them down
PAUSE = 0.02  # seconds before the next attempt to connect


def declare(channel: BlockingChannel) -> None:
    """Declare an exchange that swallows duplicates, and two queues behind it."""
    channel.exchange_declare(EXCHANGE, "fanout", durable=True, arguments=DEDUP)
    for queue in (WORK, AUDIT):
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, EXCHANGE)


def persist(port: int, work: Callable[[BlockingChannel], None]) -> None:
    """Do something on a channel, and again on a new one whenever the broker goes away."""
    while True:
        try:
            with pika.BlockingConnection(pika.ConnectionParameters(HOST, port)) as connection:
                work(connection.channel())
                return
        except (AMQPError, OSError):
            time.sleep(PAUSE)


def publish(port: int, file: Path, count: int) -> None:
    """Send what is not known to be confirmed."""
    sent = file.with_suffix(".sent").open("a", buffering=1)

    def work(channel: BlockingChannel) -> None:
        declare(channel)
        channel.confirm_delivery()
        with file.open("a") as confirmed:
            start = len(file.read_text().split())
            for number in range(start, count):
                identity = f"{PUBLISHER}-{number}"
                properties = pika.BasicProperties(delivery_mode=2, message_id=identity)
                sent.write(f"{number}\n")
                channel.basic_publish(EXCHANGE, "", str(number).encode(), properties)
                confirmed.write(f"{number}\n")
                if (number + 1) % NOTED == 0:
                    confirmed.flush()

    persist(port, work)


def effects(file: Path) -> sqlite3.Connection:
    """Open what the consumer changes: its effects, and the keys of those it had."""
    database = sqlite3.connect(file, timeout=20)
    database.execute("CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY)")
    database.execute("CREATE TABLE IF NOT EXISTS effect (number INTEGER)")
    database.commit()
    return database


def consume(port: int, file: Path, count: int) -> None:
    """Have one effect for each order, until all have come."""
    database = effects(file)

    def work(channel: BlockingChannel) -> None:
        declare(channel)
        channel.basic_qos(prefetch_count=50)
        (had,) = database.execute("SELECT count(*) FROM seen").fetchone()
        for method, properties, body in channel.consume(WORK, inactivity_timeout=PAUSE):
            if method is not None:
                with database:  # both or neither
                    key = (properties.message_id,)
                    if database.execute("INSERT OR IGNORE INTO seen VALUES (?)", key).rowcount:
                        database.execute("INSERT INTO effect VALUES (?)", (int(body),))
                        had += 1
                channel.basic_ack(method.delivery_tag)
            if had == count:
                return

    persist(port, work)


if __name__ == "__main__":
    verb, port, file, count = sys.argv[1:]
    {"publish": publish, "consume": consume}[verb](int(port), Path(file), int(count))
