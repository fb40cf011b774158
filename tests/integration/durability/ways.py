"""Messages that plugins move, by their age, their number or a consumer's word, and what is due.

Law: a client writes down what it is about to do before it does it, and what the broker answered
after it was told. Each message has a way: the queue that it was published to, and those where it
may be moved from there. After a kill it is in one place of its way; how it came there, its x-death
says. What was settled before a receipt that was confirmed is settled for good (see `ledger`).

Called by: passage.
"""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from leveret.broker.testing import Received

from .ledger import Ledger

END = "way-end"
EXCHANGE = "way-later"
ROUNDING = 2  # milliseconds
LATE = 1000.0  # milliseconds that a message may be on its way to a client when its time is over


def dying(key: str = END, **arguments: object) -> dict[str, object]:
    """Return arguments of a queue whose dead letters go to another."""
    there = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": key}
    return there | {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}


QUEUES: dict[str, dict[str, object]] = {
    "way-first": dying("way-second", message_ttl=600),
    "way-second": dying(message_ttl=300),
    "way-short": dying(max_length=20),
    "way-full": dying(max_length=20, overflow="reject-publish-dlx"),
    "way-retry": dying(delivery_limit=3, retry_min=50, retry_factor=2, retry_jitter=0.5),
    "way-late": dying(message_delay=150),
    "way-target": dying(),
    "way-ranked": dying(max_priority=4, message_ttl=800),
    "way-fair": dying(fair_key="tenant"),
    "way-once": dying(message_deduplication=True),
    "way-tx": dying("way-tx-end"),
    "way-tx-end": {},
    END: {},
}
NEXT = {
    name: str(arguments["x-dead-letter-routing-key"])
    for name, arguments in QUEUES.items()
    if "x-dead-letter-routing-key" in arguments
}
ENTRIES = [name for name in NEXT if name not in {"way-second", "way-tx"}]
TTL = {"way-first": 600, "way-second": 300, "way-ranked": 800}
DELAYS = {"way-late": 150, "way-target": 200}
LIMIT = 3
LONGEST = 0.6  # seconds after which nothing that comes back or is delayed waits any more


@dataclass
class Fate:
    """What is known of a message.

    Attributes:
      entry: The queue that it was published to.
      is_sure: Whether it was confirmed, so that it must be there.
      sent: When it was sent, in milliseconds of the wall clock.
      life: The longest that it may wait there to be taken.
      confirmed: When it was known to be there.
      is_delayed: Whether it was published to be delayed.
      is_transient: Whether it goes with the broker.
      acked: Whether an acknowledgement was sent: it may be gone.
      is_gone: Whether that is committed.
      rejected: Queues in which it was rejected; whether that is committed.
      returned: How often it was returned to the queue with a limit; how often for certain.
    """

    entry: str
    sent: float
    life: float
    is_delayed: bool
    is_transient: bool
    is_sure: bool = False
    confirmed: float = 0.0
    acked: bool = False
    is_gone: bool = False
    rejected: dict[str, bool] = field(default_factory=dict)
    returned: int = 0
    is_returned: int = 0


class Ways:
    """All messages; each is one number.

    Args:
      ledger: Where faults and figures are written down.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.fates: list[Fate] = []
        self.found: Counter[int] = Counter()  # since the last sweep began
        self.stops = 0  # each may return what was not settled
        self.unanswered: dict[int, bytes] = {}  # publishes to a queue that drops duplicates
        self._lock = Lock()

    def add(self, fate: Fate) -> int:
        """Write down a message that is about to be published; return its number."""
        with self._lock:
            self.fates.append(fate)
            return len(self.fates) - 1

    def confirm(self, numbers: Iterable[int]) -> None:
        """Messages are in the store."""
        now = time.time() * 1000
        for number in numbers:
            self.fates[number].is_sure = True
            self.fates[number].confirmed = now
            self.unanswered.pop(number, None)
            self.ledger.figures["confirmed"] += 1

    def end_life(self, *, is_stop: bool) -> None:
        """The broker has gone, and what is transient with it."""
        self.stops += is_stop
        for fate in self.fates:
            if fate.is_transient:
                fate.acked = fate.is_gone = True

    def fault(self, number: int, text: str) -> None:
        self.ledger.fault(f"{number} {text}: {self.fates[number]}")

    def delivered(self, queue: str, item: Received) -> int:
        """Judge a delivery; return the number of the message."""
        number = int(item.body.split()[0])
        fate, now = self.fates[number], time.time() * 1000
        deaths = list((item.properties.headers or {}).get("x-death", ()))
        if fate.is_gone:
            self.fault(number, f"came back in {queue}, it was gone for good")
        if fate.rejected.get(queue):
            self.fault(number, f"came back in {queue}, it was rejected there for good")
        self._judge_way(number, queue, deaths)
        if queue == fate.entry:
            delay = DELAYS.get(queue, 0) if fate.is_delayed or queue == "way-late" else 0
            if now < fate.sent + delay - ROUNDING:
                self.fault(number, "came too early")
            if fate.confirmed and now > fate.confirmed + delay + fate.life + LATE:
                self.fault(number, f"came from {queue} after its time")
        if queue == "way-retry":
            self._judge_count(number, item)
        return number

    def _judge_way(self, number: int, queue: str, deaths: list[dict[str, object]]) -> None:
        """Compare what the message says of its deaths with how it may have come here."""
        fate = self.fates[number]
        place = fate.entry
        for death in reversed(deaths):
            if death["queue"] != place or death["count"] != 1:
                self.fault(number, f"says that it died otherwise: {deaths}")
                return
            self._judge_reason(number, place, str(death["reason"]))
            place = NEXT[place]
        if place != queue:
            self.fault(number, f"is in {queue}, and says: {deaths}")
        self.ledger.figures["deaths read"] += len(deaths)

    def _judge_reason(self, number: int, queue: str, reason: str) -> None:
        fate = self.fates[number]
        expires = queue in TTL or (queue == fate.entry and fate.life < float("inf"))
        may = {
            "expired": expires,
            "rejected": queue in fate.rejected,
            "maxlen": queue in {"way-short", "way-full"},
            "delivery_limit": queue == "way-retry" and fate.returned + self.stops > LIMIT,
        }
        if not may[reason]:
            self.fault(number, f"says that it left {queue} because: {reason}")

    def _judge_count(self, number: int, item: Received) -> None:
        fate = self.fates[number]
        count = (item.properties.headers or {}).get("x-delivery-count", 0)
        assert isinstance(count, int)
        if not fate.is_returned <= count <= fate.returned + self.stops:
            self.fault(number, f"counts {count} returns")

    def taken(self, number: int) -> None:
        """A message was taken for good, while nothing else happened."""
        fate = self.fates[number]
        self.found[number] += 1
        if self.found[number] > 1:
            self.fault(number, "is there more than once")
        self.ledger.figures["found after a kill"] += 1
        fate.acked = fate.is_gone = True

    def settle_up(self) -> None:
        """Judge a sweep: all that must be there was."""
        for number, fate in enumerate(self.fates):
            if fate.is_sure and not fate.acked and number not in self.found:
                self.fault(number, "is lost")
            fate.acked = fate.is_gone = True  # what was found is; the others never were there
        self.found.clear()
        self.unanswered.clear()
