"""The start: what nobody asked for is not imported."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .support.launch import launch
from .support.leveret import ROOT

PROFILED = {"PYTHONPROFILEIMPORTTIME": "1"}  # as -X importtime: a line on stderr for each import
OF_FILES = {"yaml", "leveret.broker.definitions", "leveret.broker.topology"}
OF_THE_EDGES = {"trio", "structlog", "asyncio", "leveret.broker.app", "leveret.protocol.methods"}


def imported(stderr: str) -> set[str]:
    """Return the modules whose import was timed."""
    lines = [line for line in stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_a_broker_without_files_starts_without_what_reads_them(tmp_path: Path):
    arguments = ("--in-memory", "--listen", "127.0.0.1:0")

    with launch(tmp_path, *arguments, environment=PROFILED) as launched:
        launched.ready()
        launched.process.send_signal(signal.SIGTERM)
        status, _, stderr = launched.end()

    modules = imported(stderr)
    assert 0 == status
    assert "leveret.broker.server.turns" in modules
    assert set() == modules & OF_FILES
    assert set() == {name for name in modules if name.startswith("leveret.clients")}


@pytest.mark.parametrize("arguments", [["--version"], ["serve", "--help"], ["serve", "--listen"]])
def test_help_and_mistakes_do_not_wait_for_the_broker(arguments: list[str]):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "leveret.broker", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    modules = imported(result.stderr)
    assert "leveret.broker.cli" in modules
    assert set() == modules & (OF_THE_EDGES | OF_FILES)
