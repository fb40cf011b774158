"""Publish orders to the exchange of deploy/topology.yaml, each confirmed by the broker.

    leveret serve --in-memory --topology deploy/topology.yaml
    python clients/examples/publish.py [URL]

This is plain pika, as for RabbitMQ: only `pip install pika` is needed, nothing of Leveret.
"""

import json
import sys

import pika
from pika.exceptions import UnroutableError

URL = "amqp://guest:guest@localhost:5672/%2f"
ORDERS = [
    {"number": 1, "region": "eu", "total": "19.90"},
    {"number": 2, "region": "us", "total": "7.00"},
    {"number": 3, "region": "eu", "total": "120.50"},
]


def main(url: str = URL) -> None:
    """Publish `ORDERS`; say what the broker did with each."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    with connection, connection.channel() as channel:
        channel.confirm_delivery()  # from here on, basic_publish returns when the broker has it
        for order in ORDERS:
            key = f"order.created.{order['region']}"
            properties = pika.BasicProperties(
                content_type="application/json",
                delivery_mode=pika.DeliveryMode.Persistent,
                message_id=str(order["number"]),
            )
            try:
                channel.basic_publish("orders", key, json.dumps(order), properties, mandatory=True)
            except UnroutableError:
                print(f"order {order['number']}: no queue is bound for {key}", flush=True)
            else:
                print(f"order {order['number']}: confirmed", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
