"""Held replies: what a client must not hear before a commit is done.

Law: the replies of a channel keep their order: once one waits, all that come after it wait behind
it. Deliveries do not; other channels do not, but what closes the connection waits for all of them.

Called by: amqp.session, amqp.channel.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from leveret.broker.amqp.channel import Channel

ENTRY = 256  # octets of a held reply, besides those of a message in it


class Confirm:
    """A confirm of everything up to a number, which grows while it waits."""

    __slots__ = ("channel", "seqno")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.seqno = channel.publish_seqno

    def __call__(self) -> None:
        self.channel.confirm(self.seqno)


class Held:
    """The held replies of one session, in order, for each channel.

    Attributes:
      octets: About how much they take.
    """

    __slots__ = ("_rows", "octets")

    def __init__(self) -> None:
        self._rows: dict[int, deque[tuple[int, int, Callable[[], None]]]] = {}
        self.octets = 0

    def __contains__(self, number: int) -> bool:
        return number in self._rows

    def __bool__(self) -> bool:
        return bool(self._rows)

    def hold(self, number: int, commit: int, action: Callable[[], None], size: int = 0) -> None:
        """Do something when a commit is done, after what waits on the channel already.

        Args:
          size: Octets of the message that goes with it.
        """
        row = self._rows.get(number)
        if row is None:
            row = self._rows[number] = deque()
        elif commit < row[-1][0]:
            commit = row[-1][0]
        size += ENTRY
        self.octets += size
        row.append((commit, size, action))

    def follow(self, number: int, action: Callable[[], None], size: int = 0) -> None:
        """Do something right after what waits on the channel; channel 0 follows all others."""
        rows = self._rows.values() if number == 0 else (self._rows[number],)
        self.hold(number, max(row[-1][0] for row in rows), action, size)

    def confirm(self, channel: Channel, commit: int) -> None:
        """Confirm what was published on a channel when a commit is done."""
        row = self._rows.get(channel.number)
        if row is not None and row[-1][0] == commit:
            last = row[-1][2]
            if isinstance(last, Confirm) and last.channel is channel:
                last.seqno = channel.publish_seqno
                return
        self.hold(channel.number, commit, Confirm(channel))

    def clear(self) -> None:
        """Forget what waits: nobody is to hear of it."""
        self._rows.clear()
        self.octets = 0

    def take(self, committed: int) -> list[Callable[[], None]]:
        """Remove and return what waited for commits up to one, that of channel 0 at the end."""
        actions: list[Callable[[], None]] = []
        for number, row in sorted(self._rows.items(), reverse=True):
            while row and row[0][0] <= committed:
                _, size, action = row.popleft()
                self.octets -= size
                actions.append(action)
            if not row:
                del self._rows[number]
        return actions
