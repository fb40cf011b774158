"""Rows and definitions are found also where SQLite does not find the pages that they are on."""

import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from leveret.broker.storage import database, repair, tools

from .test_tools import Made, large, leaves, made, message, pages, spoil

__all__ = ["large", "made"]  # fixtures


def root_of(made: Made, table: str) -> int:
    """Return the first page of a table, counted from 0."""
    query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
    ((root,),) = made.execute(query, table)
    return root - 1


@pytest.fixture
def wide(large: Made) -> Made:
    """So many rows that the first page of their table has none, but names others."""
    for number in range(60):
        large.mails.enqueued(number, [message(b"x" * (900 + number * 40))])
        large.commit()
    assert len(leaves(large)) > 3
    return large


@pytest.mark.parametrize("octets", [bytes(database.PAGE), b"\xa5" * database.PAGE], ids=["0", "a5"])
def test_rows_are_found_without_the_page_that_names_theirs(wide: Made, octets: bytes) -> None:
    before = wide.content()
    spoil(wide, root_of(wide, "batch"), octets)

    checked = tools.check(wide.folder)
    repaired = repair.repair(wide.folder)

    assert "messages: 180," in checked.lines[-1]
    reason = r"rows the first to the last: .* \(90 were found on their pages\)"
    assert any(re.match(reason, line) for line in checked.lines)
    assert repaired.is_good
    assert before == wide.content()
    assert {"orders": 120, "mails": 60} == wide.start()
    assert tools.check(wide.folder).is_good


def test_rows_are_found_in_a_database_with_several_maps_of_its_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PAGE", 512)
    made = Made(tmp_path / "data")
    for number in range(25):
        made.orders.enqueued(number, [message(b"%02d" % number * number * 400)])
        made.commit()
    assert pages(made) > 2 * 512 // 5
    before = made.content()
    spoil(made, root_of(made, "batch"), bytes(512))

    assert repair.repair(made.folder).is_good
    assert before == made.content()


def cells_of(made: Made, page: int) -> list[int]:
    """Return where the rows of a page begin in the file."""
    at, octets = page * database.PAGE, made.file.read_bytes()
    count = int.from_bytes(octets[at + 3 : at + 5])
    return [
        at + int.from_bytes(octets[at + 8 + 2 * each : at + 10 + 2 * each]) for each in range(count)
    ]


@pytest.mark.parametrize("size", [1, 2, 9])
def test_rows_that_make_no_sense_are_left_out(wide: Made, size: int) -> None:
    before = wide.content()
    page = leaves(wide)[1]
    cells = cells_of(wide, page)
    octets = bytearray(wide.file.read_bytes())
    for at in cells:  # its length, its number, and the types of its columns
        octets[at : at + size] = bytes([0xFF] * (size - 1) + [5])
    spoil(wide, 0, bytes(octets))
    spoil(wide, root_of(wide, "batch"), bytes(database.PAGE))

    assert not tools.check(wide.folder).is_good
    assert repair.repair(wide.folder).is_good
    for name, bodies in wide.content().items():
        assert bodies.items() <= before[name].items()
        assert len(bodies) >= len(before[name]) - 4 * len(cells)


def test_rows_whose_pages_name_each_other_in_a_circle_are_left_out(wide: Made) -> None:
    octets = wide.file.read_bytes()
    mapped = octets[database.PAGE :]
    first = next(each for each in range(pages(wide) - 2) if mapped[5 * each] == 3) + 2
    spoil(wide, first, (first + 1).to_bytes(4))
    spoil(wide, root_of(wide, "batch"), bytes(database.PAGE))

    assert not tools.check(wide.folder).is_good
    assert repair.repair(wide.folder).is_good
    assert sum(map(len, wide.content().values())) >= 180 - 4


def test_rows_are_found_in_the_log_too(wide: Made, tmp_path: Path) -> None:
    root = root_of(wide, "batch")
    with closing(database.connect(wide.file)) as other:  # who is last would empty the log
        other.execute("SELECT 1 FROM batch").fetchall()
        wide.mails.enqueued(60, [message(b"last" * 9000)])
        wide.commit()
        before = wide.content()
        wide.folder = shutil.copytree(wide.folder, tmp_path / "killed")
    wide.file = wide.folder / database.FILE
    spoil(wide, root, bytes(database.PAGE))

    assert not tools.check(wide.folder).is_good
    assert repair.repair(wide.folder).is_good
    assert b"last" * 9000 == before["mails"][60]
    assert before == wide.content()


def test_definitions_are_found_without_the_page_that_names_theirs(made: Made) -> None:
    for number in range(300):
        made.broker.add_vhost(f"{number}" * 50)
    made.commit()
    definitions = made.execute("SELECT * FROM meta ORDER BY id")
    spoil(made, root_of(made, "meta"), bytes(database.PAGE))

    assert not tools.check(made.folder).is_good
    assert repair.repair(made.folder).is_good
    assert definitions == made.execute("SELECT * FROM meta ORDER BY id")
    assert {"orders": 11, "mails": 6} == made.start()


def test_rows_that_were_deleted_are_not_found_again(wide: Made) -> None:
    wide.mails.settled(range(40))
    wide.orders.settled(range(100))
    wide.commit()
    wide.commit()
    before = wide.content()
    ((free,),) = wide.execute("PRAGMA freelist_count")
    assert free > 20  # their octets are as they were
    spoil(wide, root_of(wide, "batch"), bytes(database.PAGE))

    assert repair.repair(wide.folder).is_good
    assert before == wide.content()
    assert {"orders": 20, "mails": 20} == wide.start()
