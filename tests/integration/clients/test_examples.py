"""The programs of clients/examples, run as a user runs them, on the sample topology."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest

from ...support.leveret import leveret

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "clients" / "examples"
TOPOLOGY = ROOT / "deploy" / "topology.yaml"
SECONDS = 20


@pytest.fixture
def shop_url() -> Iterator[str]:
    """A broker with the sample topology."""
    if "LEVERET_TEST_URL" in os.environ:
        pytest.skip("the sample topology is Leveret's")
    with leveret("--topology", str(TOPOLOGY)) as server:
        yield f"amqp://guest:guest@{server.host}:{server.port}/%2f"


@contextmanager
def running(example: str, url: str) -> Iterator[subprocess.Popen[str]]:
    """Run an example from an empty place: it must need nothing of the checkout."""
    command = [sys.executable, str(EXAMPLES / example), url]
    with subprocess.Popen(
        command,
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts jobs in the background with SIGINT ignored, and they pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def publish(url: str) -> str:
    with running("publish.py", url) as publisher:
        printed, _ = publisher.communicate(timeout=SECONDS)
        assert publisher.returncode == 0
        return printed


def test_published_orders_are_consumed_one_by_one(shop_url):
    with running("consume.py", shop_url) as consumer:
        assert consumer.stdout.readline() == "waiting for orders\n"

        printed = publish(shop_url)
        invoices = [consumer.stdout.readline() for _ in range(3)]
        consumer.send_signal(signal.SIGINT)
        assert consumer.wait(SECONDS) == 0

    assert printed == "order 1: confirmed\norder 2: confirmed\norder 3: confirmed\n"
    assert invoices == [
        "invoice for order 1: 19.90\n",
        "invoice for order 2: 7.00\n",
        "invoice for order 3: 120.50\n",
    ]
    with (
        pika.BlockingConnection(pika.URLParameters(shop_url)) as connection,
        connection.channel() as channel,
    ):
        assert channel.queue_delete("invoices").method.message_count == 0


def test_order_that_no_queue_takes_is_told(shop_url):
    with (
        pika.BlockingConnection(pika.URLParameters(shop_url)) as connection,
        connection.channel() as channel,
    ):
        channel.queue_unbind("audit", "orders", "#")
        channel.queue_delete("invoices")

        assert publish(shop_url).splitlines() == [
            "order 1: no queue is bound for order.created.eu",
            "order 2: no queue is bound for order.created.us",
            "order 3: no queue is bound for order.created.eu",
        ]
