"""Housekeeper: gives space of the store back, a little at a time.

Law: nobody waits for it. It moves messages out of rows that are mostly dead, and lets the store
shrink its file when nothing else is to be done.

Called by: persistence (starts `run`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import structlog
import trio

from leveret.broker.storage.base import StoreError, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leveret.broker.server.turns import Turns
    from leveret.broker.storage.base import Lease, Ref, Store

PAUSE = 1.0  # seconds between looks
SHORT_PAUSE = 0.02  # while there is much to do
STEP = 0.01  # seconds that the store may take at a time; commits wait for it

log = structlog.get_logger()


class Piece(Protocol):
    """Messages in a row."""

    @property
    def is_there(self) -> bool:
        """Whether their octets have not been given up since."""

    def ref(self) -> Ref:
        """Return where their octets are."""


class Rows(Protocol):
    """What has rows: a journal."""

    @property
    def is_dirty(self) -> bool:
        """Whether there is anything to commit."""

    def to_move(self) -> list[Any]:
        """Return the pieces that should be read and handed to `move`."""

    def move(self, read: Iterable[tuple[Any, bytes]]) -> None:
        """Have pieces put into a new row."""


class Housekeeper:
    """Looks after the rows of a journal and the file of a store."""

    def __init__(self, turns: Turns, rows: Rows, store: Store, lease: Lease) -> None:
        self._turns = turns
        self._rows = rows
        self._store = store
        self._lease = lease

    async def run(self) -> None:
        """Look again and again, for ever."""
        pause = PAUSE
        while True:
            await trio.sleep(pause)
            has_moved = await self.compact()
            has_more = has_moved
            if not has_moved and not self._rows.is_dirty:
                has_more = await self._shrink()
            pause = SHORT_PAUSE if has_more else PAUSE

    async def compact(self) -> bool:
        """Move some messages out of rows that are not worth it; return whether there were any."""
        pieces: list[Piece] = self._rows.to_move()
        while pieces:
            try:
                octets = await self._store.read(self._lease, [piece.ref() for piece in pieces])
            except StoreError:
                left = [piece for piece in pieces if piece.is_there]
                if len(left) == len(pieces):
                    raise
                pieces = left  # some rows were given up meanwhile
                continue
            self._rows.move(zip(pieces, octets, strict=True))
            self._turns.finish()
            return True
        return False

    async def _shrink(self) -> bool:
        """Let the store give back space for a moment; return whether there is more to do."""
        try:
            return await self._store.maintain(STEP)
        except StoreFailed:
            raise
        except StoreError as problem:  # it can wait: nothing is lost by it
            log.warning("store.not_shrunk", reason=str(problem))
            return False
