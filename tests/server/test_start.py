"""Starting: what cannot work is one line and exit status 2; what works says so to everybody."""

import json
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ..support.launch import Launched, launch

ANYWHERE = ("--listen", "127.0.0.1:0")


def refused(launched: Launched) -> str:
    """Return the one line of a process that cannot start."""
    status, output, log = launched.end()
    assert (2, "", 1) == (status, output, log.count("\n"))
    return log.rstrip("\n")


# What cannot work


def test_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with launch(tmp_path, "--in-memory", *ANYWHERE, "--listen", address) as launched:
            line = refused(launched)

    assert f"leveret serve: cannot listen on {address}: Address already in use" == line


def test_host_that_no_machine_can_have(tmp_path):
    with launch(tmp_path, "--in-memory", "--listen", "a..b:0") as launched:
        assert refused(launched).startswith("leveret serve: cannot listen on a..b:0: ")


def test_data_directory_that_is_a_file(tmp_path):
    folder = tmp_path / "data"
    folder.write_text("precious")

    with launch(tmp_path, *ANYWHERE, "--data-dir", str(folder)) as launched:
        line = refused(launched)

    assert f"leveret serve: the data directory {folder} cannot be used: Not a directory" == line
    assert "precious" == folder.read_text()


def test_data_directory_beneath_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "data"

    with launch(tmp_path, *ANYWHERE, "--data-dir", str(folder)) as launched:
        line = refused(launched)

    assert f"leveret serve: the data directory {folder} cannot be used: Not a directory" == line


def test_data_directory_that_exists_and_cannot_be_written_to(tmp_path):
    """Not even by root, as which these tests may run."""
    with launch(tmp_path, *ANYWHERE, "--data-dir", "/proc") as launched:
        line = refused(launched)

    assert line.startswith("leveret serve: the data directory /proc cannot be used: ")


def test_bad_topology_stops_the_start_before_anything_is_made(tmp_path):
    topology = tmp_path / "topology.yaml"
    topology.write_text("queues:\n  a: {durable: maybe}\n")

    with launch(tmp_path, *ANYWHERE, "--topology", str(topology)) as launched:
        line = refused(launched)

    assert line.startswith(f"leveret serve: {topology}:2: queues.a.durable: ")
    assert not (tmp_path / "leveret-data").exists()


# What works


def test_start_makes_the_data_directory_and_warns_of_all_that_is_not_there_yet(tmp_path):
    topology = tmp_path / "export.json"
    parameter = {"component": "federation-upstream", "vhost": "/", "name": "up", "value": {}}
    topology.write_text(json.dumps({"parameters": [parameter]}))
    arguments = ("--management", "127.0.0.1:15672", "--topology", str(topology))

    with launch(tmp_path, *ANYWHERE, *arguments, "--log-format", "json") as launched:
        launched.ready()
        launched.process.terminate()
        status, output, log = launched.end()

    assert (0, "") == (status, output)
    assert stat.S_IFDIR | 0o700 == (tmp_path / "leveret-data").stat().st_mode
    lines = {line["event"]: line for line in map(json.loads, log.splitlines())}
    assert {"warning"} == {
        lines.pop(event)["level"] for event in ("topology.ignored", "management.absent")
    }
    assert ["store.opened", "server.stopping", "server.stopped"] == list(lines)


def test_memory_alone_needs_no_directory(tmp_path):
    with launch(tmp_path, *ANYWHERE, "--in-memory") as launched:
        launched.ready()

        assert ["leveret.log"] == [one.name for one in tmp_path.iterdir()]


# sd_notify


@contextmanager
def service_manager(address: str) -> Iterator[socket.socket]:
    """Listen as systemd does."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(address)
        manager.settimeout(20)
        yield manager


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_service_manager_is_told_when_it_serves_and_when_it_stops(tmp_path: Path, kind):
    name = str(tmp_path / "notify")
    name, address = (name, name) if kind == "path" else ("@" + name, "\0" + name)
    path = tmp_path / "amqp.sock"
    listen = ("--listen", f"unix:{path}")

    with (
        service_manager(address) as manager,
        launch(tmp_path, "--in-memory", *listen, environment={"NOTIFY_SOCKET": name}) as launched,
    ):
        assert b"READY=1" == manager.recv(100)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        launched.process.send_signal(signal.SIGTERM)
        assert b"STOPPING=1" == manager.recv(100)

        assert 0 == launched.end()[0]
    assert not path.exists()


def test_service_manager_that_is_gone_is_no_reason_not_to_serve(tmp_path):
    environment = {"NOTIFY_SOCKET": str(tmp_path / "nobody")}
    with launch(tmp_path, "--in-memory", *ANYWHERE, environment=environment) as launched:
        with closing(socket.create_connection(launched.ready())) as client:
            client.sendall(b"AMQP\x00\x00\x09\x01")
            assert b"\x01\x00\x00" == client.recv(3)
        launched.process.terminate()
        status, _, log = launched.end()

    assert 0 == status
    assert "notify.failed" in log
