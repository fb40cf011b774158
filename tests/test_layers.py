"""The dependency rule: who may import whom (the picture in broker/README.md), by ast."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A package or module, and what it may import beside itself and the standard library. The first
# row whose name begins a module's name counts; "broker" alone is broker/__init__.py.
ALLOWED = {
    "protocol": set(),
    "broker.core": {"protocol"},
    "broker.amqp": {"broker.core", "protocol"},
    "broker.storage": {"broker.core", "protocol", "trio", "structlog", "psycopg"},
    "broker.plugins": {"broker.core", "protocol", "clients", "trio"},
    "broker.server": {
        *("broker.amqp", "broker.core", "broker.storage.base", "protocol", "trio", "structlog"),
    },
    "broker.document": {"yaml"},
    "broker.values": set(),
    "broker.logs": {"structlog"},
    "broker.config": {"broker.document", "broker.logs", "broker.values"},
    "broker.entries": {"broker.core", "broker.document", "protocol"},
    "broker.topology": {"broker.core", "broker.document", "broker.entries"},
    "broker.definitions": {"broker.core", "broker.document", "broker.entries", "broker.topology"},
    "broker.reports": {"broker.core", "broker.amqp", "protocol", "structlog"},
    "broker.persistence": {"broker.core", "broker.server", "broker.storage", "trio", "structlog"},
    "broker.app": {"broker", "protocol", "trio", "structlog"},
    "broker.cli": {"broker", "clients"},
    "broker.__main__": {"broker.cli"},
    "broker.testing": {"broker", "clients", "protocol", "trio", "structlog", "pytest"},
    "broker": set(),
    "clients.examples": {"pika"},  # they show other people's clients
    "clients": {"protocol", "trio", "h11", "broker.__version__"},
}
NOBODY_IMPORTS = ("broker.__main__", "broker.testing")
# Law 1: no sockets, files, clocks, threads or logs where the state lives.
SYNCHRONOUS = ("protocol", "broker.core", "broker.amqp")
EDGES = {"socket", "ssl", "asyncio", "select", "threading", "time", "logging", "subprocess"}

OURS = ("protocol", "broker", "clients")
FILES = sorted(file for package in OURS for file in (ROOT / package).rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def row_of(module: str) -> str:
    return next((row for row in ALLOWED if row != "broker" and is_below(module, row)), "broker")


def is_allowed(module: str, name: str) -> bool:
    root = name.split(".")[0]
    if root in sys.stdlib_module_names or root == "_typeshed":
        return root not in EDGES or not any(is_below(module, one) for one in SYNCHRONOUS)
    ours = name.removeprefix("leveret.")
    if any(is_below(ours, one) for one in NOBODY_IMPORTS):
        return False
    if ours == name and root in OURS:
        return False  # the bare name: another module, with classes of its own
    row = row_of(module)
    return any(is_below(ours, one) for one in {*ALLOWED[row], row, "broker.__version__"})


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_follow_the_table(file: Path):
    module = module_of(file)

    assert [] == [name for name in imports_of(file) if not is_allowed(module, name)]


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("broker.core.queue", "leveret.protocol.content.Content", True),
        ("broker.core.queue", "leveret.broker.amqp.channel.Channel", False),
        ("broker.core.queue", "trio", False),
        ("broker.core.queue", "time", False),
        ("broker.server.turns", "time", True),
        ("broker.server.turns", "leveret.broker.app.run", False),
        ("broker.config", "protocol.errors", False),
        ("clients.perf.run", "leveret.broker.core.broker.Broker", False),
        ("protocol.reader", "leveret.broker.core.message", False),
        ("broker.cli", "leveret.broker.testing", False),
    ],
)
def test_the_rule_itself(module: str, name: str, expected: bool):
    assert expected == is_allowed(module, name)


@pytest.mark.parametrize("file", sorted((ROOT / "tests").rglob("*.py")), ids=str)
def test_tests_do_not_import_the_folders_by_their_bare_names(file: Path):
    """From the root of the checkout ``import broker`` works too, with classes of its own."""
    found = [
        alias.name if isinstance(node, ast.Import) else f"{node.module}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
        for alias in node.names
    ]

    assert [] == [name for name in found if name.split(".")[0] in ("broker", "protocol", "clients")]
