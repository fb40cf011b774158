"""Logs: one line an event, whatever a peer sends."""

import io
import json

import pytest
import structlog

from leveret.broker import logs


@pytest.fixture(autouse=True)
def _restore():
    yield
    structlog.reset_defaults()


def logged(log_format: str, level: str = "info", **fields: object) -> str:
    file = io.StringIO()
    logs.configure(log_format, level, node="leveret@here", version="1.2", file=file)

    structlog.get_logger().info("connection.opened", **fields)

    return file.getvalue()


def test_json_lines_hold_the_fields_and_those_of_the_process():
    line = json.loads(logged("json", user="ann", channel=3))

    assert ("connection.opened", "info", "ann", 3, "leveret@here", "1.2") == tuple(
        line[name] for name in ("event", "level", "user", "channel", "node", "version")
    )
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("log_format", logs.FORMATS)
@pytest.mark.parametrize(
    "hostile", ["a\nb", "a\r\nb", "\x1b[31m", "\x85", "\u2028", "\u202e", "\x00"]
)
def test_a_peer_cannot_forge_a_line_or_talk_to_the_terminal(log_format: str, hostile: str):
    output = logged(log_format, user=hostile)

    assert 1 == output.count("\n")
    assert [] == [one for one in output.rstrip("\n") if not one.isprintable()]


def test_long_texts_are_cut():
    assert len(logged("console", client="x" * 100_000)) < 2 * logs.MAX_FIELD


def test_what_is_below_the_level_is_not_written():
    assert "" == logged("console", "warning")


@pytest.mark.parametrize("log_format", logs.FORMATS)
def test_an_exception_comes_with_its_traceback(log_format: str):
    file = io.StringIO()
    logs.configure(log_format, file=file)

    try:
        raise ValueError("ours")
    except ValueError:
        structlog.get_logger().exception("turn.failed")

    assert "ValueError: ours" in file.getvalue()
    assert "Traceback" in file.getvalue()


class Full:
    """A file on a disk without room."""

    def isatty(self):
        return False

    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self):
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_log_that_cannot_be_written_is_lost_and_nothing_else(log_format):
    logs.configure(log_format, file=Full())

    structlog.get_logger().error("told.to_nobody", exc_info=ValueError("x"))
