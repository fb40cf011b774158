"""Inspection: a whole store read offline, and what is damaged in it.

Law: nothing is changed here. What SQLite cannot read is stepped over, so that the rest is seen.

Called by: storage.tools.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from leveret.broker.core.broker import Broker
from leveret.broker.storage.base import Damaged, StoreError
from leveret.broker.storage.bodies import places_in, shortages
from leveret.broker.storage.catalog import Catalog
from leveret.broker.storage.catalog_format import BINDING, EXCHANGE, KINDS, NOTE, shown
from leveret.broker.storage.database import path_of
from leveret.broker.storage.findings import Inspection, Problem, numbers
from leveret.broker.storage.row_inspection import RowInspection
from leveret.broker.storage.salvage import definitions

if TYPE_CHECKING:
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.registry import Registry
    from leveret.broker.storage.leaves import Leaves

_UNUSED: Final = "is never used"


def inspect(
    connection: sqlite3.Connection, leaves: Leaves, registry: Registry | None, *, is_deep: bool
) -> Inspection:
    """Return what is in a store.

    Args:
      registry: What definitions may ask for beyond what every broker knows.
      is_deep: Whether to read the bodies, and to have SQLite check itself.

    Raises:
      StoreError: It was written by a later Leveret.
    """
    found = Inspection()
    if is_deep:
        _check_database(connection, found)
    _look_for_files(connection, found)
    _look_at_definitions(connection, leaves, registry, found)
    RowInspection(connection, leaves, found, is_deep=is_deep).look()
    return found


def _check_database(connection: sqlite3.Connection, found: Inspection) -> None:
    try:
        said = [text for (text,) in connection.execute("PRAGMA integrity_check(20)")]
    except sqlite3.DatabaseError as problem:
        said = [str(problem)]
    if said != ["ok"]:
        found.is_torn = True
        lines = [line for text in said for line in text.split("\n")]
        # What is lost makes pages unused, too: that goes without saying.
        telling = [line for line in lines if not line.startswith("***") and _UNUSED not in line]
        found.problems += [Problem("database", line) for line in telling or lines[-1:]]


def _look_for_files(connection: sqlite3.Connection, found: Inspection) -> None:
    """Say which files of bodies are not as long as they should be; what was in them, rows say."""
    file = path_of(connection)
    with suppress(sqlite3.DatabaseError, Damaged):  # that is said where rows are read
        problems = shortages(file, places_in(connection, file))
        found.problems += [Problem("bodies", text) for text in problems]


# Definitions


def _read_definitions(
    connection: sqlite3.Connection, leaves: Leaves, found: Inspection
) -> dict[str, list[tuple[int, bytes, bytes]]]:
    """Return number, key and value of those that are whole, by kind."""

    def missed(first: int, last: int | None, reason: str) -> None:
        found.is_torn = True
        found.problems.append(Problem("definitions", reason, numbers("id", first, last)))

    by_kind: dict[str, list[tuple[int, bytes, bytes]]] = {kind: [] for kind in KINDS}
    for number, kind, key, value in definitions(connection, leaves, missed):
        assert isinstance(number, int)
        found.definitions += 1
        if not (isinstance(kind, str) and isinstance(key, bytes) and isinstance(value, bytes)):
            found.bad_definitions.add(number)
            found.problems.append(Problem(f"definition {number}", "it is no definition"))
        elif kind in by_kind:
            by_kind[kind].append((number, key, value))
        else:
            found.journal.tally.take_in([(kind, key, value)])
            found.notes.append(f"{shown(kind, key)}: this kind is not known")
    return by_kind


def _look_at_definitions(
    connection: sqlite3.Connection, leaves: Leaves, registry: Registry | None, found: Inspection
) -> None:
    broker = Broker(registry=registry)
    restorer = Catalog(broker, lambda _: None)
    absent: list[tuple[str, bytes, bytes]] = []  # exchanges of a type that is not there
    by_kind = _read_definitions(connection, leaves, found)
    by_kind[NOTE] = by_kind.pop(NOTE)  # to the end: their owners have to be there
    for kind, rows in by_kind.items():
        for number, key, value in rows:
            one = (kind, key, value)
            before = absent if kind == BINDING else []
            told = len(restorer.notes) + len(before)
            try:
                queues = restorer.restore([*before, one])
            except StoreError as problem:
                found.bad_definitions.add(number)
                found.problems.append(Problem(f"definition {number}", str(problem)))
                continue
            if len(restorer.notes) > told and kind == EXCHANGE:
                absent.append(one)
            found.notes += restorer.notes[told:]
            _take_in_queues(broker, found, number, queues)
            if number not in found.bad_definitions:
                found.journal.tally.take_in([one])
        for vhost in broker.vhosts.values():  # it may have been set below what was there
            vhost.max_queues = None


def _take_in_queues(
    broker: Broker, found: Inspection, number: int, queues: dict[int, Queue]
) -> None:
    for queue_number, queue in queues.items():
        if queue_number in found.queues:
            text = f"its number {queue_number} is that of {found.name(queue_number)}, too"
            found.bad_definitions.add(number)
            found.problems.append(Problem(f"definition {number}", text))
            continue
        for vhost in broker.vhosts.values():
            if queue in (vhost.queues.get(queue.name), vhost.hidden.get(queue.name)):
                found.queues[queue_number] = vhost.name, queue.name
