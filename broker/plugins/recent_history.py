"""Recent history: a fanout that gives a new destination what passed last.

Law: the last messages are kept whether or not anything is bound, each with its routing keys, and
handed on in their order to whatever is bound, as often as it is bound. They are as they came:
their exchange and key are those of the publisher. A message with the header
`x-recent-history-no-store: true` passes and is not kept.

What is kept is in memory and ends with the process, as in RabbitMQ; `history` is all there is to
keep over a restart. It must be put back after the bindings, which else would get it again.

Called by: core.exchange and core.vhost, through the registry.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from leveret.broker.core.arguments import integer, term
from leveret.broker.core.exchange import Exchange
from leveret.broker.core.exchange_types import Fanout
from leveret.broker.core.placing import find, republish
from leveret.protocol.constants import HAS_HEADERS
from leveret.protocol.errors import FrameError, PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leveret.broker.core.exchange import Destination
    from leveret.broker.core.exchange_types import Table
    from leveret.broker.core.message import Message
    from leveret.broker.core.registry import Registry

LENGTH = "x-recent-history-length"
NO_STORE = "x-recent-history-no-store"
DEFAULT_LENGTH = 20
MAX_LENGTH = 1 << 16  # they are in memory


class RecentHistory(Fanout):
    """Every message goes to every destination, the last ones also to those that come later.

    Attributes:
      history: The last messages with their routing keys, oldest first.
    """

    name = "x-recent-history"
    uses_message = True

    def __init__(self, arguments: Table) -> None:
        super().__init__(arguments)
        length = _length(arguments)
        self.history: deque[tuple[tuple[str, ...], Message]] = deque(maxlen=length)

    def match_message(
        self, routing_keys: Sequence[str], message: Message | None
    ) -> Iterable[Destination]:
        return self._counts

    def passing(self, routing_keys: Sequence[str], message: Message) -> None:
        if message.flags & HAS_HEADERS and _is_not_to_be_kept(message):
            return
        self.history.append((tuple(routing_keys), message))

    def bound(self, destination: Destination) -> None:
        for routing_keys, message in tuple(self.history):  # they may come round to here
            if isinstance(destination, Exchange):
                republish(message, find(destination, routing_keys, message))
            else:
                republish(message, (destination,))


def _is_not_to_be_kept(message: Message) -> bool:
    try:
        return (message.headers or {}).get(NO_STORE) is True
    except FrameError:  # nobody can read them
        return False


def _length(arguments: Table) -> int:
    """Return how many messages an exchange is to keep."""
    length = arguments.get(LENGTH, DEFAULT_LENGTH)
    if not isinstance(length, int) or integer(length, arguments) is not None or length < 1:
        raise PreconditionFailed(
            f"Invalid argument {term(length)}, '{LENGTH}' must be a positive integer"
        )
    if length > MAX_LENGTH:
        raise PreconditionFailed(
            f"Invalid argument {term(length)}, '{LENGTH}' must be at most {MAX_LENGTH}"
        )
    return length


def register(registry: Registry) -> None:
    """Add the type to those that exchanges may be declared with."""
    registry.exchange_type(RecentHistory)
