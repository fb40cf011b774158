"""The specification is covered: every method, its ids, its fields and its replies."""

from pathlib import Path
from typing import NamedTuple

import pytest

from leveret.broker.amqp.connection_methods import CONNECTION_HANDLERS
from leveret.broker.amqp.dispatch import HANDLERS
from leveret.protocol.methods import BY_ID
from leveret.protocol.wire import Wire

# Where our names differ: words of Python, and ids every method has.
RENAMED = {
    "global": "global_",
    "class-id": "class_id_",
    "method-id": "method_id_",
    "nowait": "no_wait",
}


class Line(NamedTuple):
    """A method of the specification."""

    name: str
    ids: tuple[int, int]
    has_content: bool
    replies: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]


def parse(line: str) -> Line:
    head, _, fields = line.partition(" | ")
    words = head.replace("> ", "").split()
    has_content = "content" in words
    name, ids, *replies = [word for word in words if word != "content"]
    class_name = name.partition(".")[0]
    pairs = [field.split(":") for field in fields.split()]
    return Line(
        name,
        tuple(map(int, ids.split(","))),
        has_content,
        tuple(f"{class_name}.{reply}" for reply in replies),
        tuple((name, kind) for name, kind in pairs),
    )


TEXT = (Path(__file__).parent / "support" / "methods.txt").read_text()
LINES = [parse(line) for line in TEXT.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_a_method_stands_in_the_table_as_the_specification_has_it(line):
    method = BY_ID[line.ids]

    layout = tuple(
        (name, "longstr" if wire is Wire.LONGTEXT else wire.value) for name, wire in method.layout
    )
    expected = tuple(
        ("" if name == "-" else RENAMED.get(name, name.replace("-", "_")), kind)
        for name, kind in line.fields
    )
    assert line.name == method.name
    assert line.has_content == method.has_content
    assert line.replies == tuple(reply.name for reply in method.replies)
    assert expected == layout


def test_there_is_no_other_method():
    assert {line.ids for line in LINES} == set(BY_ID)


# Handled by the session itself: contents, and channels that are not open.
BY_THE_SESSION = {"basic.publish", "channel.close-ok"}
# What only a server says, or a client in answer to what ours never asks.
NEVER_TO_OURS = {
    *("connection.start", "connection.secure", "connection.secure-ok", "connection.tune"),
    *("connection.open-ok", "connection.blocked", "connection.unblocked"),
    *("connection.update-secret-ok", "channel.open-ok", "channel.flow-ok", "access.request-ok"),
    *("basic.return", "basic.deliver", "basic.get-ok", "basic.get-empty", "basic.recover-ok"),
    *("basic.qos-ok", "basic.consume-ok", "basic.cancel-ok", "confirm.select-ok"),
    *("exchange.declare-ok", "exchange.delete-ok", "exchange.bind-ok", "exchange.unbind-ok"),
    *("queue.declare-ok", "queue.bind-ok", "queue.purge-ok", "queue.delete-ok", "queue.unbind-ok"),
    *("tx.select-ok", "tx.commit-ok", "tx.rollback-ok"),
}


def test_every_other_method_has_a_handler():
    handled = {method.name for method in (*HANDLERS, *CONNECTION_HANDLERS)}

    assert {line.name for line in LINES} - handled == BY_THE_SESSION | NEVER_TO_OURS
