"""A connection that asks for little all the time, as heartbeats do: it feels when a loop stalls.

Law: one round trip every few milliseconds; how long it takes is the broker's doing, how late the
probe itself is woken up is the machine's. Both are reported: the second is what the first cannot
be better than.

Called by: matrix.
"""

import time
from threading import Event, Thread

from leveret.clients.perf.link import Link, LinkLost
from leveret.protocol.errors import AMQPError
from leveret.protocol.methods import BasicQos, BasicQosOk
from leveret.protocol.uri import parse

PAUSE = 0.002  # seconds
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


class Probe(Thread):
    """Asks until it is told to stop."""

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True)
        self._link = Link(parse(uri), "bench probe")
        self._over = Event()
        self._trips: list[float] = []
        self._delays: list[float] = []

    def run(self) -> None:
        try:
            while not self._over.is_set():
                due = time.perf_counter() + PAUSE
                time.sleep(PAUSE)
                start = time.perf_counter()
                self._link.call(BasicQos(0, 1), BasicQosOk)
                self._trips.append(time.perf_counter() - start)
                self._delays.append(start - due)
        except (LinkLost, AMQPError, OSError):
            pass  # the load tells that the broker is gone

    def finish(self) -> dict[str, dict[str, float]]:
        """Stop; return the percentiles of both in milliseconds."""
        self._over.set()
        self.join()
        self._link.close()
        return {"stall_ms": quantiles(self._trips), "probe_late_ms": quantiles(self._delays)}


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return percentiles in milliseconds; none of nothing."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {name: ordered[round(last * at)] * 1000 for name, at in QUANTILES.items() if ordered}
