"""Ledger: what clients did to a broker, and what must be there after it was killed.

Law: a client writes down what it is about to do before it does it, and what the broker answered
after it was told. So a message is in one state at any moment: after a restart it MUST be there
(it was confirmed), MAY be (it was sent), or must NEVER be (it was rolled back or purged), as one
that is PASSING (it is transient) must not.

An ack is answered by nothing; but a confirm of a persistent message that was published later on
the same channel says that the ack before it is committed, too: what is asked for on one channel
is committed in order. Such a publish is called a receipt here.

Called by: workers and inspector (they write), storm (sums up).
"""

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from random import Random
from struct import Struct, error
from typing import NamedTuple

HEAD = Struct(">HHII")  # stream, whether it is persistent, number in the stream, size
FILLER = Random(18).randbytes((3 << 20) + 1024)
SMALLEST = HEAD.size


class State(IntEnum):
    """What a restart does to a message."""

    NEVER = 0
    PASSING = 1
    MAY = 2
    MUST = 3


class Key(NamedTuple):
    """A message: its stream and its number in it."""

    stream: int
    number: int


class Stream:
    """What one channel publishes, in order.

    Attributes:
      number: Its own.
      life: The life of the broker that it belongs to.
      routes: Of each message, the queues it goes to.
      states: Of each message.
    """

    def __init__(self, number: int, life: int) -> None:
        self.number = number
        self.life = life
        self.routes: list[tuple[str, ...]] = []
        self.states: list[State] = []

    def body(self, queues: tuple[str, ...], size: int, state: State = State.MAY) -> bytes:
        """Write down a message that is about to be published; return its body."""
        number = len(self.routes)
        self.routes.append(queues)
        self.states.append(state)
        return _body(self.number, number, max(size, SMALLEST), state is not State.PASSING)


def _body(stream: int, number: int, size: int, persistent: bool) -> bytes:
    start = number % 997
    head = HEAD.pack(stream, persistent, number, size)
    return head + FILLER[start : start + size - SMALLEST]


class Account:
    """What is known of one queue's messages.

    Attributes:
      acked: Those that an ack was sent for: they may be gone.
      gone: Those whose ack is committed: they never come again.
      current: Those acked since the broker's last start; no ack of them can be lost.
      returned: Those returned since then.
      marked: Those delivered before a receipt: they come flagged redelivered.
      is_consumed: Whether there was a consumer since the queue was last empty.
    """

    def __init__(self) -> None:
        self.acked: set[Key] = set()
        self.gone: set[Key] = set()
        self.current: set[Key] = set()
        self.returned: set[Key] = set()
        self.marked: set[Key] = set()
        self.is_consumed = False


class Ledger:
    """All that is known.

    Attributes:
      faults: What the broker did wrong, in words.
      figures: How often what happened.
      life: Which life of the broker it is.
      is_ending: Whether the broker was asked to stop: it says goodbye to one client after the
        other, and an ack that crosses its close is not heard, while others are still served.
    """

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.accounts: dict[str, Account] = {}
        self.faults: list[str] = []
        self.figures: Counter[str] = Counter()
        self.life = 0
        self.is_ending = False

    def stream(self) -> Stream:
        """Return a stream for a new channel."""
        made = Stream(len(self.streams), self.life)
        self.streams.append(made)
        return made

    def account(self, queue: str) -> Account:
        """Return the account of a queue."""
        return self.accounts.setdefault(queue, Account())

    def begin_life(self) -> None:
        """The broker starts: acks that were on their way may be lost."""
        self.life += 1
        self.is_ending = False
        for account in self.accounts.values():
            account.current.clear()
            account.returned.clear()

    def fault(self, text: str) -> None:
        """Write down what must not be."""
        self.faults.append(f"life {self.life}: {text}")

    def delivered(self, queue: str, body: bytes, redelivered: bool) -> Key | None:
        """Judge a delivery; return what it is, unless it is nothing that was ever sent."""
        key = self._identify(queue, body)
        if key is None:
            return None
        account = self.account(queue)
        if key in account.gone:
            self.fault(f"{queue}: {key} came back, its ack was committed")
        elif key in account.current and not self.is_ending:
            history = "returned once" if key in account.returned else "never returned"
            flag = "" if redelivered else "not "
            self.fault(f"{queue}: {key} came again after its ack ({history}, {flag}flagged)")
        if not redelivered and (key in account.marked or key in account.returned):
            self.fault(f"{queue}: {key} came again and is not flagged redelivered")
        if redelivered and not account.is_consumed:
            self.fault(f"{queue}: {key} is flagged redelivered, and nobody ever had it")
        return key

    def _identify(self, queue: str, body: bytes) -> Key | None:
        try:
            number, persistent, message, size = HEAD.unpack_from(body)
            stream = self.streams[number]
            queues, state = stream.routes[message], stream.states[message]
        except (IndexError, error):
            self.fault(f"{queue}: invented: {body[:32]!r}")
            return None
        key = Key(number, message)
        if body != _body(number, message, size, bool(persistent)):
            self.fault(f"{queue}: {key} is damaged")
        if queue not in queues:
            self.fault(f"{queue}: {key} was sent to {queues}")
        if state is State.PASSING and stream.life != self.life:
            self.fault(f"{queue}: {key} is transient and outlived the broker")
        if state is State.NEVER:
            self.fault(f"{queue}: {key} must not be there (rolled back, purged or deleted)")
        return key

    def acking(self, queue: str, keys: list[Key]) -> None:
        """An ack is about to be sent."""
        account = self.account(queue)
        account.acked.update(keys)
        account.current.update(keys)
        self.figures["acked"] += len(keys)

    def returning(self, queue: str, key: Key) -> None:
        """A message is about to be returned to the queue."""
        self.account(queue).returned.add(key)
        self.figures["requeued"] += 1

    def committed(self, queue: str, acked: list[Key], seen: list[Key]) -> None:
        """What happened before a receipt that was confirmed now."""
        account = self.account(queue)
        account.gone.update(acked)
        account.marked.update(seen)
        self.figures["acks known to be committed"] += len(acked)

    def confirmed(self, stream: Stream, numbers: Sequence[int]) -> None:
        """Messages were confirmed."""
        for number in numbers:
            if stream.states[number] is State.MAY:
                stream.states[number] = State.MUST
        self.figures["confirmed"] += len(numbers)

    def expected(self) -> dict[str, set[Key]]:
        """Return what must be in the queues."""
        wanted: dict[str, set[Key]] = {queue: set() for queue in self.accounts}
        for stream in self.streams:
            for number, state in enumerate(stream.states):
                if state is State.MUST:
                    key = Key(stream.number, number)
                    for queue in stream.routes[number]:
                        if key not in self.accounts[queue].acked:
                            wanted[queue].add(key)
        return wanted

    def judge_content(self, queue: str, keys: list[Key], expected: set[Key]) -> None:
        """Judge all that was in a queue, in its order."""
        present = set(keys)
        lost = sorted(expected - present)
        if lost:
            self.figures["LOST"] += len(lost)
            self.fault(f"{queue}: {len(lost)} of {len(expected)} confirmed are lost: {lost[:3]}")
        if len(present) < len(keys):
            twice = [key for key, count in Counter(keys).items() if count > 1]
            self.fault(f"{queue}: {len(twice)} messages came twice, {twice[:3]}")
        last: dict[int, int] = {}
        for key in keys:
            if key.number < last.get(key.stream, -1):
                self.fault(f"{queue}: {key} came after number {last[key.stream]} of its stream")
                break
            last[key.stream] = key.number
        self.figures["found after a kill"] += len(keys)
        self.figures["found, though not confirmed"] += sum(
            self.streams[key.stream].states[key.number] is State.MAY for key in present
        )
        self.figures["acks lost that nothing followed"] += len(present & self.account(queue).acked)
