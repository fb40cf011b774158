"""Logs: structlog on stderr, for people or for machines.

Law: an event is dotted, past tense and constant (``connection.opened``); data go into fields.
What a peer sent is shown with its control characters escaped, so nobody can forge a line. The
process's own fields (node, version) stand in JSON lines only; a person knows what was started.

Fields: node, version (process); peer, vhost, user, client (session); channel; what an event is
about (queue, argument, address, ...), reply_code, reply_text, reason; duration_ms, bytes.

Called by: app (configure, once), everybody at the edges (structlog.get_logger).
"""

import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from structlog.typing import Processor

LEVELS = ("debug", "info", "warning", "error", "critical")
FORMATS = ("console", "json")
MAX_FIELD = 1024
LINES = frozenset({"exception", "stack"})  # ours, and made of several lines

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def configure(
    log_format: str = "console",
    level: str = "info",
    *,
    node: str = "",
    version: str = "",
    file: TextIO | None = None,
) -> None:
    """Set up structlog for the process.

    Args:
      log_format: One of FORMATS.
      level: One of LEVELS; what is below is not even formatted.
      node: Name of this node.
      version: Version of Leveret.
      file: Where to write; stderr without it.
    """
    # It takes tens of milliseconds: `leveret --help` and `check` do without.
    import structlog

    target = file or sys.stderr
    chain: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        shorten,
    ]
    if log_format == "json":
        chain += [_Process(node, version), structlog.processors.JSONRenderer()]
    else:
        chain += [
            escape,
            structlog.dev.ConsoleRenderer(
                colors=target.isatty(),
                pad_event_to=28,
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Output(target))),
        cache_logger_on_first_use=False,
    )


def shorten(
    logger: object, method: str, fields: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """Cut texts that a peer may have made long."""
    for name, value in fields.items():
        if isinstance(value, str) and len(value) > MAX_FIELD and name not in LINES:
            fields[name] = value[:MAX_FIELD] + "..."
    return fields


def escape(
    logger: object, method: str, fields: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """Make control characters visible; JSON does so by itself."""
    for name, value in fields.items():
        if isinstance(value, str) and name not in LINES:
            fields[name] = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], value)
    return fields


class _Output:
    """A file that takes what it can: a full disk or a reader that is gone ends no broker."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Write, or lose it."""
        with suppress(OSError, ValueError):
            self._file.write(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with suppress(OSError, ValueError):
            self._file.flush()


class _Process:
    """Adds the process's own fields to a line."""

    def __init__(self, node: str, version: str) -> None:
        self.fields = {"node": node, "version": version}

    def __call__(
        self, logger: object, method: str, fields: MutableMapping[str, object]
    ) -> MutableMapping[str, object]:
        return {**self.fields, **fields}
