"""`leveret store` as a command, on data directories of real brokers: stopped, killed, at work."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pika
import pytest

from ..support.leveret import ROOT, Durable

SECONDS = 30
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def store(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `leveret store`."""
    return subprocess.run(
        [sys.executable, "-m", "leveret.broker", "store", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def refused(*arguments: object) -> str:
    """Return the one line of a command that cannot do it."""
    ended = store(*arguments)
    assert (2, "", 1) == (ended.returncode, ended.stdout, ended.stderr.count("\n")), ended
    return ended.stderr.rstrip("\n")


@contextmanager
def channel(broker: Durable):
    """Open a channel with confirms."""
    parameters = pika.ConnectionParameters(broker.host, broker.port)
    with closing(pika.BlockingConnection(parameters)) as connection:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened


def publish(broker: Durable, queue: str, *bodies: bytes) -> None:
    with channel(broker) as here:
        here.queue_declare(queue, durable=True)
        for body in bodies:
            here.basic_publish("", queue, body, PERSISTENT)


def drained(broker: Durable, queue: str) -> list[bytes]:
    """Take all that is in a queue."""
    found = []
    with channel(broker) as here:
        while (body := here.basic_get(queue, auto_ack=True)[2]) is not None:
            found.append(body)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The data directory of a broker that was stopped: ten messages in `orders`, two in `mails`."""
    folder = tmp_path_factory.mktemp("whole")
    with Durable(folder) as broker:
        broker.start()
        publish(broker, "orders", *[b"%d" % number for number in range(10)])
        publish(broker, "mails", b"a", b"b")
        broker.stop()
    return broker.data


@pytest.fixture
def broker(whole: Path, tmp_path: Path):
    """A broker that is not started yet, on a copy of that directory."""
    with Durable(tmp_path) as made:
        shutil.copytree(whole, made.data)
        yield made


def flip(broker: Durable, row: int, column: str = "idx") -> None:
    """Flip a bit of the nth row, counted from the end if negative."""
    with closing(sqlite3.connect(broker.data / "leveret.db", isolation_level=None)) as connection:
        seqs = [seq for (seq,) in connection.execute("SELECT seq FROM batch ORDER BY seq")]
        query = f"SELECT {column} FROM batch WHERE seq = ?"
        (octets,) = connection.execute(query, (seqs[row],)).fetchone()
        changed = bytes([octets[0] ^ 1]) + octets[1:]
        connection.execute(f"UPDATE batch SET {column} = ? WHERE seq = ?", (changed, seqs[row]))


def start_refused(broker: Durable) -> str:
    """Return the last line of a start that fails with status 2."""
    broker.begin()
    process = broker._process
    assert process is not None
    with process:
        assert 2 == process.wait(SECONDS)
    broker._process = None
    return broker.log.read_text().splitlines()[-1]


# Whole


@pytest.mark.long
def test_a_store_of_a_stopped_broker_is_good_and_told(broker):
    checked = store("check", broker.data)
    told = store("info", broker.data)

    assert 0 == checked.returncode
    assert "leveret.db: good (rows: " in checked.stdout
    assert "messages: 12, queues: 2" in checked.stdout
    assert "  '/' 'orders': 10, " in told.stdout
    assert ("", "", 0) == (checked.stderr, told.stderr, told.returncode)


def test_what_plugins_have_in_a_store_is_known_to_the_tools(tmp_path):
    with Durable(tmp_path) as broker:
        broker.start()
        with channel(broker) as here:
            here.queue_declare("reports", durable=True)
            kind, arguments = "x-delayed-message", {"x-delayed-type": "direct"}
            here.exchange_declare("later", kind, durable=True, arguments=arguments)
            here.queue_bind("reports", "later", "weekly")
            waits = pika.BasicProperties(delivery_mode=2, headers={"x-delay": 600_000})
            here.basic_publish("later", "weekly", b"sums", waits)
        broker.stop()

        checked = json.loads(store("check", "--json", broker.data).stdout)
        told = json.loads(store("info", "--json", broker.data).stdout)
        compacted, repaired = (store(each, broker.data) for each in ("compact", "repair"))

        assert ([], [], 1) == (checked["problems"], checked["notes"], checked["messages"])
        assert 1 in [each["messages"] for each in told["queues"]]
        assert 0 == compacted.returncode, compacted
        assert "nothing is damaged" in repaired.stdout


@pytest.mark.long
def test_what_is_told_to_machines_is_one_object(broker):
    checked = json.loads(store("check", "--json", broker.data).stdout)
    told = json.loads(store("info", "--json", broker.data).stdout)

    assert (True, [], 12) == (checked["good"], checked["problems"], checked["messages"])
    assert {"orders": 10, "mails": 2} == {one["name"]: one["messages"] for one in told["queues"]}


@pytest.mark.long
def test_a_killed_broker_leaves_a_good_store(broker):
    broker.start()
    publish(broker, "orders", b"10", b"11")
    broker.kill()

    checked = store("check", broker.data)

    assert (0, "") == (checked.returncode, checked.stderr)
    assert "messages: 14" in checked.stdout


@pytest.mark.long
def test_compacting_leaves_all_messages_to_the_next_broker(broker):
    broker.start()
    publish(broker, "large", *[bytes(50_000)] * 40)
    assert 40 == len(drained(broker, "large"))
    broker.stop()

    ended = store("compact", broker.data)

    assert (0, "") == (ended.returncode, ended.stderr)
    broker.start()
    assert [b"%d" % number for number in range(10)] == drained(broker, "orders")
    broker.stop()


# In use


@pytest.mark.long
@pytest.mark.parametrize("command", ["info", "check", "repair", "compact"])
def test_a_running_broker_keeps_its_store_for_itself(broker, command):
    broker.start()

    line = refused(command, broker.data)

    text = f"leveret store {command}: the data directory {broker.data} is in use by a broker"
    assert text == line
    broker.stop()


def test_a_running_broker_makes_a_copy_while_commits_go_on(broker, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    broker.start()
    publish(broker, "orders", *[bytes(100_000)] * 50)
    is_over, confirmed = threading.Event(), []

    def go_on() -> None:
        with channel(broker) as here:
            while not is_over.is_set():
                here.basic_publish("", "mails", b"%d" % len(confirmed), PERSISTENT)
                confirmed.append(None)

    publisher = threading.Thread(target=go_on)
    publisher.start()
    try:
        before = len(confirmed)
        ended = store("backup", broker.data, copies / "leveret.db")
        after = len(confirmed)
    finally:
        is_over.set()
        publisher.join()
    broker.stop()

    assert (0, "") == (ended.returncode, ended.stderr)
    size = (copies / "leveret.db").stat().st_size
    assert f"{copies / 'leveret.db'}: {size:,} octets\n" == ended.stdout
    assert after > before
    checked = json.loads(store("check", "--json", copies).stdout)
    assert checked["good"]
    assert 62 + before <= checked["messages"] <= 62 + after + 1


@pytest.mark.long
def test_a_relative_name_of_a_copy_is_that_of_whoever_asks(broker, tmp_path):
    broker.start()
    file = Path(os.path.relpath(tmp_path / "copy", ROOT))

    assert 0 == store("backup", broker.data, file).returncode

    assert (tmp_path / "copy").exists()
    broker.stop()


@pytest.mark.long
@pytest.mark.parametrize("is_running", [False, True])
def test_a_copy_replaces_nothing(broker, tmp_path, is_running):
    (tmp_path / "copy").write_text("precious")
    if is_running:
        broker.start()

    line = refused("backup", broker.data, tmp_path / "copy")

    assert f"leveret store backup: {tmp_path}/copy is there already" == line
    assert "precious" == (tmp_path / "copy").read_text()
    if is_running:
        broker.stop()


@pytest.mark.long
@pytest.mark.parametrize("is_running", [False, True])
def test_a_copy_that_cannot_be_made_is_absent(broker, tmp_path, is_running):
    if is_running:
        broker.start()

    line = refused("backup", broker.data, tmp_path / "nowhere" / "copy")

    assert f"{tmp_path}/nowhere/copy cannot be written" in line
    if is_running:
        broker.stop()


def test_a_broker_without_its_socket_cannot_be_asked_and_goes_on(broker, tmp_path):
    broker.start()
    (broker.data / "control").unlink()

    line = refused("backup", broker.data, tmp_path / "copy")

    assert f"the broker in {broker.data} cannot be asked: No such file or directory" in line
    broker.stop()


@pytest.mark.long
def test_the_socket_is_there_while_the_broker_runs_also_after_a_kill(broker):
    broker.start()
    assert 0o600 == (broker.data / "control").stat().st_mode & 0o777
    broker.kill()
    assert (broker.data / "control").exists()

    broker.start()
    assert (broker.data / "control").is_socket()
    broker.stop()

    assert not (broker.data / "control").exists()


# Damaged


@pytest.mark.long
def test_a_damaged_last_row_is_left_out_with_a_warning(broker):
    flip(broker, -1)

    broker.start()
    found = drained(broker, "orders"), drained(broker, "mails")
    broker.stop()

    assert ([b"%d" % number for number in range(10)], [b"a"]) == found
    (line,) = [line for line in broker.log.read_text().splitlines() if "row.discarded" in line]
    assert "messages=1" in line
    assert "1 of queue 'mails' in vhost '/' (1)" in line
    assert 0 == store("check", broker.data).returncode


@pytest.mark.long
def test_damage_elsewhere_stops_the_start_until_it_is_repaired(broker):
    flip(broker, 4)

    line = start_refused(broker)
    checked = store("check", broker.data)
    repaired = store("repair", broker.data)

    assert line.startswith("leveret serve: row ")
    assert ": the checksum does not match; it held messages: 1 of queue 'orders'" in line
    assert line.endswith(f"; try: leveret store repair {broker.data}")
    assert 1 == checked.returncode
    assert checked.stdout.splitlines()[-1].endswith(f"; try: leveret store repair {broker.data}")
    assert (0, "") == (repaired.returncode, repaired.stderr)
    assert "messages that are lost: 1 of queue 'orders' in vhost '/'" in repaired.stdout
    assert (broker.data / "leveret.db.before-repair-1").exists()
    broker.start()
    found = drained(broker, "orders")
    assert 9 == len(found)
    assert {*found} < {b"%d" % number for number in range(10)}
    assert [b"a", b"b"] == drained(broker, "mails")
    broker.stop()


@pytest.mark.long
def test_a_message_that_cannot_be_read_is_found_and_dropped_alone(broker):
    flip(broker, 4, "body")

    checked = store("check", broker.data)
    repaired = store("repair", broker.data)

    assert 1 == checked.returncode
    assert "1 of its messages cannot be read" in checked.stdout
    assert 0 == repaired.returncode
    broker.start()
    assert 9 == len(drained(broker, "orders"))
    broker.stop()


@pytest.mark.long
def test_a_truncated_file_stops_the_start_until_it_is_repaired(broker):
    broker.start()
    publish(broker, "mails", *[bytes(100_000)] * 10)
    broker.stop()
    file = broker.data / "leveret.db"
    os.truncate(file, file.stat().st_size - 100_000)

    line = start_refused(broker)
    checked = store("check", broker.data)
    repaired = store("repair", broker.data)

    assert "leveret.db was cut: of " in line
    assert line.endswith(f"; try: leveret store repair {broker.data}")
    assert 1 == checked.returncode
    assert (0, "") == (repaired.returncode, repaired.stderr)
    broker.start()
    assert [b"%d" % number for number in range(10)] == drained(broker, "orders")
    mails = drained(broker, "mails")
    assert [b"a", b"b"] == mails[:2]
    assert 2 < len(mails) < 12
    broker.stop()


@pytest.mark.long
def test_a_first_page_that_is_spoilt_is_beyond_repair(broker):
    file = broker.data / "leveret.db"
    octets = file.read_bytes()
    file.write_bytes(octets[:100] + bytes(4000) + octets[4100:])

    ended = store("repair", broker.data)

    assert (1, "", 1) == (ended.returncode, ended.stdout, ended.stderr.count("\n"))
    assert "cannot be read at all" in ended.stderr


@pytest.mark.long
def test_a_store_of_a_later_format_is_left_to_a_later_leveret(broker):
    with closing(sqlite3.connect(broker.data / "leveret.db")) as connection:
        connection.execute("PRAGMA user_version = 9")
    before = (broker.data / "leveret.db").read_bytes()

    lines = [start_refused(broker), *[refused(each, broker.data) for each in ("check", "repair")]]

    for line in lines:
        assert "was written by a later Leveret: its format is 9, this one knows 2" in line
    assert before == (broker.data / "leveret.db").read_bytes()


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "leveret store: the following arguments are required: COMMAND"),
        (("look",), "leveret store: argument COMMAND: invalid choice: 'look'"),
        (("check",), "leveret store check: the following arguments are required: DIR"),
        (("backup", "."), "leveret store backup: the following arguments are required: FILE"),
        (("compact", "--json", "."), "unrecognized arguments: --json"),
        (("info", "/nowhere"), "leveret store info: there is no store in /nowhere"),
        (("repair", "/proc"), "leveret store repair: there is no store in /proc"),
        (("backup", "/nowhere", "x"), "leveret store backup: there is no store in /nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments, expected):
    assert expected in refused(*arguments)


@pytest.mark.long
@pytest.mark.parametrize("command", ["", "info", "check", "repair", "compact", "backup"])
def test_every_command_has_help(command):
    ended = store(*filter(None, [command]), "--help")

    assert (0, "") == (ended.returncode, ended.stderr)
    assert f"usage: leveret store {command}".rstrip() in ended.stdout
