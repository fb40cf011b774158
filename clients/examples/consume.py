"""Work through the queue `invoices` of deploy/topology.yaml, one order at a time, until Ctrl-C.

    leveret serve --in-memory --topology deploy/topology.yaml
    python clients/examples/consume.py [URL]

Start it twice: the broker shares the work out. An order is gone from the queue only when it was
acknowledged; stop a worker in the middle of one, and another worker gets it.
"""

import json
import sys

import pika

URL = "amqp://guest:guest@localhost:5672/%2f"


def write_invoice(
    channel: pika.adapters.blocking_connection.BlockingChannel,
    method: pika.spec.Basic.Deliver,
    properties: pika.BasicProperties,
    body: bytes,
) -> None:
    """Do the work, then acknowledge."""
    order = json.loads(body)
    again = " (delivered before)" if method.redelivered else ""
    print(f"invoice for order {order['number']}: {order['total']}{again}", flush=True)
    channel.basic_ack(method.delivery_tag)


def main(url: str = URL) -> None:
    """Consume until interrupted."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    with connection, connection.channel() as channel:
        channel.basic_qos(prefetch_count=1)  # no second order before the first is acknowledged
        channel.basic_consume("invoices", write_invoice)
        print("waiting for orders", flush=True)
        try:
            channel.start_consuming()
        except KeyboardInterrupt:
            channel.stop_consuming()


if __name__ == "__main__":
    main(*sys.argv[1:])
