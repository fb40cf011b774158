"""What the reader costs a message, by what the octets are like; prints CPU microseconds.

    python -m tests.bench.bench_reader

Each row is fed in chunks as a socket gives them, so that contents are cut. The best of several
rounds counts.
"""

import random
from time import process_time

from leveret.protocol.methods import BasicAck, BasicPublish
from leveret.protocol.properties import Properties
from leveret.protocol.reader import Reader

from ..support.wire import message, method

CHUNK = 65536
COUNT = 20_000
ROUNDS = 7


def realistic() -> bytes:
    """Mixed sizes, message-ids, headers, twenty keys."""
    chance = random.Random(1)
    return b"".join(
        message(
            bytes(chance.randrange(100, 4096)),
            1,
            BasicPublish("orders", f"key.{chance.randrange(20)}"),
            Properties(
                headers={"tenant": f"t{chance.randrange(50)}", "attempt": 1, "retry": False},
                message_id=f"{chance.getrandbits(128):032x}",
            ),
        )
        for _ in range(COUNT)
    )


def large() -> bytes:
    """4 to 64 KiB, five hundred of them again and again."""
    chance = random.Random(1)
    publish = BasicPublish("", "q")
    some = [message(bytes(chance.randrange(4096, 65536)), 1, publish) for _ in range(500)]
    return b"".join(some) * (COUNT // 500)


CASES = {
    "16 B, all alike": lambda: message(b"x" * 16, 1, BasicPublish("", "q")) * COUNT,
    "1 KiB, all alike": lambda: message(b"x" * 1024, 1, BasicPublish("", "q")) * COUNT,
    "realistic": realistic,
    "4-64 KiB": large,
    "acks": lambda: b"".join(method(BasicAck(tag)) for tag in range(1, COUNT + 1)),
}


def cost(data: bytes) -> float:
    """Return microseconds a message."""
    best = float("inf")
    chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    for _ in range(ROUNDS):
        reader = Reader()
        start = process_time()
        for chunk in chunks:
            reader.feed(chunk)
        best = min(best, process_time() - start)
    return best / COUNT * 1e6


def main() -> None:
    """Print a line a case."""
    for name, make in CASES.items():
        print(f"{name:20} {cost(make()):7.3f} µs a message")


if __name__ == "__main__":
    main()
