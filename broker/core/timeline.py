"""Timeline: one number for each position, where neighbours mostly have the same.

Law: positions are appended in ascending order, as a queue gives them. Only where a run of equal
values begins is written down, so a number that never changes costs nothing and one that always
does sixteen octets. What is over becomes one value, so that its runs join; what is of messages that
are gone becomes none.

Called by: core.extras, for hooked queues (when each message expires).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNK_LENGTH = 4096  # runs


class _Chunk:
    """Some runs: where each begins, ascending, and its value."""

    __slots__ = ("firsts", "values")

    def __init__(self, firsts: array[int], values: array[int]) -> None:
        self.firsts = firsts
        self.values = values


class Timeline:
    """Values by position; 0 stands for none."""

    __slots__ = ("_bases", "_chunks", "_end", "_start")

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._bases: list[int] = []  # where each chunk begins
        self._start = 0  # what is before it is forgotten
        self._end = 0  # what is from here on has not come yet

    @property
    def runs(self) -> int:
        """How many runs of equal values are kept."""
        return sum([len(chunk.firsts) for chunk in self._chunks])

    @property
    def chunks(self) -> int:
        """How many chunks the runs are in."""
        return len(self._chunks)

    @property
    def end(self) -> int:
        """The first of the positions that have not come yet."""
        return self._end

    def append(self, first: int, count: int, value: int) -> None:
        """Give a value, below 2^64, to positions behind all that came before."""
        assert first >= self._end, "positions ascend"
        if first > self._end:
            self._begin_run(self._end, 0)
        self._begin_run(first, value)
        self._end = first + count

    def extend(self, first: int, values: Sequence[int]) -> None:
        """Give positions behind all that came before a value each: `append` for very many."""
        assert first >= self._end, "positions ascend"
        known = self._chunks[-1].values[-1] if self._chunks else None
        firsts: list[int] = []
        starting: list[int] = []
        if first > self._end and known != 0:
            firsts.append(self._end)
            starting.append(0)
            known = 0
        for position, value in enumerate(values, first):
            if value != known:
                firsts.append(position)
                starting.append(value)
                known = value
        self._add_runs(firsts, starting)
        self._end = first + len(values)

    def _add_runs(self, firsts: list[int], values: list[int]) -> None:
        """Begin runs, each with another value than the one before."""
        at = 0
        while at < len(firsts):
            if not self._chunks or len(self._chunks[-1].firsts) >= CHUNK_LENGTH:
                self._chunks.append(_Chunk(array("Q"), array("Q")))
                self._bases.append(firsts[at])
            chunk = self._chunks[-1]
            end = at + CHUNK_LENGTH - len(chunk.firsts)
            chunk.firsts.extend(firsts[at:end])
            chunk.values.extend(values[at:end])
            at = end

    def _begin_run(self, first: int, value: int) -> None:
        chunk = self._chunks[-1] if self._chunks else None
        if chunk is not None and chunk.values[-1] == value:
            return
        if chunk is None or len(chunk.firsts) >= CHUNK_LENGTH:
            self._chunks.append(_Chunk(array("Q", (first,)), array("Q", (value,))))
            self._bases.append(first)
        else:
            chunk.firsts.append(first)
            chunk.values.append(value)

    def get(self, position: int) -> int:
        """Return the value of a position; 0 if it is not known, or not any more."""
        if not self._start <= position < self._end:
            return 0
        chunk = self._chunks[bisect_right(self._bases, position) - 1]
        return chunk.values[bisect_right(chunk.firsts, position) - 1]

    def set(self, position: int, value: int) -> None:
        """Change the value of a position; of one that is forgotten nothing is known any more."""
        if position >= self._end:
            self.append(position, 1, value)
        elif position >= self._start and self.get(position) != value:
            self._cut(position)
            self._cut(position + 1)
            index = bisect_right(self._bases, position) - 1
            chunk = self._chunks[index]
            chunk.values[bisect_right(chunk.firsts, position) - 1] = value
            self._divide(index)

    def lower(self, first: int, count: int, value: int) -> None:
        """Give a value to positions that have none, or a larger one, wherever they are."""
        end, known = first + count, self._end
        if end > known:
            self.append(max(first, known), end - max(first, known), value)
        first, end = max(first, self._start), min(end, known)
        if first >= end:
            return
        self._cut(first)
        self._cut(end)
        index = bisect_right(self._bases, first) - 1
        while index < len(self._chunks) and self._bases[index] < end:
            firsts, values = self._chunks[index].firsts, self._chunks[index].values
            for at in range(bisect_left(firsts, first), bisect_left(firsts, end)):
                values[at] = min(values[at] or value, value)
            self._divide(index)
            index += 1

    def _cut(self, position: int) -> None:
        """Have a run begin at a position, unless nothing is there."""
        if position >= self._end:
            return
        chunk = self._chunks[bisect_right(self._bases, position) - 1]
        index = bisect_right(chunk.firsts, position)
        if chunk.firsts[index - 1] != position:
            chunk.firsts.insert(index, position)
            chunk.values.insert(index, chunk.values[index - 1])

    def _divide(self, index: int) -> None:
        """Make two chunks of one that has become too long."""
        chunk = self._chunks[index]
        if len(chunk.firsts) > CHUNK_LENGTH:
            half = len(chunk.firsts) // 2
            rest = _Chunk(chunk.firsts[half:], chunk.values[half:])
            del chunk.firsts[half:], chunk.values[half:]
            self._chunks.insert(index + 1, rest)
            self._bases.insert(index + 1, rest.firsts[0])

    def let_pass(self, value: int) -> Iterator[None]:
        """Make 1 of all values from 1 to this one, a chunk with each step."""
        index = 0
        while index < len(self._chunks):
            before = self._chunks[index - 1] if index else None
            chunk = self._chunks[index] = _passed(self._chunks[index], value)
            if before is not None and len(before.firsts) + len(chunk.firsts) <= CHUNK_LENGTH:
                skipped = before.values[-1] == chunk.values[0]
                before.firsts += chunk.firsts[skipped:]
                before.values += chunk.values[skipped:]
                del self._chunks[index], self._bases[index]
            else:
                index += 1
            yield

    def forget(self, first: int, end: int) -> None:
        """Forget the values of positions from one up to another, wherever they are."""
        first, end = max(first, self._start), min(end, self._end)
        if first >= end:
            return
        self._cut(first)
        self._cut(end)
        bases, chunks = self._bases, self._chunks
        index, stop = bisect_right(bases, first) - 1, bisect_left(bases, end)
        chunk = chunks[index]
        at, last = bisect_left(chunk.firsts, first), bisect_left(chunk.firsts, end)
        chunk.values[at] = 0
        del chunk.firsts[at + 1 : last], chunk.values[at + 1 : last]
        if index + 1 < stop:
            rest = chunks[stop - 1]
            last = bisect_left(rest.firsts, end)
            del rest.firsts[:last], rest.values[:last]
            stop -= len(rest.firsts) > 0
            del chunks[index + 1 : stop], bases[index + 1 : stop]
            if rest.firsts:
                bases[index + 1] = rest.firsts[0]
        self._divide(index)
        self._merge(first)
        self._merge(end)

    def _merge(self, position: int) -> None:
        """Let the run that begins at a position be part of the one before, if they are equal."""
        index = bisect_right(self._bases, position) - 1
        chunk = self._chunks[index]
        firsts, values = chunk.firsts, chunk.values
        at = bisect_left(firsts, position)
        if at == len(firsts) or firsts[at] != position or not (at or index):
            return
        if values[at] != (values[at - 1] if at else self._chunks[index - 1].values[-1]):
            return
        del firsts[at], values[at]
        if not firsts:
            del self._chunks[index], self._bases[index]
        elif not at:
            self._bases[index] = firsts[0]

    def has(self, value: int, first: int, count: int) -> bool:
        """Whether any of some positions has a value."""
        first, end = max(first, self._start), min(first + count, self._end)
        index = bisect_right(self._bases, first) - 1
        while first < end:
            chunk = self._chunks[index]
            at = bisect_right(chunk.firsts, first) - 1
            if value in chunk.values[at : bisect_left(chunk.firsts, end)]:
                return True
            index += 1
            first = self._bases[index] if index < len(self._chunks) else end
        return False

    def clear(self) -> None:
        """Forget all values; what is appended comes behind them nevertheless."""
        self._start = max(self._start, self._end)
        self._chunks.clear()
        self._bases.clear()


def _passed(chunk: _Chunk, value: int) -> _Chunk:
    """Return a chunk in which 1 stands for all values from 1 to this one."""
    firsts, values = array("Q"), array("Q")
    known = -1
    for first, each in zip(chunk.firsts, chunk.values, strict=True):
        new = 1 if 0 < each <= value else each
        if new != known:
            firsts.append(first)
            values.append(new)
            known = new
    return _Chunk(firsts, values)
