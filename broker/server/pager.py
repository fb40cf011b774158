"""Pager: reads messages that are only in the store, shortly before they are dealt.

Law: a queue asks for a chunk at a time and goes on when it is there. What is not needed any more
by then is dropped.

Called by: persistence (starts `run`), server.turns (`look`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from leveret.broker.storage.base import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leveret.broker.server.committer import Committer
    from leveret.broker.server.turns import Turns
    from leveret.broker.storage.base import Lease, Ref, Store


class Place(Protocol):
    """Where the messages of a chunk are."""

    @property
    def is_wanted(self) -> bool:
        """Whether its queue still waits for them."""

    @property
    def is_kept(self) -> bool:
        """Whether what `refs` returned is in the store already."""

    @property
    def has_moved(self) -> bool:
        """Whether what `refs` returned is out of date."""

    def refs(self) -> Sequence[Ref]:
        """Return the octets to read."""

    def load(self, octets: Sequence[bytes]) -> None:
        """Put the messages in them into the queue."""


class Index(Protocol):
    """What queues ask for: a journal."""

    @property
    def is_asked(self) -> bool:
        """Whether queues have asked for anything."""

    def take_asked(self) -> Sequence[Place]:
        """Return what queues have asked for since this was called last."""


class Pager:
    """Reads chunks one after another."""

    def __init__(
        self, turns: Turns, index: Index, store: Store, lease: Lease, committer: Committer
    ) -> None:
        self._turns = turns
        self._committer = committer
        self._index = index
        self._store = store
        self._lease = lease
        self._asked = trio.Event()

    def look(self) -> None:
        """See at the end of a slice whether anything was asked for."""
        if self._index.is_asked:
            self._asked.set()

    async def run(self) -> None:
        """Read what is asked for, for ever."""
        turns, index = self._turns, self._index
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            for place in index.take_asked():
                while place.is_wanted:
                    refs = place.refs()
                    if not place.is_kept:
                        if self._committer.has_failed:
                            return
                        await self._committer.room()
                        continue
                    try:
                        octets = await self._store.read(self._lease, refs)
                    except StoreError:
                        if place.has_moved:
                            continue  # its row was given up while it was on its way there
                        raise
                    turns.look_at_clock()
                    place.load(octets)
                    break
                turns.loaded()  # also if nobody needs it: a get on a deleted queue waits for it
            self.look()
