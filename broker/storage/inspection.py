"""Inspection: a whole store read offline, and what is damaged in it.

Law: nothing is changed here. What SQLite cannot read is stepped over, so that the rest is seen.
Each message is looked at: where it is, its publish method, its header. A body has no checksum of
its own; the pages it is on are SQLite's to check.

Called by: storage.tools.
"""

from __future__ import annotations

import sqlite3
from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from leveret.broker.core.batch import Batch
from leveret.broker.core.broker import Broker
from leveret.broker.storage import catalog
from leveret.broker.storage.base import StoreError
from leveret.broker.storage.journal import Journal
from leveret.broker.storage.records import Enqueued, Settled, decode, encode_enqueued, seal
from leveret.broker.storage.recovery import Recovery, contents, judge, split
from leveret.broker.storage.salvage import DEFINITIONS, LOWEST, ROWS, Octets, walk
from leveret.broker.storage.segment import LiveRow, Segment
from leveret.protocol.codec import decode_method
from leveret.protocol.errors import AMQPError
from leveret.protocol.methods import BasicPublish

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.core.queue import Queue
    from leveret.broker.storage.queue_log import Range
    from leveret.broker.storage.records import Record
    from leveret.broker.storage.recovery import Found

BASIC_CLASS: Final = 60
HEADER: Final = 14  # octets of a header's payload without any property
MEMO_LIMIT: Final = 4096
_UNUSED: Final = "is never used"

# The order in which one definition can stand on another.
KINDS: Final = (
    *(catalog.NUMBER, catalog.VHOST, catalog.USER, catalog.PERMISSIONS),
    *(catalog.TOPIC_PERMISSIONS, catalog.POLICY, catalog.OPERATOR_POLICY),
    *(catalog.EXCHANGE, catalog.QUEUE, catalog.BINDING),
)


class Problem(NamedTuple):
    """Something that is damaged.

    Attributes:
      where: What it is ("row 7").
      reason: What is wrong with it.
      held: What it held, for people; empty if that says nothing.
    """

    where: str
    reason: str
    held: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f"; {self.held}" if self.held else "")


@dataclass
class Inspection:
    """What was found in a store.

    Attributes:
      problems: What is damaged.
      notes: What is strange, and no damage.
      is_torn: Whether the database itself is damaged: it has to be made anew.
      definitions: How many there are.
      bad_definitions: Those that cannot be used, by their ids.
      rows: How many could be read.
      index_octets: Of those.
      bodies: Octets of the body of each.
      bad_rows: What is left of damaged rows: an index, None if nothing.
      queues: Virtual host and name by number.
      journal: What is alive.
      found: The messages by queue.
      lost: Positions of messages that are lost, by queue.
      back: Positions of messages that were settled and are there again, by queue.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_torn: bool = False
    definitions: int = 0
    bad_definitions: set[int] = field(default_factory=set)
    rows: int = 0
    index_octets: int = 0
    bodies: dict[int, int] = field(default_factory=dict)
    bad_rows: dict[int, bytes | None] = field(default_factory=dict)
    queues: dict[int, tuple[str, str]] = field(default_factory=dict)
    journal: Journal = field(default_factory=lambda: Journal(Batch()))
    found: dict[int, Found] = field(default_factory=dict)
    lost: dict[int, list[Range]] = field(default_factory=dict)
    back: dict[int, list[Range]] = field(default_factory=dict)

    def name(self, queue: int) -> str:
        """Return what a queue is called for people."""
        if queue not in self.queues:
            return f"a queue that is not defined (number {queue})"
        vhost, name = self.queues[queue]
        return f"queue {name!r} in vhost {vhost!r}"

    def of_queue(self, queue: int) -> tuple[int, int]:
        """Return messages of a queue, and the octets of their headers and bodies."""
        runs = self.found[queue].runs if queue in self.found else ()
        return sum(each.count for each in runs), sum(each.octets for each in runs)

    @property
    def body_octets(self) -> int:
        """The octets of all bodies."""
        return sum(self.bodies.values())

    @property
    def live_octets(self) -> int:
        """About how many of them still count."""
        return sum(
            self.bodies.get(row.seq, 0) * row.live // row.count
            for row in self.journal.rows.values()
            if row.count
        )

    @property
    def messages(self) -> int:
        """How many messages there are in queues."""
        return sum(self.of_queue(queue)[0] for queue in self.queues)


def inspect(connection: sqlite3.Connection, *, is_deep: bool) -> Inspection:
    """Return what is in a store.

    Args:
      is_deep: Whether to read the bodies, and to have SQLite check itself.

    Raises:
      StoreError: It was written by a later Leveret.
    """
    found = Inspection()
    if is_deep:
        _check_database(connection, found)
    _look_at_definitions(connection, found)
    _Rows(connection, found, is_deep=is_deep).look()
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


# Definitions


def _look_at_definitions(connection: sqlite3.Connection, found: Inspection) -> None:
    def missed(first: int, last: int | None, reason: str) -> None:
        found.is_torn = True
        found.problems.append(Problem("definitions", reason, _numbers("id", first, last)))

    by_kind: dict[str, list[tuple[int, bytes, bytes]]] = {kind: [] for kind in KINDS}
    for number, kind, key, value in walk(connection, DEFINITIONS, missed):
        assert isinstance(number, int)
        found.definitions += 1
        if not (isinstance(kind, str) and isinstance(key, bytes) and isinstance(value, bytes)):
            found.bad_definitions.add(number)
            found.problems.append(Problem(f"definition {number}", "it is no definition"))
        elif kind in by_kind:
            by_kind[kind].append((number, key, value))
        else:
            found.notes.append(f"{catalog.shown(kind, key)}: this kind is not known")
    broker = Broker()
    restorer = catalog.Catalog(broker, lambda _: None)
    absent: list[tuple[str, bytes, bytes]] = []  # exchanges of a type that is not there
    for kind, rows in by_kind.items():
        for number, key, value in rows:
            one = (kind, key, value)
            before = absent if kind == catalog.BINDING else []
            told = len(restorer.notes) + len(before)
            try:
                queues = restorer.restore([*before, one])
            except StoreError as problem:
                found.bad_definitions.add(number)
                found.problems.append(Problem(f"definition {number}", str(problem)))
                continue
            if len(restorer.notes) > told and kind == catalog.EXCHANGE:
                absent.append(one)
            found.notes += restorer.notes[told:]
            _take_in_queues(broker, found, number, queues)
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
            if vhost.queues.get(queue.name) is queue:
                found.queues[queue_number] = vhost.name, queue.name


def _numbers(what: str, first: int, last: int | None) -> str:
    low = "the first" if first == LOWEST else str(first)
    return f"{what} {low} to {'the last' if last is None else last}"


# Rows


class _Rows:
    """One walk over all rows."""

    def __init__(self, connection: sqlite3.Connection, found: Inspection, *, is_deep: bool) -> None:
        self._connection = connection
        self._found = found
        self._is_deep = is_deep
        self._recovery = Recovery(found.journal)
        self._ruins = Journal(Batch())  # as if there were only what is lost
        self._lost = Recovery(self._ruins)
        self._back: dict[int, list[Range]] = {}
        self._payloads: set[bytes] = set()  # of publish methods that are good

    def look(self) -> None:
        """Read everything, and put together what it comes to."""
        found, last = self._found, LOWEST - 1
        for seq, index, size in walk(self._connection, ROWS, self._missed):
            assert isinstance(seq, int)
            if not isinstance(index, bytes) or not isinstance(size, int):
                found.problems.append(Problem(f"row {seq}", "it is no row"))
                found.bad_rows[seq] = None
                continue
            if seq <= last:
                self._look_at_stray(seq, index, last)
                continue
            last = seq
            found.rows += 1
            found.index_octets += len(index)
            found.bodies[seq] = size
            self._look_at(seq, index, size)
        self._put_together()

    def _look_at_stray(self, seq: int, index: bytes, last: int) -> None:
        """Look at a row that is out of order; once it is in order it is looked at again."""
        self._found.is_torn = True
        self._found.problems.append(Problem(f"row {seq}", f"it comes after row {last}"))
        if judge(index)[1]:
            self._found.bad_rows.setdefault(seq, None)

    def _missed(self, first: int, last: int | None, reason: str) -> None:
        self._found.is_torn = True
        held = "what they held cannot be made out"
        self._found.problems.append(Problem(_numbers("rows", first, last), reason, held))

    def _look_at(self, seq: int, index: bytes, size: int) -> None:
        found = self._found
        try:
            records, problem = judge(index)
        except StoreError as later:
            raise StoreError(f"row {seq}: {later}") from None
        gone: list[Record] = []
        if problem:
            gone, records = records, []
            found.bad_rows[seq] = None
            for each in gone:
                if isinstance(each, Settled):
                    self._back.setdefault(each.queue, []).extend(each.ranges)
        else:
            bad = self._bad_messages(seq, records, size)
            if bad:
                problem = f"{sum(len(where) for _, where in bad)} of its messages cannot be read"
                gone = [part for record, where in bad for part in _parts(record, where)]
                left = seal(_without(index, bad))
                found.bad_rows[seq], records = left, decode(left)
        if problem:
            found.problems.append(Problem(f"row {seq}", problem, contents(gone, found.name)))
        if found.bad_rows.get(seq, index) is not None:
            self._recovery.take_in(seq, records)
        if gone or self._ruins.rows:
            lost = [each for each in gone if isinstance(each, Enqueued)]
            settled = [each for each in records if isinstance(each, Settled)]
            self._lost.take_in(seq, [*lost, *settled])

    def _bad_messages(
        self, seq: int, records: Iterable[Record], size: int
    ) -> list[tuple[Enqueued, set[int]]]:
        """Return records with the positions in them that are damaged."""
        bad: list[tuple[Enqueued, set[int]]] = []
        enqueued = [each for each in records if isinstance(each, Enqueued)]
        octets = Octets(self._connection, seq) if enqueued and self._is_deep else None
        for record in enqueued:
            places = Segment(LiveRow(seq), record).places(record.base, len(record.body_sizes))
            where = {
                position
                for position, place in enumerate(places, record.base)
                if sum(place) > size or (octets is not None and not self._is_good(octets, *place))
            }
            if where:
                bad.append((record, where))
        return bad

    def _is_good(self, octets: Octets, offset: int, publish: int, header: int, size: int) -> bool:
        length = publish + header + size
        message = octets.piece(offset, length)
        if len(message) != length or header < HEADER:
            return False
        if int.from_bytes(message[publish : publish + 2]) != BASIC_CLASS:
            return False
        if int.from_bytes(message[publish + 4 : publish + 12]) != size:
            return False
        payload = message[:publish]
        if payload not in self._payloads:
            try:
                if not isinstance(decode_method(payload), BasicPublish):
                    return False
            except AMQPError:
                return False
            if len(self._payloads) >= MEMO_LIMIT:
                self._payloads.clear()
            self._payloads.add(payload)
        return True

    # What it comes to

    def _put_together(self) -> None:
        found = self._found
        all_found = self._recovery.finish({*found.queues, *found.journal.logs})
        for number, one in all_found.items():
            runs = [(first, first + count - 1) for first, count in one.ranges()]
            if number in found.queues:
                found.found[number] = one
                self._look_at_positions(number, runs)
            elif runs:
                count = sum(each.count for each in one.runs)
                found.notes.append(
                    f"{count} messages are in {found.name(number)}: the next start drops them"
                )
            back = common(sorted(self._back.get(number, ())), runs)
            if back:
                found.back[number] = back
        for number, one in self._lost.finish(set(self._ruins.logs)).items():
            if one.runs:
                found.lost[number] = [(first, first + count - 1) for first, count in one.ranges()]

    def _look_at_positions(self, number: int, runs: Sequence[Range]) -> None:
        for (_, last), (first, _) in pairwise(runs):
            if first <= last:
                text = f"position {first} is there twice"
                self._found.problems.append(Problem(self._found.name(number), text))
                break


def common(some: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """Return what two ascending sequences of ranges have in common.

    >>> common([(0, 4), (8, 9)], [(3, 8)])
    [(3, 4), (8, 8)]
    """
    both: list[Range] = []
    at = 0
    for first, last in some:
        while at < len(others) and others[at][1] < first:
            at += 1
        here = at
        while here < len(others) and others[here][0] <= last:
            both.append((max(first, others[here][0]), min(last, others[here][1])))
            here += 1
    return both


def _parts(record: Enqueued, positions: Iterable[int]) -> Iterator[Enqueued]:
    """Return records of some of the messages of one."""
    ordered = sorted(positions)
    start = 0
    for index in range(1, len(ordered) + 1):
        if index == len(ordered) or ordered[index] != ordered[index - 1] + 1:
            yield _part(record, ordered[start], index - start)
            start = index


def _part(record: Enqueued, first: int, count: int) -> Enqueued:
    start = first - record.base
    end = start + count
    columns = (record.publish_sizes, record.header_sizes, record.body_sizes)
    if len(record.offsets) > 1:
        offsets = record.offsets[start:end]
    else:
        before = sum(sum(column[:start]) for column in columns)
        offsets = array("Q", (record.offsets[0] + before,))
    return Enqueued(record.queue, first, offsets, *[column[start:end] for column in columns])


def _without(index: bytes, bad: list[tuple[Enqueued, set[int]]]) -> Iterator[bytes]:
    """Return the records of an index, encoded, without some messages."""
    gone = {(record.queue, record.base): where for record, where in bad}
    for octets in split(index):
        (record,) = decode(seal([octets]))
        where = isinstance(record, Enqueued) and gone.get((record.queue, record.base))
        if not isinstance(record, Enqueued) or not where:
            yield octets
            continue
        kept = {*range(record.base, record.base + len(record.body_sizes))} - where
        for part in _parts(record, kept):
            yield encode_enqueued(part)
