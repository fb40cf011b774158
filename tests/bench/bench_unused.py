"""What plugins that nobody uses cost a message: `python -m tests.bench.bench_unused`.

Law: two brokers in one process take turns, one with all plugins and one with none. Each publishes
with confirms, delivers and has acknowledged the same messages; the smallest CPU time counts.
"""

import gc
import sys
import time

from leveret.broker import plugins
from leveret.broker.core.broker import Broker
from leveret.broker.core.registry import Registry
from leveret.protocol.methods import BasicAck, BasicPublish, ConfirmSelect
from leveret.protocol.properties import Properties
from leveret.protocol.writer import method_frame
from tests.support.client import Client, content_of, finish

PAIRS = 20
CHUNKS, EACH = 60, 500
BAR = 1.03


class Load:
    """A broker that is used."""

    def __init__(self, registry: Registry) -> None:
        self.broker = Broker(registry=registry)
        self.broker.add_defaults()
        self.broker.now = 1000
        self.client = Client(self.broker)
        self.client.declare("q")
        self.client.call(ConfirmSelect())
        self.client.open_channel(2)
        self.client.consume("q", "c", prefetch=4 * EACH, channel=2)
        self.acked = 0

    def run(self, chunk: bytes) -> float:
        """Publish, deliver, acknowledge; return the CPU seconds."""
        session, wire = self.client.session, self.client.wire
        started = time.process_time()
        for _ in range(CHUNKS):
            session.receive(chunk)
            while not session.run(lambda: False):
                pass
            finish(self.broker)
            self.acked += EACH
            session.receive(method_frame(2, BasicAck(self.acked, multiple=True)))
            session.run(lambda: False)
            finish(self.broker)
            wire.data = b""
        return time.process_time() - started


def main() -> int:
    """Print the figures; return 1 if the plugins cost more than they may."""
    chunk = b"".join(
        method_frame(1, BasicPublish("", "q"))
        + content_of(b"x" * (100 + number % 50), 1, Properties(message_id=str(number)))
        for number in range(EACH)
    )
    bare, full = Load(Registry()), Load(plugins.load())
    gc.disable()
    pairs = [(bare.run(chunk), full.run(chunk)) for _ in range(PAIRS)]
    none, every = (min(times) / (CHUNKS * EACH) * 1e6 for times in zip(*pairs, strict=True))
    print(f"none {none:.3f} us, all {every:.3f} us a message: {every / none:.3f}, bar {BAR}")
    return 0 if every <= BAR * none else 1


if __name__ == "__main__":
    sys.exit(main())
