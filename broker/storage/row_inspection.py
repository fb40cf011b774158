"""Row inspection: all rows of a store read offline, and each message in them looked at.

Law: nothing is changed here. Of each message is looked at where it is, its publish method and its
header; of each body its checksum, which does not say which message is another one now.

Called by: storage.inspection.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from zlib import crc32

from leveret.broker.core.batch import Batch
from leveret.broker.storage.base import CHANGED
from leveret.broker.storage.damage import (
    APART,
    LastCommit,
    ReadRow,
    contents,
    miscounted,
    misdefined,
    read_row,
)
from leveret.broker.storage.findings import Problem, numbers
from leveret.broker.storage.journal import Journal
from leveret.broker.storage.records import (
    Column,
    Enqueued,
    Long,
    Settled,
    decode,
    encode_column,
    encode_enqueued,
    long_of,
    present,
    seal,
    split,
)
from leveret.broker.storage.recovery import Recovery
from leveret.broker.storage.salvage import HIGHEST, LOWEST, Octets, reach, rows
from leveret.broker.storage.segment import LiveRow, Segment
from leveret.protocol.codec import decode_method
from leveret.protocol.errors import AMQPError
from leveret.protocol.methods import BasicPublish

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from leveret.broker.storage.findings import Inspection
    from leveret.broker.storage.leaves import Leaves
    from leveret.broker.storage.queue_log import Range
    from leveret.broker.storage.records import Record

BASIC_CLASS: Final = 60
CUT: Final = "not all of its body can be read"
UNCHECKED: Final = "what is left of its body cannot be compared with its checksum"
HEADER: Final = 14  # octets of a header's payload without any property
MEMO_LIMIT: Final = 4096


class RowInspection:
    """One walk over all rows."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        leaves: Leaves,
        found: Inspection,
        *,
        is_deep: bool,
    ) -> None:
        self._connection = connection
        self._leaves = leaves
        self._found = found
        self._is_deep = is_deep
        self._recovery = Recovery(found.journal)
        self._ruins = Journal(Batch())  # as if there were only what is lost
        self._lost = Recovery(self._ruins)
        self._back: dict[int, list[Range]] = {}
        self._last = LastCommit()
        self._left = LastCommit()  # of those rows that a repair would leave
        self._highest = LOWEST
        self._payloads: set[bytes] = set()  # of publish methods that are good
        self._apart: set[int] = set()  # where messages begin whose rows are not to be found
        self._long = ReadRow(-1, "", [], None, is_sealed=False)  # the last in which one begins

    def look(self) -> None:
        """Read everything, and put together what it comes to."""
        found, last = self._found, LOWEST - 1
        for seq, index, size, checksum in rows(self._connection, self._leaves, self._missed):
            assert isinstance(seq, int)
            self._highest = max(self._highest, seq)
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
            row = read_row(seq, index, size)
            self._look_at(row, index, size, checksum)
            self._last = _following(self._last, row)
            if found.bad_rows.get(seq, index) is not None:
                self._left = _following(self._left, row)
        self._look_at_end()
        self._put_together()

    def _look_at_stray(self, seq: int, index: bytes, last: int) -> None:
        """Look at a row that is out of order; once it is in order it is looked at again."""
        self._found.is_torn = True
        self._found.problems.append(Problem(f"row {seq}", f"it comes after row {last}"))
        if not read_row(seq, index).is_sealed:
            self._found.bad_rows.setdefault(seq, None)

    def _missed(self, first: int, last: int | None, reason: str) -> None:
        self._found.is_torn = True
        held = "what is missing of them cannot be made out; what that has settled comes back"
        self._found.problems.append(Problem(numbers("rows", first, last), reason, held))

    def _look_at(self, row: ReadRow, index: bytes, size: int, checksum: object) -> None:
        found, seq, records, problem = self._found, row.seq, row.records, row.problem
        gone: list[Record] = []
        if not row.is_sealed:
            gone, records = records, []
            found.bad_rows[seq] = None
            for each in gone:
                if isinstance(each, Settled):
                    self._back.setdefault(each.queue, []).extend(each.ranges)
        elif self._is_left_over(row):
            problem = self._take_apart(row)
            gone, records = records, []
        elif bad := self._look_into(row, size, checksum):
            problem = f"{sum(len(where) for _, where in bad)} of its messages cannot be read"
            gone = [part for record, where in bad for part in _parts(record, where)]
            left = seal(_without(index, bad), *row.part or ())
            found.bad_rows[seq], records = left, decode(left)
        if problem:
            found.problems.append(Problem(f"row {seq}", problem, contents(gone, found.name)))
        self._note_kept(row, records)
        if row.is_sealed:
            self._recovery.take_in(seq, records)
        if gone or self._ruins.rows:
            lost = [each for each in gone if isinstance(each, Enqueued)]
            settled = [each for each in records if isinstance(each, Settled)]
            self._lost.take_in(seq, [*lost, *settled])

    def _note_kept(self, row: ReadRow, records: list[Record]) -> None:
        """Note what is wrong with the body of a row, of which nothing is dropped for that."""
        found, seq = self._found, row.seq
        if seq not in found.changed and seq not in found.cut:
            return
        owner = records if long_of(records) is None else self._long.records
        kept = [each for each in owner if isinstance(each, Enqueued)]
        problem = CHANGED if seq in found.changed else UNCHECKED
        held = contents(kept, found.name) if kept else "no message is left in it"
        if seq in found.cut and seq not in found.bad_rows:
            problem, held = CUT, "no message that counts is in what is missing"
        if kept or problem != UNCHECKED:
            found.problems.append(Problem(f"row {seq}", problem, held, is_kept=True))

    def _look_at_end(self) -> None:
        """See what a start would make of the last commit, and of what a repair leaves of it."""
        found, last = self._found, self._last
        total = found.journal.tally.total
        for row, lost in zip(last.rows, last.lost, strict=False):
            if not row.problem:
                text = f"row {row.seq}: {lost.problem}: a start without a repair leaves it out"
                found.notes.append(text)
        if last.missing and not last.lost:
            row = last.rows[-1]
            held = contents(row.records, found.name)
            found.problems.append(Problem(f"row {row.seq}", last.missing, held, is_kept=True))
        problem = miscounted(last.rows[-1], found.rows) if last.rows and not last.lost else ""
        if problem and not found.problems:
            found.is_torn = True
            held = "what the others held cannot be made out"
            found.problems.append(Problem("rows", problem, held))
        problem = misdefined(last.rows[-1], total) if last.rows and not last.lost else ""
        if problem:
            found.problems.append(
                Problem("definitions", problem, "what is lost cannot be made out")
            )
        left = self._left.rows
        dropped = sum(index is None for index in found.bad_rows.values())
        is_miscounted = bool(left) and (
            bool(miscounted(left[-1], found.rows - dropped)) or bool(misdefined(left[-1], total))
        )
        if (self._left.missing or is_miscounted) and self._highest < HIGHEST:
            found.end = self._highest + 1

    def _is_left_over(self, row: ReadRow) -> bool:
        """Whether a row goes on with a message that is not there, or cannot be read as a whole."""
        part = long_of(row.records)
        return part is not None and part.first not in (row.seq, self._long.seq)

    def _take_apart(self, row: ReadRow) -> str:
        """Note that a row is to go, and return what to say if it was not said where it begins."""
        part, found = long_of(row.records), self._found
        found.bad_rows[row.seq] = None
        if part is None or part.first in found.bad_rows or part.first in self._apart:
            return ""
        self._apart.add(part.first)
        return APART

    def _look_into(
        self, row: ReadRow, size: int, checksum: object
    ) -> list[tuple[Enqueued, set[int]]]:
        """Look at the body of a row; return records with the positions in them that are damaged."""
        seq, octets = row.seq, None
        if size and self._is_deep:
            octets = Octets(self._connection, seq, self._leaves)
            if octets.whole is None:
                self._found.cut.add(seq)
            elif crc32(octets.whole) != checksum:
                self._found.changed.add(seq)
        bad = self._bad_messages(row, size, octets)
        part = long_of(row.records)
        if part is not None and part.first == seq:
            self._long = row._replace(seq=-1) if bad else row
        return bad

    def _bad_messages(
        self, row: ReadRow, size: int, octets: Octets | None
    ) -> list[tuple[Enqueued, set[int]]]:
        """Return records with the positions in them that are damaged, or end where nothing is."""
        bad: list[tuple[Enqueued, set[int]]] = []
        end = size
        if long_of(row.records) is not None:
            end = reach(self._connection, self._leaves, row.seq, size, is_deep=self._is_deep)
        for record in row.records:
            if not isinstance(record, Enqueued):
                continue
            segment = Segment(LiveRow(row.seq), record)
            where = {
                position
                for position, place in segment.living_places(segment.base, segment.end)
                if sum(place) > end
                or (octets is not None and not self._is_good(octets, size, *place))
            }
            if where:
                bad.append((record, where))
        return bad

    def _is_good(
        self, octets: Octets, end: int, offset: int, publish: int, header: int, size: int
    ) -> bool:
        """Whether a message is one, as far as it is in a row with so many octets."""
        length = min(publish + header + size, end - offset)
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
                self._note_homeless(number, sum(each.count for each in one.runs))
            back = common(sorted(self._back.get(number, ())), runs)
            if back:
                found.back[number] = back
        for number, one in self._lost.finish(set(self._ruins.logs)).items():
            if one.runs:
                found.lost[number] = [(first, first + count - 1) for first, count in one.ranges()]

    def _note_homeless(self, number: int, count: int) -> None:
        """Take in messages of a queue that is not defined."""
        found, rows = self._found, self._last.rows
        where, text = found.name(number), f"{count:,} messages are in it"
        if rows and present(rows[-1].records) is not None:
            found.problems.append(Problem(where, text))
            found.end = min(self._highest, HIGHEST - 1) + 1  # from then on they may be dropped
        else:
            found.notes.append(f"{where}: {text}: the next start drops them")

    def _look_at_positions(self, number: int, runs: Sequence[Range]) -> None:
        for (_, last), (first, _) in pairwise(runs):
            if first <= last:
                text = f"position {first} is there twice"
                self._found.problems.append(Problem(self._found.name(number), text))
                break


def _following(commit: LastCommit, row: ReadRow) -> LastCommit:
    """Return the commit of the next row: the one before it, or a new one."""
    if not commit.has(row):
        commit = LastCommit()
    commit.add(row)
    return commit


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
    parts: list[Enqueued] = []  # what is left of the last record that is cut, until the next one
    is_cut = False
    for octets in split(index):
        (record,) = decode(seal([octets]))
        if isinstance(record, Enqueued):
            where = gone.get((record.queue, record.base), set())
            is_cut = bool(where)
            parts = [*_left(record, where)] if is_cut else []
        if isinstance(record, Long):
            continue  # the row had but this message
        if is_cut and isinstance(record, Enqueued):
            yield from map(encode_enqueued, parts)
        elif is_cut and isinstance(record, Column):
            yield from (encode_column(_of_part(record, part)) for part in parts)
        else:
            yield octets


def _left(record: Enqueued, gone: set[int]) -> Iterator[Enqueued]:
    """Return records of those messages of one that are not gone."""
    kept = {at for at, size in enumerate(record.header_sizes, record.base) if size} - gone
    return _parts(record, kept)


def _of_part(column: Column, part: Enqueued) -> Column:
    """Return the facts of a part of the messages."""
    start = part.base - column.base
    values = column.values[start : start + len(part.body_sizes)]
    return column._replace(base=part.base, values=values)
