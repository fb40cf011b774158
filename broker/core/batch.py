"""Batch: what the current slice has caused and its end will carry out.

Law: handlers only write down here whom they touched. At the end of the slice each touched queue
deals once, each channel with new confirms sends them once, each peer gets one write. What does
not fit into the time of the slice waits for the next; who fails takes nobody along. What a log
must keep is counted in commits: what a slice wrote is in the one that is open, and whoever must
not hear of it before waits until that one is done. What one command causes is in one commit, also
where it takes many slices: none is closed while the batch is behind.

Called by: core.queue, core.stock, amqp (fill it), server.turns (empties it).
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Peers written to in one slice: some milliseconds.
FLUSH_LIMIT = 1000


class Dealing(Protocol):
    """A queue, or what a plugin has to write down of one."""

    def deal(self) -> None:
        """Do what the slice has left to do."""


class Confirming(Protocol):
    """A channel that owes its publisher confirms."""

    def send_confirms(self) -> None:
        """Confirm what is due."""

    def hold_confirms(self, commit: int) -> None:
        """Confirm it when a commit is done."""


class Waiting(Protocol):
    """A session with replies that wait for commits."""

    def release(self, committed: int) -> bool:
        """Send what waited for commits up to one; return whether more waits."""


class Peer(Protocol):
    """A connection that has something to write."""

    @property
    def memory(self) -> int:
        """Octets it holds besides those in queues."""

    def flush(self) -> None:
        """Write what waits, as far as the peer takes it."""


def _never() -> bool:
    return False


def _reraise(who: object, problem: Exception) -> None:
    raise problem


class Batch:
    """Who is touched; dicts serve as ordered sets.

    Attributes:
      touched: Queues that deal at the end of this slice, some of them not for the first time.
      caused: Queues that got messages out of others in this slice, and whoever has something to
        keep together with what is in queues: they must deal before a commit.
      waiting: Queues that did not come to deal in theirs.
      unfinished: Work that the open commit must have all of, in the order in which it was caused;
        each step of it is short.
      returns: Work on what comes back to queues; each step of it is short.
      debris: Work on what is gone for everybody, such as freeing it; each step of it is short.
      is_durable: Whether anything is kept over a restart.
      must_commit: Whether something to be kept was published since confirms were last looked at.
      commit: The number of the commit that what is written now will be in.
      committed: The last commit that is done.
      telling: The last commit that replies wait for, because of what they tell.
      wanted: The last commit that anyone waits for.
      held: Who waits for commits.
      sealed: Queues with messages that wait for commits.
      is_crowded: Set when messages published in this slice found consumers, but none with room.
      failed: Told whose part of a slice raised what.
    """

    __slots__ = (
        "caused",
        "commit",
        "committed",
        "confirming",
        "debris",
        "failed",
        "flushing",
        "held",
        "is_crowded",
        "is_durable",
        "must_commit",
        "returns",
        "sealed",
        "telling",
        "touched",
        "unfinished",
        "waiting",
        "wanted",
    )

    def __init__(self) -> None:
        self.touched: dict[Dealing, None] = {}
        self.waiting: dict[Dealing, None] = {}
        self.caused: dict[Dealing, None] = {}
        self.confirming: dict[Confirming, None] = {}
        self.flushing: dict[Peer, None] = {}
        self.unfinished: deque[Iterator[None]] = deque()
        self.returns: deque[Iterator[None]] = deque()
        self.debris: deque[Iterator[None]] = deque()
        self.held: dict[Waiting, None] = {}
        self.sealed: dict[Dealing, None] = {}
        self.is_durable = False
        self.must_commit = False
        self.commit = 1
        self.committed = 0
        self.telling = 0
        self.wanted = 0
        self.is_crowded = False
        self.failed: Callable[[object, Exception], None] = _reraise

    @property
    def is_behind(self) -> bool:
        """Whether something that was caused before is not where a commit would find it."""
        return bool(self.waiting or self.unfinished or self.caused)

    def finish(self, out_of_time: Callable[[], bool] = _never) -> bool:
        """End the slice: deal, confirm, flush.

        Returns:
          False if there was no time for all the queues it touched: they wait.
        """
        is_done = not self.touched or self._deal(out_of_time)
        if self.caused:
            is_done = self._deal_caused(out_of_time) and is_done
        if self.confirming and not (self.waiting and self.is_durable):
            self._confirm()
        if self.flushing:
            self._flush()
        return is_done

    def _confirm(self) -> None:
        """Confirm what was published, or hold the confirms: all of it stands in its queues."""
        confirming, self.confirming = self.confirming, {}
        must_commit, self.must_commit = self.must_commit, False
        for channel in confirming:
            try:
                if must_commit:
                    channel.hold_confirms(self.commit)
                else:
                    channel.send_confirms()
            except Exception as problem:
                self.failed(channel, problem)

    def confirm_early(self, channel: Confirming) -> None:
        """Confirm what was published on a channel that ends, wherever it stands by now."""
        self.confirming.pop(channel, None)
        if self.is_durable:
            channel.hold_confirms(self.commit)
        else:
            channel.send_confirms()

    def must_tell(self) -> None:
        """Have replies wait for the open commit: they tell of something that is in it."""
        if self.is_durable:
            self.telling = self.commit

    def hold(self, who: Waiting, commit: int) -> None:
        """Have a session released when a commit is done."""
        self.held[who] = None
        self.wanted = max(self.wanted, commit)

    def done(self, commit: int) -> None:
        """Tell those who waited for a commit that it is on the disk."""
        self.committed = commit
        if self.sealed:
            self.touched |= self.sealed
            self.sealed = {}
        held, self.held = self.held, {}
        for session in held:
            try:
                if session.release(commit):
                    self.held[session] = None
            except Exception as problem:
                self.failed(session, problem)

    def resume(self, out_of_time: Callable[[], bool] = _never) -> None:
        """Let the queues that wait, and the work that is left, go on, as a slice of its own."""
        self.touched, self.waiting = {**self.waiting, **self.touched}, {}
        self.finish(out_of_time)
        if self.unfinished:  # a commit waits for it
            self._work_off(self.unfinished, out_of_time)
        elif self.returns:
            self._work_off(self.returns, out_of_time)
        elif self.debris:
            self._work_off(self.debris, out_of_time)

    def _deal(self, out_of_time: Callable[[], bool]) -> bool:
        touched, self.touched = self.touched, {}
        rest = iter(touched)
        for queue in rest:
            try:
                queue.deal()
            except Exception as problem:
                self.failed(queue, problem)
            if len(touched) > 1 and out_of_time():
                break
        left = dict.fromkeys(rest)
        self.waiting.update(left)
        return not left

    def _deal_caused(self, out_of_time: Callable[[], bool]) -> bool:
        """Deal what messages were moved to, which may move others."""
        is_done = True
        while self.caused:
            later, self.touched, self.caused = self.touched, self.caused, {}
            is_done = self._deal(out_of_time)
            self.touched = {**later, **self.touched}
            if not is_done:
                self.waiting.update(self.caused)
                self.caused = {}
        return is_done

    def _work_off(self, due: deque[Iterator[None]], out_of_time: Callable[[], bool]) -> None:
        while due:
            work = due.popleft()
            try:
                next(work)
                due.appendleft(work)
            except StopIteration:
                continue
            except Exception as problem:
                self.failed(work, problem)
            if out_of_time():
                break

    def _flush(self) -> None:
        flushing, self.flushing = self.flushing, {}
        rest = iter(flushing)
        for peer in islice(rest, FLUSH_LIMIT):
            try:
                peer.flush()
            except Exception as problem:
                self.failed(peer, problem)
        if len(flushing) > FLUSH_LIMIT:
            self.flushing = {**dict.fromkeys(rest), **self.flushing}
