"""Store: the interface of what keeps rows and definitions, and what durable means.

Law: a store knows neither queues nor messages. It keeps rows of octets in order, deletes and
replaces them, and keeps definitions beside them, all that is handed to one `begin` at once or
not at all. When its `ended` is called with None, it survives the loss of power.

Called by: storage.memory, storage.sqlite (they are stores), server.committer (commits),
server.pager and server.housekeeper (read), persistence (opens); its errors: whoever meets them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

CHANGED: Final = "the checksum of its body does not match"  # what is said of a row


class StoreError(Exception):
    """A store cannot be used; the text is one line for its operator."""


class StoreFailed(StoreError):
    """A commit is not known to be durable: nothing in it may be confirmed, ever."""


class Damaged(StoreError):
    """What a store holds is not what was written there; the text says where."""


class Fenced(StoreFailed):
    """Another owner has taken over; what this one knows is out of date."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write, from `acquire` until `deadline`.

    Attributes:
      shard: What it is for; 0 where there is only one.
      epoch: Grows with each owner; a store refuses rows of an older one.
      deadline: When it ends, in seconds of the local monotonic clock.
    """

    shard: int
    epoch: int
    deadline: float


class Definition(NamedTuple):
    """One definition as it is to be kept: a queue, a user, a binding.

    Attributes:
      kind: What it is ("queue").
      key: Which one, unique among its kind.
      value: What is known of it; None deletes it.
    """

    kind: str
    key: bytes
    value: bytes | None


@dataclass(slots=True)
class Row:
    """What one commit adds, or a part of it.

    Attributes:
      seq: Its number: grows by each row, never reused.
      index: What the body holds, in records, checksummed by whoever made it.
      pieces: The octets of messages, in the order in which they are put together.
      delete: Rows that nobody needs any more.
      replace: Rows of which only a new index is still needed; their bodies become empty.
      definitions: Changed in the same transaction, in order.
    """

    seq: int
    index: bytes
    pieces: Sequence[bytes | memoryview] = ()
    delete: Sequence[int] = ()
    replace: Sequence[tuple[int, bytes]] = ()
    definitions: Sequence[Definition] = field(default=())

    @property
    def body(self) -> bytes:
        """What `Ref` points into; made anew at each look. The store keeps its checksum."""
        return b"".join(self.pieces)


class Ref(NamedTuple):
    """Octets in the body of a row."""

    seq: int
    offset: int
    length: int


Ended: TypeAlias = "Callable[[BaseException | None], None]"


class Store(Protocol):
    """What keeps rows. Every method but the constructor may be slow; none blocks the event loop.

    Attributes:
      notes: What was strange when it was opened, and no damage; for people.
    """

    notes: list[str]

    async def open(self) -> None:
        """Make the store usable, creating it if there is none.

        Raises:
          StoreError: It is in use, not ours, of a newer format, damaged, or cannot be written.
        """

    async def close(self) -> None:
        """Let go of everything; what was committed stays."""

    async def acquire(self, shard: int, node: str, seconds: float) -> Lease | None:
        """Become the owner, under a new epoch; None while somebody else is."""

    async def renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[Lease]:
        """Prolong leases; return those that are still held."""

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""

    def begin(self, rows: Sequence[tuple[Lease, Row]], ended: Ended) -> None:
        """Begin to make rows durable, all or none of them; commits take effect in their order.

        Args:
          ended: Called later, in the event loop: with None once they are, else with the reason.
            `Fenced`: a lease is not held any more, nothing was written. `StoreFailed`: it is not
            known whether anything was.

        Raises:
          StoreFailed: It is closed.
        """

    async def committed(self, lease: Lease, seq: int) -> bool:
        """Return whether a row is there, after a commit that ended in doubt."""

    def recover(self, lease: Lease) -> AsyncGenerator[Sequence[tuple[int, bytes]], None]:
        """Return number and index of all rows, ascending, some at a time; never a body."""

    async def body_sizes(self, lease: Lease, first: int, last: int) -> Sequence[int]:
        """Return how long the bodies of rows are, from one row to another, in their order."""

    async def read(self, lease: Lease, refs: Sequence[Ref]) -> list[bytes]:
        """Return octets of bodies, in the order asked for.

        Raises:
          StoreError: They are not there.
          Damaged: The body of a row that is read for the first time is not what was written.
        """

    async def load_definitions(self) -> Sequence[tuple[str, bytes, bytes]]:
        """Return kind, key and value of all definitions, in the order they were first kept."""

    async def maintain(self, seconds: float) -> bool:
        """Give space back for about so long; return whether there is more to do."""
