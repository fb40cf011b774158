"""What the load generator itself costs: `python -m tests.bench.generator`.

Its ceiling is what one core can publish and take in; a broker that comes near it was not the
limit. System calls are left out here (a send or a read of 128 KiB costs about 20 µs).
"""

import time
from collections.abc import Callable

from leveret.clients.perf.message import Encoder, templates
from leveret.clients.perf.options import Options, Sizes
from leveret.clients.perf.verify import Ledger, Stream

from ..clients.deliveries import FRAME_MAX, Listener, delivered, published

COUNT = 4096
ROUNDS = 15
CHUNK = 1 << 18

WORKLOADS = {
    "16 B": Options(),
    "256 B": Options(sizes=Sizes((256,))),
    "1 KiB": Options(sizes=Sizes((1024,))),
    "realistic": Options(
        sizes=Sizes((100, 4096), spread=True), message_ids=True, headers=3, type="direct", keys=20
    ),
}


def main() -> None:
    """Print microseconds a message, for publishing and for taking, best of some rounds."""
    print(f"{'':12}{'publish':>10}{'take':>10}{'ack each':>10}   µs a message")
    for name, options in WORKLOADS.items():
        figures = [_publish(options), _take(options, 0), _take(options, 1)]
        print(f"{name:12}" + "".join(f"{figure:10.3f}" for figure in figures))


def _publish(options: Options) -> float:
    encoder = Encoder(templates(options, range(1), FRAME_MAX)[0], 0, 0)

    def work() -> None:
        for _ in range(COUNT // 256):
            b"".join(encoder.next_parts(256, 1)[0])

    return _best(lambda: work)


def _take(options: Options, ack: int) -> float:
    octets = b"".join(delivered(published(options, COUNT)))

    def prepare() -> Callable[[], None]:
        listener = Listener(lambda _: Stream(Ledger()), ack_every=ack)
        chunks = [octets[at : at + CHUNK] for at in range(0, len(octets), CHUNK)]

        def work() -> None:
            for chunk in chunks:
                listener.hear(chunk)

        return work

    return _best(prepare)


def _best(prepare: Callable[[], Callable[[], None]]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        work = prepare()
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best / COUNT * 1e6


if __name__ == "__main__":
    main()
