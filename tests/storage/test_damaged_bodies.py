"""Stores whose long bodies are beside the database: `leveret store` and starts, when some are gone.

What is damaged is the files themselves, or what rows say of them.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from struct import Struct

import pytest

from leveret.broker.core.batch import Batch
from leveret.broker.storage import bodies, database, repair, row_builder, tools
from leveret.broker.storage.base import Damaged
from leveret.broker.storage.bodies import BLOCK, SIZE, Bodies, file_of, files_of, place_of
from leveret.broker.storage.journal import Journal
from leveret.broker.storage.lock import promise
from leveret.broker.storage.recovery import Recovery
from leveret.broker.storage.wal import log_of

from .test_tools import HEADER, PUBLISH, Made, flipped, lost, message

LEAST = 5000
EACH = 2000  # octets of the body of a message
LENGTH = PUBLISH + HEADER + EACH


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LEAST", LEAST)


def body(number: int) -> bytes:
    return b"%d " % number * (EACH // len(b"%d " % number)) + bytes(EACH % len(b"%d " % number))


class Beside(Made):
    """A store with long bodies beside it: each commit is that of a process of its own."""

    def commit(self) -> None:
        last = -1
        with closing(database.connect(self.file)) as connection, closing(Bodies(self.file)) as made:
            made.open(connection)
            connection.execute("BEGIN")
            rows = self.journal.close()
            for row in rows:
                connection.execute(database.ADD, database.to_add(row, made))
                if row.replace:
                    database.replace(connection.execute, row.replace)
                database.define(connection.execute, row.definitions)
                last = row.seq
            made.sync()
            connection.execute("COMMIT")
            for row in rows:
                made.free([*row.delete, *(seq for seq, _ in row.replace)])
            made.tidy()
        if last >= 0:
            self.seqs.append(last)

    def content(self) -> dict[str, dict[int, bytes]]:
        journal = Journal(Batch())
        recovery = Recovery(journal)
        for seq, index, size in self.execute(f"SELECT seq, idx, {SIZE} FROM batch"):
            recovery.read(seq, index, size)
        found = recovery.finish(set(self.numbers.values()))
        assert [] == recovery.lost
        content: dict[str, dict[int, bytes]] = {}
        for name, number in self.numbers.items():
            content[name] = {}
            for run in found[number].runs if number in found else ():
                content[name].update(self._bodies(journal, number, run))
        return content

    def execute(self, statement: str, *arguments: object) -> list[tuple]:
        """Carry a statement out; `substr` finds bodies wherever they are."""
        with closing(database.connect(self.file)) as connection:
            connection.create_function("substr", 3, self._piece)
            return connection.execute(statement, arguments).fetchall()

    def _piece(self, stored: bytes | str, start: int, length: int) -> bytes:
        place = place_of(stored)
        if place is None:
            assert isinstance(stored, bytes)
            return stored[start - 1 : start - 1 + length]
        return bodies.read(self.file, place, start - 1, length)

    def stored(self, seq: int) -> object:
        return self.execute("SELECT body FROM batch WHERE seq = ?", seq)[0][0]

    def beside(self, seq: int) -> Path:
        """Return the file that the body of a row is in."""
        place = place_of(self.stored(seq))
        assert place is not None
        return file_of(self.file, place.file)

    def flip_beside(self, seq: int, at: int) -> None:
        """Flip a bit of a body that is beside its row."""
        place = place_of(self.stored(seq))
        assert place is not None
        octets = flipped(self.beside(seq).read_bytes(), place.start + at)
        self.beside(seq).write_bytes(octets)


@pytest.fixture
def made(tmp_path: Path) -> Beside:
    """Three rows whose bodies are in files, and two whose bodies are not."""
    made = Beside(tmp_path / "data")
    made.orders.enqueued(0, [message(body(each)) for each in range(5)])
    made.commit()
    made.mails.enqueued(0, [message(body(each)) for each in range(10, 14)])
    made.commit()
    made.orders.enqueued(5, [message(b"small")])
    made.commit()
    made.orders.enqueued(6, [message(body(6)), message(body(7)), message(body(8))])
    made.orders.settled([1])
    made.commit()
    made.mails.enqueued(4, [message(b"last")])
    made.commit()
    return made


ORDERS = {n: body(n) for n in (0, 2, 3, 4, 6, 7, 8)} | {5: b"small"}
MAILS = {n: body(10 + n) for n in range(4)} | {4: b"last"}


def without(content: dict[int, bytes], *positions: int) -> dict[int, bytes]:
    return {n: each for n, each in content.items() if n not in positions}


def cut_to(octets: int) -> Callable[[Beside], None]:
    return lambda made: os.truncate(made.beside(made.seqs[0]), octets)


def says(stored: str) -> Callable[[Beside], None]:
    def damage(made: Beside) -> None:
        made.execute("UPDATE batch SET body = ? WHERE seq = ?", stored, made.seqs[0])

    return damage


def test_they_are_where_the_tests_take_them_to_be(made: Beside) -> None:
    kinds = [type(made.stored(seq)) for seq in made.seqs]

    assert [str, str, bytes, str, bytes] == kinds
    assert {1, 2, 3} == files_of(made.file).keys()
    assert {"orders": ORDERS, "mails": MAILS} == made.content()
    assert tools.check(made.folder).is_good
    assert {"orders": 8, "mails": 5} == made.start()


def test_info_tells_what_files_take_and_of_bodies_wherever_they_are(made: Beside) -> None:
    with made.beside(made.seqs[0]).open("ab") as file:
        file.truncate(100 * BLOCK)

    facts = tools.info(made.folder).facts

    octets = sum(file.stat().st_blocks * 512 for file in files_of(made.file).values())
    sizes = facts["files"]
    assert isinstance(sizes, dict)
    assert 12 * LENGTH <= sizes["leveret.db-bodies-*"] <= octets < 100 * BLOCK
    assert 12 * LENGTH < facts["body_octets"] < 13 * LENGTH


# Starts, checks and repairs

# What is done to the first row, how a start calls it, and which of its messages are lost.
DAMAGE: dict[str, tuple[Callable[[Beside], None], str, list[tuple[int, int]]]] = {
    "missing": (
        lambda made: made.beside(made.seqs[0]).unlink(),
        "{file}-bodies-1 is missing: the body of row {seq} is in it",
        [(0, 0), (2, 4)],
    ),
    "cut": (
        cut_to(3 * LENGTH + 5),
        f"{{file}}-bodies-1 was cut: the body of row {{seq}} ends at {5 * LENGTH:,} octets, "
        f"it has {3 * LENGTH + 5:,}",
        [(3, 4)],
    ),
    "empty": (
        cut_to(0),
        "{file}-bodies-1 was cut: the body of row {seq} ends at",
        [(0, 0), (2, 4)],
    ),
    "beyond": (
        says(f"{5 * LENGTH} 1 {1 << 40}"),
        "{file}-bodies-1 was cut: the body of row {seq} ends at",
        [(0, 0), (2, 4)],
    ),
    "longer than anything": (
        says("999999999999999 1 0"),
        "{file}-bodies-1 was cut: the body of row {seq} ends at 999,999,999,999,999 octets",
        [],
    ),
    "another file": (
        says(f"{5 * LENGTH} 77 0"),
        "{file}-bodies-77 is missing: the body of row {seq} is in it",
        [(0, 0), (2, 4)],
    ),
    "no place": (
        says("hare"),
        "{file}: row {seq}: it does not say where its body is",
        [(0, 0), (2, 4)],
    ),
    "no text": (says(""), "{file}: row {seq}: it does not say where its body is", [(0, 0), (2, 4)]),
    "no length": (
        says("0 1 0"),
        "{file}: row {seq}: it does not say where its body is",
        [(0, 0), (2, 4)],
    ),
    "no number": (
        says("-5 1 0"),
        "{file}: row {seq}: it does not say where its body is",
        [(0, 0), (2, 4)],
    ),
    "more than a place": (
        says(f"{5 * LENGTH} 1 0 0"),
        "{file}: row {seq}: it does not say where its body is",
        [(0, 0), (2, 4)],
    ),
}


@pytest.mark.parametrize("how", ["missing", "cut", "empty", "beyond", "another file"])
def test_info_and_check_say_first_which_file_is_missing_or_was_cut(made: Beside, how: str) -> None:
    """Whoever has left it elsewhere should read that before a repair drops what was in it."""
    damage, said, _ = DAMAGE[how]
    damage(made)

    checked, told = tools.check(made.folder), tools.info(made.folder)

    said = said.format(file=made.file, seq=made.seqs[0])
    assert checked.lines[0].startswith(f"bodies: {said}")
    assert any(line.startswith(f"damaged: bodies: {said}") for line in told.lines)


@pytest.mark.parametrize(("damage", "said", "gone"), DAMAGE.values(), ids=DAMAGE)
def test_nothing_starts_without_a_body_and_a_repair_drops_just_what_was_in_it(
    made: Beside, damage: Callable[[Beside], None], said: str, gone: list[tuple[int, int]]
) -> None:
    seq = made.seqs[0]
    damage(made)
    before = {path.name: path.read_bytes() for path in files_of(made.file).values()}

    with pytest.raises(Damaged) as caught:
        made.start()
    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    assert str(caught.value).startswith(said.format(file=made.file, seq=seq))
    assert not checked.is_good
    expected = {"orders": gone} if gone else {}
    assert expected == lost(checked) == lost(repaired)
    assert repaired.is_good
    kept = {
        path.name.replace(".before-repair-1", ""): path.read_bytes()
        for path in made.folder.glob("*.before-repair-1-bodies-*")
    }
    assert {name: octets for name, octets in before.items() if octets} == kept
    positions = [n for first, last in gone for n in range(first, last + 1)]
    assert {"orders": without(ORDERS, *positions), "mails": MAILS} == made.content()
    assert isinstance(made.stored(seq), bytes)
    assert isinstance(made.stored(made.seqs[1]), str)
    assert tools.check(made.folder).is_good
    assert {"orders": 8 - len(set(positions) & set(ORDERS)), "mails": 5} == made.start()
    assert {"orders": without(ORDERS, *positions), "mails": MAILS} == made.content()
    assert repair.repair(made.folder).lines == [f"{made.file}: nothing is damaged"]


def test_a_place_of_the_right_length_in_which_are_no_characters_is_none(made: Beside) -> None:
    query = "UPDATE batch SET body = CAST(CAST(body AS BLOB) || x'FF' AS TEXT) WHERE seq = ?"
    made.execute(query, made.seqs[0])

    with pytest.raises(Damaged, match=rf"row {made.seqs[0]}: it does not say where its body is"):
        made.start()
    repaired = repair.repair(made.folder)

    assert {"orders": [(0, 0), (2, 4)]} == lost(repaired)
    assert {"orders": 4, "mails": 5} == made.start()
    assert tools.check(made.folder).is_good


def test_a_flipped_bit_is_kept_and_said(made: Beside) -> None:
    made.flip_beside(made.seqs[0], -1 % (5 * LENGTH))

    assert {"orders": 8, "mails": 5} == made.start()  # it is seen when it is read
    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    text = (
        f"row {made.seqs[0]}: the checksum of its body does not match; it held messages: 5 of queue"
    )
    assert checked.lines[0].startswith(text)
    assert repaired.lines[0].startswith(f"kept: {text}")
    assert {} == lost(repaired)
    assert repaired.is_good
    found = made.content()["orders"]
    assert [4] == [n for n, each in ORDERS.items() if each != found[n]]
    assert tools.check(made.folder).is_good


@pytest.mark.parametrize("at", [0, PUBLISH + 11], ids=["method", "header"])
def test_of_a_flip_where_a_message_can_be_told_only_that_one_is_dropped(
    made: Beside, at: int
) -> None:
    made.flip_beside(made.seqs[0], 3 * LENGTH + at)

    repaired = repair.repair(made.folder)

    assert {"orders": [(3, 3)]} == lost(repaired)
    assert {"orders": without(ORDERS, 3), "mails": MAILS} == made.content()
    assert {"orders": 7, "mails": 5} == made.start()


def test_of_rows_that_say_the_same_place_the_wrong_one_is_said(made: Beside) -> None:
    first, second = made.stored(made.seqs[0]), made.stored(made.seqs[3])
    assert isinstance(first, str)
    made.execute("UPDATE batch SET body = ? WHERE seq = ?", first, made.seqs[3])
    assert first != second

    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    assert checked.lines[0].startswith(f"row {made.seqs[3]}: ")
    assert repaired.is_good
    assert {0, 2, 3, 4, 5} <= made.content()["orders"].keys()
    assert without(ORDERS, 6, 7, 8) == without(made.content()["orders"], 6, 7, 8)
    made.start()
    made.orders.settled([6, 7, 8])
    made.commit()
    assert tools.compact(made.folder).is_good
    assert without(ORDERS, 6, 7, 8) == made.content()["orders"]


def test_of_a_body_that_was_cut_the_rest_is_kept_and_said_as_no_checksum_is_left_of_it(
    made: Beside,
) -> None:
    seq = made.seqs[0]
    made.flip_beside(seq, LENGTH - 1)
    os.truncate(made.beside(seq), 3 * LENGTH + 5)

    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    assert {"orders": [(3, 4)]} == lost(checked) == lost(repaired)
    text = (
        f"row {seq}: what is left of its body cannot be compared with its checksum; "
        "it held messages: 3 of queue 'orders' in vhost 'shop' (0-2)"
    )
    assert text in checked.lines
    assert f"kept: {text}" in repaired.lines
    found = made.content()["orders"]
    assert [0] == [n for n in found if found[n] != ORDERS[n]]
    assert tools.check(made.folder).is_good


def test_what_is_missing_and_held_nothing_that_counts_is_said_and_costs_nothing(
    made: Beside,
) -> None:
    made.orders.settled([4])
    made.commit()
    os.truncate(made.beside(made.seqs[0]), 4 * LENGTH)

    with pytest.raises(Damaged, match="was cut: the body of row 1 ends at"):
        made.start()
    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    assert not checked.is_good
    assert {} == lost(checked) == lost(repaired)
    assert repaired.is_good
    assert {"orders": without(ORDERS, 4), "mails": MAILS} == made.content()
    assert {"orders": 7, "mails": 5} == made.start()


def test_a_row_that_comes_back_without_the_log_has_lost_its_body(
    made: Beside, tmp_path: Path
) -> None:
    """It had gone, and its file with it, by a commit of which nothing is left."""
    with closing(database.connect(made.file)) as last:  # or the log would go with the others
        last.execute("SELECT count(*) FROM batch").fetchall()
        made.orders.settled([0, 2, 3, 4])
        made.commit()
        assert not file_of(made.file, 1).exists()
        shutil.copytree(made.folder, tmp_path / "killed")
    made.folder, made.file = tmp_path / "killed", tmp_path / "killed" / tools.FILE
    promise(made.folder, log_of(made.file).stat().st_size)  # as the last broker did
    log_of(made.file).unlink()

    with pytest.raises(Damaged):
        made.start()
    repaired = repair.repair(made.folder)

    assert repaired.is_good
    assert {"orders": [(0, 0), (2, 4)]} == lost(repaired)
    assert {"orders": without(ORDERS, 0, 2, 3, 4), "mails": MAILS} == made.content()
    assert {"orders": 4, "mails": 5} == made.start()
    assert {2, 3} == files_of(made.file).keys()


def test_a_database_made_anew_still_says_where_its_bodies_are(made: Beside) -> None:
    """What SQLite says of it is not whole, and one file is gone, too."""
    places = [made.stored(seq) for seq in made.seqs]
    with closing(database.connect(made.file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("CREATE INDEX torn ON batch(sum)")
        root = database.number(connection, "SELECT rootpage FROM sqlite_master WHERE name = 'torn'")
    with made.file.open("r+b") as file:
        file.seek((root - 1) * database.PAGE)
        file.write(b"\xff" * 64)
    made.beside(made.seqs[1]).unlink()

    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    assert checked.lines[0].startswith("database: ")
    assert {"mails": [(0, 3)]} == lost(repaired)
    assert repaired.is_good
    assert places[0] == made.stored(made.seqs[0])
    assert places[3] == made.stored(made.seqs[3])
    assert {"orders": ORDERS, "mails": {4: b"last"}} == made.content()
    assert {"orders": 8, "mails": 1} == made.start()
    assert {1, 3} == files_of(made.file).keys()


def test_what_is_read_from_a_page_that_sqlite_does_not_take_has_its_body_beside_it(
    made: Beside,
) -> None:
    with closing(database.connect(made.file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        root = database.number(connection, "SELECT rootpage FROM sqlite_master WHERE name='batch'")
    places = [made.stored(seq) for seq in made.seqs]
    with made.file.open("r+b") as file:
        file.seek((root - 1) * database.PAGE)
        assert b"\r" == file.read(1)  # all rows are on this page
        file.write(b"\x12\x34")  # it says where free room begins in it: not there

    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    assert not checked.is_good
    assert repaired.is_good
    assert {} == lost(repaired)
    assert places == [made.stored(seq) for seq in made.seqs]
    assert {"orders": ORDERS, "mails": MAILS} == made.content()
    assert {"orders": 8, "mails": 5} == made.start()


def test_the_copies_of_a_repair_that_was_interrupted_are_left_alone(
    made: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are many octets: whoever waits may lose patience."""
    made.flip_beside(made.seqs[0], 0)
    write, left = os.pwrite, count(1)

    def interrupted(descriptor: int, octets: bytes, at: int) -> int:
        if next(left) == 3:
            raise KeyboardInterrupt
        return write(descriptor, octets, at)

    with monkeypatch.context() as once:
        once.setattr(os, "pwrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            repair.repair(made.folder)
    before = {path: path.read_bytes() for path in made.folder.glob("*.before-repair-1*")}

    repaired = repair.repair(made.folder)

    assert before
    assert before == {path: path.read_bytes() for path in made.folder.glob("*.before-repair-1*")}
    assert repaired.is_good
    assert f"as it was before: {made.file}.before-repair-2" in repaired.lines
    assert (made.folder / "leveret.db.before-repair-2-bodies-1").exists()


def test_the_copy_of_a_repair_has_holes_where_parts_were_given_back(made: Beside) -> None:
    file = made.beside(made.seqs[0])
    with file.open("r+b") as opened:
        opened.seek(16 << 20)
        opened.write(b"the last octets")
        opened.truncate(32 << 20)
    made.flip_beside(made.seqs[0], -1 + LENGTH)
    before = file.read_bytes()
    with file.open("r+b") as opened:  # what was written as a whole has no holes
        for start, length in ((1 << 20, 15 << 20), (17 << 20, 15 << 20)):
            assert bodies._give_back(opened.fileno(), start, length)

    repair.repair(made.folder)

    kept = made.folder / file.name.replace("leveret.db", "leveret.db.before-repair-1")
    assert before == kept.read_bytes()
    assert bodies.octets_of(kept) < 4 << 20


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    made = Beside(tmp_path / os.fsdecode(b"b\xe4r 100%?#'"))
    made.orders.enqueued(0, [message(body(each)) for each in range(5)])
    made.commit()
    made.flip_beside(made.seqs[0], LENGTH)

    assert {"orders": [(1, 1)]} == lost(tools.check(made.folder))
    assert repair.repair(made.folder).is_good
    assert tools.compact(made.folder).is_good
    assert {"orders": 4, "mails": 0} == made.start()


def test_a_start_that_is_refused_removes_no_file_though_it_finds_no_row_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes a page for what it says: that rows are missing is seen by their number only."""
    monkeypatch.setattr(row_builder, "ROW_SIZE", LEAST + 1000)
    monkeypatch.setattr(bodies, "FILE_SIZE", 100 * BLOCK)
    made = Beside(tmp_path / "data")
    made.orders.enqueued(0, [message(body(each)) for each in range(1500)])
    made.commit()
    before = made.execute("SELECT count(*) FROM batch")[0][0]
    with made.file.open("r+b") as file:
        root = made.execute("SELECT rootpage FROM sqlite_master WHERE name = 'batch'")[0][0]
        file.seek((root - 1) * database.PAGE)
        kind, count = Struct(">B2xH").unpack(file.read(5))
        assert (5, 2) <= (kind, count)  # leaves, the last aside
        file.seek(-2, os.SEEK_CUR)
        file.write((count - 1).to_bytes(2))
    left = made.execute("SELECT count(*) FROM batch WHERE typeof(body) = 'text'")[0][0]
    files = set(files_of(made.file))

    with pytest.raises(Damaged):
        made.start()

    assert 0 < left < before
    assert len(files) > 3
    assert files == set(files_of(made.file))


# Long messages: a row for each part


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Beside:
    monkeypatch.setattr(row_builder, "ROW_SIZE", LEAST + 1000)
    made = Beside(tmp_path / "data")
    made.orders.enqueued(0, [message(body(0)), message(LONG), message(body(2))])
    made.commit()
    made.orders.enqueued(3, [message(body(3))])
    made.commit()
    return made


LONG = bytes(range(256)) * 80


def test_parts_of_a_message_are_in_files_of_one_commit(long: Beside) -> None:
    kinds = {seq: type(stored) for seq, stored in long.execute("SELECT seq, body FROM batch")}

    assert 3 <= list(kinds.values()).count(str)
    assert {1} == files_of(long.file).keys()
    assert {0: body(0), 1: LONG, 2: body(2), 3: body(3)} == long.content()["orders"]
    assert {"orders": 4, "mails": 0} == long.start()


@pytest.mark.parametrize("part", [0, 1, 2])
def test_without_a_part_the_message_is_lost_and_no_other(long: Beside, part: int) -> None:
    texts = [seq for seq, body in long.execute("SELECT seq, body FROM batch") if type(body) is str]
    place = place_of(long.stored(texts[part]))
    assert place is not None
    elsewhere = str(place._replace(file=9))
    long.execute("UPDATE batch SET body = ? WHERE seq = ?", elsewhere, texts[part])

    with pytest.raises(Damaged, match=rf"bodies-9 is missing: the body of row {texts[part]} "):
        long.start()
    checked = tools.check(long.folder)
    repaired = repair.repair(long.folder)

    assert {"orders": [(1, 1)]} == lost(checked) == lost(repaired)
    assert repaired.is_good
    assert {0: body(0), 2: body(2), 3: body(3)} == long.content()["orders"]
    assert {"orders": 3, "mails": 0} == long.start()
    assert tools.check(long.folder).is_good


def test_parts_go_with_their_message(long: Beside) -> None:
    long.orders.settled([0, 1, 2])
    long.commit()
    long.orders.enqueued(4, [message(b"next")])
    long.commit()
    long.start()

    assert {} == files_of(long.file)
    assert {3: body(3), 4: b"next"} == long.content()["orders"]


# Compacting


def test_what_is_half_dead_moves_and_its_file_goes(made: Beside) -> None:
    made.orders.settled([0, 2, 3])  # of five, one was settled before
    made.orders.settled([6])  # and of these two stay
    made.commit()
    first, third = made.beside(made.seqs[0]), made.beside(made.seqs[3])
    with third.open("ab") as file:
        file.write(bytes(50 * BLOCK))

    answer = tools.compact(made.folder)

    assert 1 == answer.facts["moved"]
    assert answer.facts["after"] < answer.facts["before"] - 50 * BLOCK
    assert not first.exists()
    assert third.stat().st_blocks * 512 <= -(-3 * LENGTH // BLOCK) * BLOCK
    assert {"orders": without(ORDERS, 0, 2, 3, 6), "mails": MAILS} == made.content()
    assert tools.check(made.folder).is_good
    assert {"orders": 4, "mails": 5} == made.start()


@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_nothing_is_compacted_if_a_body_is_not_there(made: Beside, row: int, how: str) -> None:
    made.orders.settled([0, 2, 3])
    made.commit()
    file = made.beside(made.seqs[row])
    orphan = file_of(made.file, 50)
    orphan.write_bytes(b"not needed, but who knows")
    if how == "cut":
        os.truncate(file, 100)
    else:
        file.unlink()
    before = {path.name: path.read_bytes() for path in made.folder.glob("leveret.db*")}

    with pytest.raises(Damaged) as caught:
        tools.compact(made.folder)

    assert f"{file} " in str(caught.value)
    assert str(caught.value).endswith(f"try: leveret store repair {made.folder}")
    found = {path.name: path.read_bytes() for path in made.folder.glob("leveret.db*")}
    assert before == {name: octets for name, octets in found.items() if name in before}


# Copies


def test_a_copy_made_offline_is_one_file_and_a_store_of_its_own(
    made: Beside, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in made.folder.glob("leveret.db*")}

    answer = tools.backup(made.folder, tmp_path / "copy")

    assert answer.is_good
    assert before == {path.name: path.read_bytes() for path in made.folder.glob("leveret.db*")}
    assert ["copy", "data"] == sorted(path.name for path in tmp_path.iterdir())
    shutil.rmtree(made.folder)
    made.folder.mkdir()
    (tmp_path / "copy").rename(made.file)
    assert {"orders": ORDERS, "mails": MAILS} == made.content()
    assert tools.check(made.folder).is_good
    assert {"orders": 8, "mails": 5} == made.start()
    assert {bytes} == {type(made.stored(seq)) for seq in made.seqs}
    assert {} == files_of(made.file)


@pytest.mark.parametrize("how", ["missing", "cut", "no place", "no characters"])
def test_no_copy_is_made_offline_without_a_body_and_it_is_said_which(
    made: Beside, tmp_path: Path, how: str
) -> None:
    seq, file = made.seqs[0], made.beside(made.seqs[0])
    if how == "cut":
        os.truncate(file, 100)
    elif how == "missing":
        file.unlink()
    elif how == "no place":
        made.execute("UPDATE batch SET body = 'hare' WHERE seq = ?", seq)
    else:
        made.execute("UPDATE batch SET body = CAST(x'35FF' AS TEXT) WHERE seq = ?", seq)

    with pytest.raises(Damaged) as caught:
        tools.backup(made.folder, tmp_path / "copy")

    said = {
        "cut": f"{file}: the body of row {seq} cannot be read: it was cut",
        "missing": f"{file}: the body of row {seq} cannot be read: No such file or directory",
        "no place": f"{made.file}: row {seq}: it does not say where its body is",
        "no characters": f"{made.file}: row {seq}: it does not say where its body is",
    }
    assert f"{said[how]}; try: leveret store repair {made.folder}" == str(caught.value)
    assert ["data"] == [path.name for path in tmp_path.iterdir()]


# The format without files


@pytest.fixture
def old(tmp_path: Path) -> Made:
    """A store as the release before has left it."""
    made = Made(tmp_path / "data")
    made.orders.enqueued(0, [message(body(each)) for each in range(5)])
    made.commit()
    made.orders.enqueued(5, [message(b"5")])
    made.commit()
    made.execute("PRAGMA user_version = 1")
    return made


def test_a_store_of_the_format_without_files_can_be_looked_at_and_repaired(
    old: Made, tmp_path: Path
) -> None:
    """What keeps a broker from opening it may keep it from becoming one of the next format."""
    assert tools.check(old.folder).is_good
    assert 1 == tools.info(old.folder).facts["format"]
    assert tools.backup(old.folder, tmp_path / "copy").is_good
    size = old.file.stat().st_size
    os.truncate(old.file, size - 100)
    with pytest.raises(Damaged, match="was cut"):
        old.start()

    repaired = repair.repair(old.folder)

    assert repaired.is_good
    assert old.start()["orders"] + sum(b - a + 1 for a, b in lost(repaired).get("orders", ())) == 6
    assert [(2,)] == old.execute("PRAGMA user_version")


def test_a_store_of_the_format_without_files_becomes_one_of_the_next(old: Made) -> None:
    assert {"orders": 6, "mails": 0} == old.start()

    assert [(2,)] == old.execute("PRAGMA user_version")
    assert (old.folder / "leveret.db.format-1").exists()
    assert tools.check(old.folder).is_good
