"""A disk that is full, broken or read-only: publishers wait, or the process ends; nothing is lost.

Real processes on file systems of their own. Where none can be mounted, those tests are skipped.
"""

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from select import select
from typing import NamedTuple

import pytest

from leveret.broker.app import STOP_TIMEOUT
from leveret.broker.storage import bodies, sqlite
from leveret.broker.storage.base import Ref, Row
from leveret.broker.storage.database import PAGE
from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicConsumeOk,
    ConnectionBlocked,
    ConnectionUnblocked,
    QueueDeclare,
    QueueDeclareOk,
)
from leveret.protocol.reader import Contents

from ..support.durable import commit
from ..support.leveret import Durable
from .durability import link
from .durability.link import Gone, Link, Refused, confirmed_tags, published

MIB = 1 << 20
SECONDS = 20  # for whatever must come
JSON = ("--log-format", "json")


def reason_against_mounting() -> str:
    """Return why no file system can be mounted here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root: mount"
    if shutil.which("mount") is None:
        return "needs mount"
    with Path("/proc/self/status").open() as status:
        capabilities = next(int(line.split()[1], 16) for line in status if "CapEff" in line)
    return "" if capabilities >> 21 & 1 else "needs the capability to mount (CAP_SYS_ADMIN)"


mounting = pytest.mark.skipif(bool(reason_against_mounting()), reason=reason_against_mounting())
compiling = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: cc")


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", *arguments, str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        # lazily: what a failed test leaves open there must not keep it
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def fill(file: Path) -> None:
    """Take all the space that there is."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(MIB))
    with file.open("ab", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(512))


def resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MiB in memory."""
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=128m", "none") as folder:
        yield folder


class Doomed(Durable):
    """A Leveret on a disk that will let it down."""

    def __init__(self, folder: Path, data: Path, **environment: str) -> None:
        super().__init__(folder, *JSON, environment={"LEVERET_DISK_FREE": "auto", **environment})
        self.data = data

    def end(self) -> int:
        """Wait until it has ended by itself; return its exit status."""
        assert self._process is not None
        with self._process as process:
            status = process.wait(SECONDS)
        self._process = None
        return status

    def said(self, event: str) -> list[dict[str, object]]:
        """Return its lines in the log about something."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line[0] == "{"]
        return [line for line in lines if line["event"] == event]


@pytest.fixture(autouse=True)
def _clients_want_to_know_when_they_are_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(link.INTRODUCTION["capabilities"], "connection.blocked", True)


class Publisher(Link):
    """Publishes numbered messages to a queue.

    Attributes:
      sent: How many.
      confirmed: Those that the broker has answered for.
      events: What it has said otherwise.
    """

    def __init__(self, broker: Durable, queue: str = "q") -> None:
        super().__init__(broker.address, confirms=True)
        self.queue = queue
        self.sent = 0
        self.confirmed: set[int] = set()
        self.events: list[object] = []
        self._first = 1
        self.call(QueueDeclare(queue, durable=True), QueueDeclareOk)

    def publish(self, size: int) -> None:
        self.sent += 1
        self.send(published("", self.queue, b"%08d" % self.sent + b"x" * size))

    def look(self, seconds: float = 0) -> None:
        """Take in what has come, or comes within some time."""
        commands = []
        try:
            if select([self.socket], [], [], seconds)[0]:
                commands = self.poll()
        finally:
            commands += self.left()  # also what came before the end
            for tag, multiple in confirmed_tags(
                one for one in commands if not isinstance(one, ConnectionBlocked)
            ):
                self.confirmed.update(range(self._first, tag + 1) if multiple else [tag])
                if multiple:
                    self._first = tag + 1
            self.events += [
                one for one in commands if isinstance(one, ConnectionBlocked | ConnectionUnblocked)
            ]

    def publish_until_it_ends(self, size: int, window: int = 100) -> str:
        """Publish until the broker ends it; return its words."""
        try:
            while self.sent < 100_000:
                self.publish(size)
                self.look()
                while self.sent - len(self.confirmed) >= window:
                    self.look(SECONDS)
        except Refused as problem:
            self.look_back()
            return str(problem)
        except Gone:
            self.look_back()
            raise
        raise AssertionError("it never ended")

    def look_back(self) -> None:
        """Take in what came before the end."""
        for tag, multiple in confirmed_tags(self.left()):
            self.confirmed.update(range(self._first, tag + 1) if multiple else [tag])


class Drained(NamedTuple):
    """What a queue held."""

    numbers: list[int]
    sizes: set[int]


def drain(broker: Durable, count: int, queue: str = "q") -> Drained:
    """Consume and acknowledge so many messages, or as many as there are."""
    numbers: list[int] = []
    sizes: set[int] = set()
    consumer = Link(broker.address)
    declared = consumer.call(QueueDeclare(queue, durable=True), QueueDeclareOk)
    count = min(count, declared.message_count)
    consumer.call(BasicConsume(queue, "c"), BasicConsumeOk)
    while len(numbers) < count:
        for command in consumer.read():
            if isinstance(command, Contents):
                numbers += [int(content.body[:8]) for content in command]
                sizes |= {len(content.body) - 8 for content in command}
        consumer.tell(BasicAck(len(numbers), True))
    consumer.call(QueueDeclare(queue, durable=True), QueueDeclareOk)  # it has seen the last ack
    consumer.close()
    return Drained(numbers, sizes)


def check(found: Drained, publisher: Publisher, size: int) -> None:
    """All that was confirmed is there, in order, and nothing that was never sent."""
    assert sorted(set(found.numbers)) == found.numbers
    assert set() == publisher.confirmed - set(found.numbers)
    assert set(found.numbers) <= set(range(1, publisher.sent + 1))
    assert found.sizes <= {size}


def fill_up(publisher: Publisher, size: int) -> None:
    """Publish until publishers are blocked for good: the store cannot tidy up any more."""
    while True:
        while publisher.events[-1:] != [ConnectionBlocked("low on disk")]:
            publisher.publish(size)
            publisher.look()
        count = len(publisher.events)
        while len(publisher.events) == count:
            before = len(publisher.confirmed)
            publisher.look(3)
            if before == len(publisher.confirmed) and len(publisher.events) == count:
                return


# A full disk


@pytest.mark.long
@mounting
def test_alarm_blocks_before_the_disk_is_full_and_ends_when_consumers_have_drained(small, tmp_path):
    size = 20_000
    with Doomed(tmp_path, small / "data") as broker:
        broker.start()
        publisher = Publisher(broker)
        fill_up(publisher, size)
        assert broker.is_alive()
        assert os.statvfs(small).f_bavail > 0
        assert len(publisher.confirmed) * size > 32 * MIB

        found = drain(broker, len(publisher.confirmed))
        while publisher.events[-1] != ConnectionUnblocked():
            publisher.look(SECONDS)
        while len(publisher.confirmed) < publisher.sent:
            publisher.look(SECONDS)
        rest = drain(broker, publisher.sent)
        publisher.close()
        broker.stop()

    assert list(range(1, publisher.sent + 1)) == found.numbers + rest.numbers
    assert {ConnectionBlocked("low on disk"), ConnectionUnblocked()} == set(publisher.events)
    assert [] == broker.said("store.failed")


@mounting
def test_without_an_alarm_a_full_disk_ends_the_process_and_nothing_confirmed_is_lost(
    small, tmp_path
):
    with Doomed(tmp_path, small / "data", LEVERET_DISK_FREE="0") as broker:
        broker.start()
        publisher = Publisher(broker)

        said = publisher.publish_until_it_ends(100_000)

        publisher.close()
        assert "541 INTERNAL_ERROR - the store has failed" == said
        assert 1 == broker.end()
        assert ["critical"] == [line["level"] for line in broker.said("store.failed")]
        assert "full" in str(broker.said("store.failed")[0]["reason"])
        resize(small, "256m")
        broker.start()
        check(drain(broker, publisher.sent), publisher, 100_000)
        broker.stop()
    assert publisher.confirmed


@mounting
async def test_file_is_made_smaller_on_a_full_disk_if_the_log_has_room_at_its_front(
    small, monkeypatch
):
    monkeypatch.setattr(sqlite, "KEPT_PAGES", 10)
    store = sqlite.SQLiteStore(small / "data")
    await store.open()
    lease = await store.acquire(0, "hare", 10)
    await commit(store, [(lease, Row(seq, b"", [bytes(50_000)])) for seq in range(150)])
    with closing(sqlite3.connect(store.file)) as reader:
        reader.execute("PRAGMA wal_checkpoint").fetchall()
        reader.execute("BEGIN")  # the log is not begun anew meanwhile
        reader.execute("SELECT * FROM batch LIMIT 1").fetchall()
        await commit(store, [(lease, Row(150, b"", [b"the last"], delete=range(150)))])
    used = len(store.log.file.read_bytes().rstrip(b"\0"))
    os.truncate(store.log.file, used + PAGE)  # nearly at its end
    fill(small / "others")
    before = store.file.stat().st_size

    while await store.maintain(0):
        pass

    assert before > 7_000_000 > 500_000 > store.file.stat().st_size
    assert [b"the last"] == await store.read(lease, [Ref(150, 0, 8)])
    await store.close()


@mounting
async def test_long_bodies_go_into_rows_while_only_the_log_has_room(small):
    def body(seq: int) -> bytes:
        return b"%8d" % seq * (bodies.LEAST // 4)

    store = sqlite.SQLiteStore(small / "data")
    await store.open()
    lease = await store.acquire(0, "hare", 10)
    await commit(store, [(lease, Row(1, b"", [body(1)]))])
    for seq in range(100, 200):  # these make the log longer
        await commit(store, [(lease, Row(seq, b"", [bytes(50_000)]))])
    fill(small / "others")

    await commit(store, [(lease, Row(2, b"", [body(2)]))])

    (small / "others").unlink()
    await commit(store, [(lease, Row(3, b"", [body(3)]))])
    await store.close()
    with closing(sqlite3.connect(store.file)) as other:
        kinds = other.execute("SELECT typeof(body) FROM batch WHERE seq <= 3").fetchall()
    assert [("text",), ("blob",), ("text",)] == kinds
    await store.open()
    refs = [Ref(seq, 0, len(body(seq))) for seq in (1, 2, 3)]
    assert [body(1), body(2), body(3)] == await store.read(lease, refs)
    await store.close()


@mounting
def test_second_broker_on_a_full_disk_leaves_the_reserve_of_the_first(small, tmp_path):
    with Doomed(tmp_path, small / "data") as first:
        first.start()
        reserve = first.data / "reserve"  # made before it was ready
        held = reserve.stat().st_ino
        os.kill(first.pid, signal.SIGSTOP)  # it does nothing about it itself
        try:
            fill(small / "others")
            (tmp_path / "second").mkdir()
            second = Doomed(tmp_path / "second", first.data)
            with pytest.raises(RuntimeError, match="is in use by another broker"):
                second.start()
            assert held == reserve.stat().st_ino
        finally:
            os.kill(first.pid, signal.SIGCONT)


@mounting
def test_disk_that_others_have_filled_is_started_on_with_the_reserve_and_drained(small, tmp_path):
    size = 100_000
    others = small / "others"
    with Doomed(tmp_path, small / "data") as broker:
        broker.start()
        publisher = Publisher(broker)
        for _ in range(50):
            publisher.publish(size)
        while len(publisher.confirmed) < 50:
            publisher.look(SECONDS)
        publisher.close()
        broker.stop()
        assert (broker.data / "reserve").exists()
        fill(others)
        assert 0 == os.statvfs(small).f_bavail

        broker.start()

        assert not (broker.data / "reserve").exists()
        assert 1 == len(broker.said("reserve.released"))
        blocked = Publisher(broker, "q")
        blocked.publish(size)
        blocked.look(SECONDS)
        assert [ConnectionBlocked("low on disk")] == blocked.events
        assert list(range(1, 51)) == drain(broker, 50).numbers
        others.unlink()
        while not blocked.confirmed:
            blocked.look(SECONDS)
        assert ConnectionUnblocked() == blocked.events[-1]
        assert (broker.data / "reserve").stat().st_blocks > 0
        blocked.close()
        broker.stop()


# A broken one


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[tuple[Doomed, Path]]:
    """A broker, and the file that says what is to fail on its disk."""
    library, file = tmp_path / "faults.so", tmp_path / "fault"
    source = Path(__file__).parents[1] / "support" / "faults.c"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    data = tmp_path / "data"
    environment = {"FAULTS_FOLDER": str(data), "FAULTS_FILE": str(file), "LD_PRELOAD": str(library)}
    with Doomed(tmp_path, data, LEVERET_DISK_FREE="0", **environment) as broker:
        yield broker, file


@compiling
@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("sync", errno.EIO),
        ("write", errno.EIO),
        ("write", errno.ENOSPC),
        ("write", errno.EROFS),
    ],
    ids=["no sync", "no write", "no space", "read-only"],
)
def test_disk_that_fails_ends_the_process_and_nothing_confirmed_is_lost(broken, kind, problem):
    broker, fault = broken
    broker.start()
    publisher = Publisher(broker)
    while len(publisher.confirmed) < 200:
        publisher.publish(1_000)
        publisher.look()
    before = set(publisher.confirmed)

    fault.write_text(f"{kind} {problem}")
    said = publisher.publish_until_it_ends(1_000)

    with pytest.raises(Gone):  # nobody else gets in, though this peer has not gone yet
        Link(broker.address)
    publisher.close()
    assert "541 INTERNAL_ERROR - the store has failed" == said
    assert 1 == broker.end()
    assert ["critical"] == [line["level"] for line in broker.said("store.failed")]
    fault.unlink()
    broker.start()
    check(drain(broker, publisher.sent), publisher, 1_000)
    broker.stop()
    assert before <= publisher.confirmed


@compiling
def test_what_was_declared_on_a_disk_that_fails_is_not_confirmed(broken):
    broker, fault = broken
    broker.start()
    client = Link(broker.address)
    fault.write_text(f"sync {errno.EIO}")

    with pytest.raises(Refused, match="541 INTERNAL_ERROR - the store has failed"):
        client.call(QueueDeclare("q", durable=True), QueueDeclareOk)

    client.close()
    assert 1 == broker.end()


@compiling
def test_disk_that_fails_while_the_broker_stops_ends_it_soon_and_not_well(broken):
    broker, fault = broken
    broker.start()
    publisher = Publisher(broker)
    fault.write_text(f"sync {errno.EIO}")
    start = time.monotonic()

    publisher.publish(1_000)
    os.kill(broker.pid, signal.SIGTERM)

    with pytest.raises(Refused, match="541 INTERNAL_ERROR - the store has failed"):
        publisher.look(SECONDS)
    publisher.close()
    assert 1 == broker.end()
    assert time.monotonic() - start < STOP_TIMEOUT
    assert set() == publisher.confirmed


@compiling
def test_start_on_a_disk_that_fails_says_so_in_one_line(broken):
    broker, fault = broken
    fault.write_text(f"write {errno.EIO}")

    with pytest.raises(RuntimeError, match=r"leveret serve: .*disk I/O error"):
        broker.start()

    assert 1 == len(broker.log.read_text().splitlines())


# A read-only one


@contextmanager
def ext4(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A file system that turns read-only at its first fault; yield it and what brings one about."""
    image = tmp_path / "image"
    with image.open("wb") as made:
        made.truncate(96 * MIB)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        context = mounted(tmp_path / "ext4", "-o", "loop,errors=remount-ro", str(image))
        folder = context.__enter__()
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.skip(f"needs mkfs.ext4 and a loop device: {problem}")
    with suppress(OSError):
        device = os.stat(folder).st_dev
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    try:
        yield folder, Path(f"/sys/fs/ext4/{name}/trigger_fs_error")
    finally:
        context.__exit__(None, None, None)


@mounting
def test_file_system_that_becomes_read_only_ends_the_process(tmp_path):
    with ext4(tmp_path) as (folder, trigger), Doomed(tmp_path, folder / "data") as broker:
        if not trigger.exists():
            pytest.skip(f"needs {trigger}")
        broker.start()
        publisher = Publisher(broker)
        for _ in range(10):
            publisher.publish(1_000)
        while len(publisher.confirmed) < 10:
            publisher.look(SECONDS)

        trigger.write_text("1")
        said = publisher.publish_until_it_ends(1_000)

        publisher.close()
        assert "541 INTERNAL_ERROR - the store has failed" == said
        assert 1 == broker.end()
        with pytest.raises(RuntimeError, match=r"leveret serve: the data directory .* Read-only"):
            broker.start()
        subprocess.run(["umount", str(folder)], check=True)
        subprocess.run(["mount", "-o", "loop", str(tmp_path / "image"), str(folder)], check=True)
        broker.start()
        check(drain(broker, publisher.sent), publisher, 1_000)
        broker.stop()
