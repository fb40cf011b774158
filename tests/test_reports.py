"""Reports: which events become lines, and at what level."""

import pytest
import structlog

from leveret.broker import reports
from leveret.broker.amqp.ending import fail
from leveret.broker.amqp.session import Session
from leveret.broker.core.broker import Broker
from leveret.protocol.errors import NotFound


class FakeWriter:
    """A peer that takes everything."""

    def write_now(self, parts):
        return []

    def start_writing(self): ...

    def close(self): ...

    def unblock(self): ...


def lines_of_a_connection(level: str) -> list[tuple[str, str]]:
    """Connect, fail on a channel and go; return levels and events."""
    broker = Broker()
    reports.subscribe(broker, level)
    session = Session(broker, FakeWriter(), peer="somewhere:1")

    with structlog.testing.capture_logs() as logs:
        broker.events.emit("connection.opened", session=session)
        session.open_channel(1)
        fail(session, 1, NotFound("no queue 'q' in vhost '/'"))
        session.forget()

    return [(line["log_level"], line["event"]) for line in logs]


@pytest.mark.parametrize("level", ["debug", "info"])
def test_a_connection_has_a_line_where_it_opens_and_one_where_it_ends(level: str):
    assert [
        ("info", "connection.opened"),
        ("warning", "channel.failed"),
        ("info", "connection.closed"),
    ] == lines_of_a_connection(level)


@pytest.mark.parametrize("level", ["warning", "error"])
def test_lines_below_the_level_are_not_even_made(level: str):
    events = {event for _, event in lines_of_a_connection(level)}

    assert {"channel.failed"} >= events
    assert {"connection.opened", "connection.closed"}.isdisjoint(events)


@pytest.mark.parametrize("event", ["delayed.dropped", "delayed.refused"])
def test_delayed_messages_that_are_gone_are_told(event: str):
    broker = Broker()
    broker.add_defaults()
    reports.subscribe(broker)
    exchange = broker.vhosts["/"].exchanges["amq.direct"]

    with structlog.testing.capture_logs() as logs:
        broker.events.emit(event, exchange=exchange, count=3)

    [line] = logs
    assert ("warning", "/", "amq.direct", 3) == (
        line["log_level"],
        line["vhost"],
        line["exchange"],
        line["messages"],
    )
