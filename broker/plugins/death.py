"""Deaths: what a message looks like that is dead-lettered.

Law: pure functions of a message and of what happened to it; nothing here knows queues. When a
message dies for the first time nothing is decoded, octets are spliced, because many die at once
(a time to live). What headers say of earlier deaths counts only if the broker wrote it
(`Message.is_dead_letter`); what a publisher wrote there is replaced, as in RabbitMQ 4.

    x-death: array of tables, newest first, one for each queue and reason
      count, reason, queue, time, exchange, routing-keys [, original-expiration]
    x-first-death-{reason,queue,exchange}, x-last-death-{reason,queue,exchange}

A table of x-death always has this order and the same tags, so what the broker wrote is read and
counted up in its place.

Called by: dead_letter, redrive_plan.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from leveret.broker.core.message import BlindEnvelope, address
from leveret.protocol.errors import FrameError
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import locate, splice_headers, split_headers
from leveret.protocol.table import (
    Int64,
    LongString,
    Timestamp,
    decode_value,
    encode_entries,
    encode_value,
)
from leveret.protocol.wire import LONG, LONGLONG

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leveret.broker.core.message import Message
    from leveret.protocol.content import Envelope
    from leveret.protocol.properties import Places
    from leveret.protocol.wire import Value

    # How it had been published, its expiration; the name of its queue, reason, second.
    Death = tuple[Envelope, bytes, str, str, int]
    # The entries it adds, the envelope of the dead letter, its routing key.
    _FirstDeath = tuple[bytes, Envelope, tuple[str, ...]]

EXPIRED, MAXLEN = "expired", "maxlen"
REJECTED, DELIVERY_LIMIT = "rejected", "delivery_limit"
REASONS = (EXPIRED, MAXLEN, REJECTED, DELIVERY_LIMIT)

DEATHS, COPIES = b"x-death", b"CC"
FIRST, LAST = "x-first-death-", "x-last-death-"
_WHAT = ("reason", "queue", "exchange")
# The headers that are written at a later death, and at the first one.
OF_LATER = frozenset((DEATHS, *(f"{LAST}{what}".encode() for what in _WHAT)))
OF_FIRST = OF_LATER.union(f"{FIRST}{what}".encode() for what in _WHAT)

# Places in a table of x-death, counted from its tag.
COUNT_AT = 5 + len(b"\x05countl")
REASON_AT = COUNT_AT + 8

MEMO = 1024  # how many results each function below keeps


class Deaths:
    """Deaths that have all but the message in common."""

    __slots__ = ("_exchange", "_first", "_queue", "_reason", "_routing_key", "_time_s")

    def __init__(
        self, *, queue: str, reason: str, time_s: int, exchange: str, routing_key: str | None = None
    ) -> None:
        """Note what they have in common.

        Args:
          queue: The name of the queue in which messages die.
          reason: Why they do; one of `REASONS`.
          time_s: Wall clock, seconds.
          exchange: The dead-letter exchange.
          routing_key: The queue's dead-letter routing key; without one a message keeps its own
            key and those of its CC.
        """
        self._queue, self._reason, self._time_s = queue, reason, time_s
        self._exchange, self._routing_key = exchange, routing_key
        # What a first death adds, by what of a message it depends on.
        self._first: dict[tuple[Envelope, bytes], _FirstDeath] = {}

    def letter(self, message: Message) -> tuple[Message, Sequence[str], bool]:
        """Return a message as it is published to the dead-letter exchange.

        Args:
          message: As it stood in its queue.

        Returns:
          The dead letter; its routing keys; whether this is for certain its first death.

        Raises:
          FieldError: Exchange or key is longer than 255 octets.
        """
        header, envelope = message.header, message.envelope
        places = locate(header)
        expiration = header[places[3] + 1 : places[4]]
        if b"death" in header or COPIES in header or envelope.__class__ is BlindEnvelope:
            death = envelope, expiration, self._queue, self._reason, self._time_s
            dead, keys = _with_history(
                message, header, places, death, self._exchange, self._routing_key
            )
            return dead, keys, False
        known = self._first.get((envelope, expiration))
        if known is None:
            if len(self._first) >= MEMO:
                self._first.clear()
            known = self._first[envelope, expiration] = self._first_death(envelope, expiration)
        append, new, keys = known
        return message.as_dead_letter(append, new, places), keys, True

    def _first_death(self, envelope: Envelope, expiration: bytes) -> _FirstDeath:
        append = _first_death((envelope, expiration, self._queue, self._reason, self._time_s), ())
        key = self._routing_key
        if key is None:
            key = _publish(envelope).routing_key
        return append, address(self._exchange, key, envelope.channel, True), (key,)


def cycle(message: Message, queue: str, reason: str) -> bool:
    """Tell whether a dead letter must not go to a queue, because it would die there for ever.

    It was there before, and since then nobody rejected it: no client had a hand in its way.

    Args:
      message: As `Deaths.letter` returned it.
      queue: The name of a queue it is routed to.
      reason: Why it died last.
    """
    if reason == REJECTED or not message.is_dead_letter:
        return False
    header = message.header
    if _queue_octets(queue) not in header:  # most never were there, and this is quick
        return False
    try:
        headers = split_headers(header)
    except FrameError:
        return False  # at its next death what nobody can read goes, and then this works
    rejected, here = _reason_octets(REJECTED), tuple(_who(one, queue) for one in REASONS)
    for table in _tables(headers.get(DEATHS, b"")):
        if table.startswith(rejected, REASON_AT):
            return False
        if table.startswith(here, REASON_AT):
            return True
    return False


def _with_history(
    message: Message,
    header: bytes,
    places: Places,
    death: Death,
    exchange: str,
    routing_key: str | None,
) -> tuple[Message, tuple[str, ...]]:
    """Do what `Deaths.letter` does for a message that has copies, or died before, or seems to."""
    try:
        headers = split_headers(header, places)
    except FrameError:
        headers = {}  # nobody can read them: they go
    copies = _copies(headers)
    tables = _tables(headers.get(DEATHS, b"")) if message.is_dead_letter else []
    if tables:
        remove, append = OF_LATER, _later_death(tables, death, copies)
    else:
        remove, append = OF_FIRST, _first_death(death, copies)
    keys: tuple[str, ...]
    if routing_key is None:
        keys = (_publish(message.envelope).routing_key, *copies)
        if isinstance(message.envelope, BlindEnvelope):
            keys += message.envelope.copies
    else:
        keys = (routing_key,)
        headers.pop(COPIES, None)
    kept = [
        part
        for name, value in headers.items()
        if name not in remove
        for part in (bytes((len(name),)), name, value)
    ]
    append = b"".join((*kept, append))
    header = splice_headers(header, None, append, keeps_expiration=False, places=places)
    new = address(exchange, keys[0], message.envelope.channel, True)
    return message.with_header(header, new), keys


def _copies(headers: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """Return the keys of CC."""
    try:
        keys = decode_value(headers[COPIES]) if COPIES in headers else None
    except FrameError:
        return ()
    return tuple(key for key in keys if isinstance(key, str)) if isinstance(keys, list) else ()


def _publish(envelope: Envelope) -> BasicPublish:
    method = envelope.method
    assert isinstance(method, BasicPublish)
    return method


def _tables(array: bytes) -> list[bytes]:
    """Return the tables of x-death as the broker wrote them, newest first."""
    tables, at = [], 5  # behind the array's own tag and length
    while at < len(array):
        end = at + 5 + int.from_bytes(array[at + 1 : at + 5])
        tables.append(array[at:end])
        at = end
    return tables


# Octets. All memos are small: what dies together has most of this in common.


@lru_cache(MEMO)
def _first_death(death: Death, copies: tuple[str, ...]) -> bytes:
    """Return the entries that a first death adds."""
    envelope, _, queue, reason, _ = death
    exchange = _publish(envelope).exchange
    summaries = [_summary(name, reason, queue, exchange) for name in (FIRST, LAST)]
    return b"".join((_deaths(_table(death, copies)), *summaries))


def _later_death(tables: list[bytes], death: Death, copies: tuple[str, ...]) -> bytes:
    """Return the entries that a death adds to those before, whose tables these are."""
    envelope, _, queue, reason, _ = death
    who = _who(reason, queue)
    newest = b""
    others = []
    for table in tables:
        if table.startswith(who, REASON_AT):
            (count,) = LONGLONG.unpack_from(table, COUNT_AT)
            newest = table[:COUNT_AT] + LONGLONG.pack(count + 1) + table[REASON_AT:]
        else:
            others.append(table)
    deaths = _deaths(b"".join((newest or _table(death, copies), *others)))
    return deaths + _summary(LAST, reason, queue, _publish(envelope).exchange)


def _deaths(tables: bytes) -> bytes:
    """Return the entry x-death."""
    return b"".join((b"\x07", DEATHS, b"A", LONG.pack(len(tables)), tables))


@lru_cache(MEMO)
def _table(death: Death, copies: tuple[str, ...]) -> bytes:
    """Return the table of one death in x-death, with its tag."""
    envelope, expiration, queue, reason, time_s = death
    method = _publish(envelope)
    table: dict[str, Value] = {
        "count": Int64(1),
        "reason": reason,
        "queue": queue,
        "time": Timestamp(time_s),
        "exchange": method.exchange,
        "routing-keys": [method.routing_key, *copies],
    }
    if expiration:
        table["original-expiration"] = LongString(expiration)
    return encode_value(table)


@lru_cache(MEMO)
def _summary(name: str, reason: str, queue: str, exchange: str) -> bytes:
    """Return the entries that say of the first or the last death what it was."""
    return encode_entries(
        {
            f"{name}{what}": value
            for what, value in zip(_WHAT, (reason, queue, exchange), strict=True)
        }
    )


@lru_cache(MEMO)
def _who(reason: str, queue: str) -> bytes:
    """Return what stands behind the count in the table of such deaths."""
    return _reason_octets(reason) + _queue_octets(queue)


@lru_cache(MEMO)
def _reason_octets(reason: str) -> bytes:
    return encode_entries({"reason": reason})


@lru_cache(MEMO)
def _queue_octets(queue: str) -> bytes:
    return encode_entries({"queue": queue})
