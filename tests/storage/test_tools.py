"""`leveret store` without its command line: what is seen, dropped, kept, moved and copied."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import pytest
import trio

from leveret.broker.core.batch import Batch
from leveret.broker.core.broker import Broker
from leveret.broker.core.chunks import Paged
from leveret.broker.core.log import Fact
from leveret.broker.core.message import Message
from leveret.broker.persistence import Persistence
from leveret.broker.storage import database, lock, repair, row_builder, salvage, tools
from leveret.broker.storage.base import CHANGED, Damaged, Definition, StoreError
from leveret.broker.storage.catalog import Catalog
from leveret.broker.storage.catalog_format import BINDING, EXCHANGE, NOTE, QUEUE, seal
from leveret.broker.storage.journal import Journal
from leveret.broker.storage.records import DEFINED, Column, decode, split
from leveret.broker.storage.records import seal as seal_index
from leveret.broker.storage.recovery import Found, Recovery
from leveret.broker.storage.sqlite import SQLiteStore
from leveret.protocol.content import make_content
from leveret.protocol.methods import BasicPublish
from leveret.protocol.properties import Properties, encode

PUBLISH = 10  # octets of the publish method of `message`
HEADER = len(encode(Properties(delivery_mode=2), body_size=0))


def message(body: bytes = b"body") -> Message:
    header = encode(Properties(delivery_mode=2), body_size=len(body))
    content = make_content(BasicPublish("", "q"), header, body, Message)
    assert isinstance(content, Message)
    return content


class Made:
    """A store that is being filled, without a broker.

    Attributes:
      journal: What makes its rows.
      seqs: The numbers of the last row of each commit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / tools.FILE
        folder.mkdir()
        self.journal = Journal(Batch())
        self.seqs: list[int] = []
        self.broker = Broker()
        self.catalog = Catalog(self.broker, self.journal.note)
        vhost = self.broker.add_vhost("shop")
        self.numbers = {}
        for name in ("orders", "mails"):
            queue = vhost.declare_queue(name, durable=True)
            self.numbers[name] = self.catalog.queue_number(queue)
        vhost.declare_exchange("all", "fanout", durable=True)
        vhost.bind("all", vhost.queue("orders"), "", {})
        with closing(database.open_database(self.file)) as connection:
            connection.execute("INSERT INTO shard VALUES(0, 'hare', 7)")
        self.orders = self.journal.log(self.numbers["orders"])
        self.mails = self.journal.log(self.numbers["mails"])

    def commit(self) -> None:
        last = -1
        with closing(database.connect(self.file)) as connection:
            for row in self.journal.close():
                database.add(connection.execute, row)
                database.replace(connection.execute, row.replace)
                database.define(connection.execute, row.definitions)
                last = row.seq
        if last >= 0:
            self.seqs.append(last)

    def execute(self, statement: str, *arguments: object) -> list[tuple]:
        with closing(database.connect(self.file)) as connection:
            return connection.execute(statement, arguments).fetchall()

    def index(self, seq: int) -> bytes:
        return self.execute("SELECT idx FROM batch WHERE seq = ?", seq)[0][0]

    def flip(self, seq: int, at: int, column: str = "idx") -> None:
        """Flip a bit in the index or the body of a row."""
        (octets,) = self.execute(f"SELECT {column} FROM batch WHERE seq = ?", seq)[0]
        self.execute(f"UPDATE batch SET {column} = ? WHERE seq = ?", flipped(octets, at), seq)

    def content(self) -> dict[str, dict[int, bytes]]:
        """Return the bodies that a start would find, by queue and position."""
        journal, found = self._recovered()
        content = {}
        for name, number in self.numbers.items():
            content[name] = {}
            for run in found[number].runs if number in found else ():
                content[name].update(self._bodies(journal, number, run))
        return content

    def facts(self, fact: Fact) -> dict[int, int]:
        """Return what a start would know of orders, by position."""
        journal, _ = self._recovered()
        return dict(journal.log(self.numbers["orders"]).facts(fact))

    def _recovered(self) -> tuple[Journal, dict[int, Found]]:
        journal = Journal(Batch())
        recovery = Recovery(journal)
        for seq, index, size in self.execute("SELECT seq, idx, length(body) FROM batch"):
            recovery.read(seq, index, size)
        found = recovery.finish(set(self.numbers.values()))
        assert [] == recovery.lost
        return journal, found

    def _bodies(self, journal: Journal, number: int, paged: Paged) -> dict[int, bytes]:
        waiting = Waiting()
        journal.log(number).fetch(waiting, paged)
        (place,) = journal.take_asked()
        octets = [
            self.execute(
                "SELECT substr(body, ?, ?) FROM batch WHERE seq = ?", offset + 1, length, seq
            )[0][0]
            for seq, offset, length in place.refs()
        ]
        place.load(octets)
        found = zip(waiting.positions, waiting.messages, strict=True)
        return {position: bytes(each.body) for position, each in found}

    def start(self) -> dict[str, int]:
        """Let a broker start on it; return how many messages it finds, by queue."""
        from leveret.broker.storage.sqlite import SQLiteStore

        async def run() -> dict[str, int]:
            broker = Broker()
            kept = Persistence(broker, SQLiteStore(self.folder), limit=1 << 20)
            try:
                await kept.open()
            finally:
                await kept.close()
            queues = broker.vhosts["shop"].queues
            return {name: queue.ready_count for name, queue in queues.items()}

        return trio.run(run)


class Waiting:
    """A queue that waits for a chunk."""

    def loaded(
        self, paged: Paged, messages: list[Message], positions: list[int] | None = None
    ) -> None:
        self.messages = messages
        self.positions = positions or range(paged.base, paged.end)


def flipped(octets: bytes, at: int) -> bytes:
    at %= len(octets)
    return octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Five commits with every kind of record; the fourth has all of them, and says it of others."""
    made = Made(tmp_path / "data")
    made.orders.enqueued(0, [message(b"%d" % each) for each in range(10)])
    made.orders.note(Fact.DEADLINE, range(10), range(100, 110))
    made.orders.note(Fact.LANE, [0, 9], [1, 1])
    made.commit()
    made.mails.enqueued(0, [message(b"m%d" % each) for each in range(5)])
    made.commit()
    shared = message(b"shared" * 100)
    made.orders.enqueued(10, [message(b"10"), shared])
    made.mails.enqueued(5, [shared])
    made.commit()
    made.orders.enqueued(12, [message(b"12"), message(b"13")])
    made.orders.settled([0, 2, 10])
    made.orders.delivered(4)
    made.orders.returned([3])
    made.orders.note(Fact.DEADLINE, [3, 5, 13], [0, 205, 113])
    made.orders.note(Fact.DUE, [4], [7])
    made.commit()
    made.mails.enqueued(6, [message(b"m6")])
    made.mails.settled([1])
    made.commit()
    return made


ORDERS = {n: b"%d" % n for n in (1, *range(3, 10), 12, 13)} | {11: b"shared" * 100}
MAILS = {n: b"m%d" % n for n in (0, 2, 3, 4, 6)} | {5: b"shared" * 100}
DEADLINES = {1: 101, 4: 104, 5: 205, 6: 106, 7: 107, 8: 108, 9: 109, 13: 113}


def lost(answer: tools.Answer, what: str = "lost") -> dict[str, list]:
    told = answer.facts[what]
    assert isinstance(told, list)
    return {one["name"]: [tuple(pair) for pair in one["positions"]] for one in told}


# Looking


def test_a_store_that_is_whole_is_said_to_be_so_with_all_that_was_seen(made: Made) -> None:
    answer = tools.check(made.folder)

    assert answer.is_good
    assert [f"{made.file}: good (rows: 5, messages: 17, queues: 2, definitions: 5)"] == answer.lines
    assert ORDERS == made.content()["orders"]
    assert MAILS == made.content()["mails"]


def test_info_tells_sizes_and_what_each_queue_holds(made: Made) -> None:
    answer = tools.info(made.folder)

    octets = sum(HEADER + len(body) for body in ORDERS.values())
    assert {"vhost": "shop", "name": "orders", "messages": 11, "octets": octets} in (
        answer.facts["queues"]
    )
    assert f"  'shop' 'orders': 11, {octets:,} octets" in answer.lines
    expected = {"format": 2, "epoch": 7, "rows": 5, "messages": 17, "definitions": 5}
    assert expected == {name: answer.facts[name] for name in expected}
    assert {"leveret.db": made.file.stat().st_size} == answer.facts["files"]
    (body_octets,) = made.execute("SELECT sum(length(body)) FROM batch")[0]
    assert body_octets == answer.facts["body_octets"]
    assert 0 < answer.facts["dead_octets"] < body_octets
    assert json.loads(json.dumps(answer.facts)) == answer.facts


def test_looking_changes_nothing(made: Made) -> None:
    before = made.file.read_bytes()

    tools.info(made.folder)
    tools.check(made.folder)

    assert before == made.file.read_bytes()
    assert ["leveret.db", "lock"] == sorted(one.name for one in made.folder.iterdir())


def test_info_tells_damage_and_take_in_more(made: Made) -> None:
    made.flip(made.seqs[0], 0)

    answer = tools.info(made.folder)

    assert answer.lines[-1].startswith("damaged: row 1: the checksum does not match; it held")
    assert 17 - 8 == answer.facts["messages"]


# Damaged rows


@pytest.mark.parametrize("kind", ["Enqueued", "Settled", "Delivered", "Counted", "Column", "Facts"])
def test_a_flipped_bit_in_any_record_is_found_and_its_row_dropped(made: Made, kind: str) -> None:
    seq = made.seqs[3]
    at = len(seal_index([]))
    for octets in split(made.index(seq)):
        (record,) = decode(seal_index([octets]))
        if type(record).__name__ == kind:
            break
        at += len(octets)
    else:
        pytest.fail(f"row {seq} has no record {kind}")
    made.flip(seq, at + len(octets) - 1)

    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    assert not checked.is_good
    assert checked.lines[0].startswith(f"row {seq}: the checksum does not match; it held")
    assert checked.lines[-1].endswith(f"; try: leveret store repair {made.folder}")
    assert repaired.is_good
    orders = {**ORDERS, 0: b"0", 2: b"2", 10: b"10"}
    del orders[12], orders[13]
    assert {"orders": orders, "mails": MAILS} == made.content()
    assert tools.check(made.folder).is_good
    assert {"orders": len(orders), "mails": len(MAILS)} == made.start()


def test_repair_says_what_is_lost_and_what_is_back(made: Made) -> None:
    made.flip(made.seqs[3], 0)

    answer = repair.repair(made.folder)

    assert {"orders": [(12, 13)]} == lost(answer)
    assert {"orders": [(0, 0), (2, 2), (10, 10)]} == lost(answer, "back")
    queue = "queue 'orders' in vhost 'shop'"
    assert f"messages that are lost: 2 of {queue} (12-13)" in answer.lines
    assert f"settled messages that are back: 3 of {queue} (0, 2, 10)" in answer.lines
    assert f"as it was before: {made.file}.before-repair-1" in answer.lines
    assert f"{made.file}: repaired (rows: 5, messages: 18)" == answer.lines[-1]


def test_what_was_settled_later_is_not_said_to_be_lost(made: Made) -> None:
    made.flip(made.seqs[0], 0)

    answer = repair.repair(made.folder)

    assert {"orders": [(1, 1), (3, 9)]} == lost(answer)
    assert {} == lost(answer, "back")


def test_what_was_there_before_a_repair_is_kept_as_it_was(made: Made) -> None:
    made.flip(made.seqs[0], 0)
    before = made.file.read_bytes()
    repair.repair(made.folder)
    made.flip(made.seqs[1], 0)

    repair.repair(made.folder)

    kept = [made.file.with_name(f"leveret.db.before-repair-{each}") for each in (1, 2)]
    assert before == kept[0].read_bytes()
    assert kept[1].exists()
    assert {0o600} == {one.stat().st_mode & 0o777 for one in kept}


def test_nothing_is_done_to_a_store_that_is_whole(made: Made) -> None:
    before = made.file.read_bytes()

    answer = repair.repair(made.folder)

    assert (True, [f"{made.file}: nothing is damaged"]) == (answer.is_good, answer.lines)
    assert before == made.file.read_bytes()
    assert ["leveret.db", "lock"] == sorted(one.name for one in made.folder.iterdir())


def test_without_room_for_a_copy_nothing_is_dropped(made: Made, monkeypatch) -> None:
    made.flip(made.seqs[0], 0)
    before = made.file.read_bytes()

    write, left = os.pwrite, [100]

    def full(descriptor: int, octets: bytes, at: int) -> int:
        if not left:
            raise OSError(28, "No space left on device")
        return write(descriptor, octets[: left.pop()], at)

    monkeypatch.setattr(os, "pwrite", full)

    with pytest.raises(StoreError, match="before-repair-1 cannot be written: No space left"):
        repair.repair(made.folder)

    assert before == made.file.read_bytes()
    assert ["leveret.db", "lock"] == sorted(one.name for one in made.folder.iterdir())


# Damaged messages


@pytest.mark.parametrize(
    "at",
    [0, 3, PUBLISH + 1, PUBLISH + 11],
    ids=["class", "method", "class of the header", "size of the body"],
)
def test_of_a_row_that_is_understood_only_the_damaged_message_is_dropped(
    made: Made, at: int
) -> None:
    seq = made.seqs[0]
    size = PUBLISH + HEADER + 1
    made.flip(seq, 4 * size + at, "body")

    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    text = f"row {seq}: 1 of its messages cannot be read; it held messages: 1 of queue 'orders'"
    assert checked.lines[0].startswith(text)
    assert repaired.is_good
    assert {"orders": [(4, 4)]} == lost(repaired)
    orders = {**ORDERS}
    del orders[4]
    assert {"orders": orders, "mails": MAILS} == made.content()
    assert tools.check(made.folder).is_good


@pytest.mark.parametrize("gone", [0, 1, 4, 8, 9])
def test_facts_of_messages_that_are_left_stay_and_of_others_go(made: Made, gone: int) -> None:
    """0 is settled and not known any more; what stands behind the records is of all queues."""
    made.flip(made.seqs[0], gone * (PUBLISH + HEADER + 1), "body")

    repair.repair(made.folder)

    columns = [
        record
        for record in decode(made.index(made.seqs[0]))
        if isinstance(record, Column) and record.fact == Fact.DEADLINE
    ]
    left = [each for each in range(10) if each != gone]
    assert left == [at for each in columns for at in range(each.base, each.base + len(each.values))]
    assert {n: at for n, at in DEADLINES.items() if n != gone} == made.facts(Fact.DEADLINE)
    assert {n: 7 for n in (4,) if n != gone} == made.facts(Fact.DUE)
    assert {n: 1 for n in (9,) if n != gone} == made.facts(Fact.LANE)


def test_what_a_damaged_row_said_later_of_others_is_lost_and_no_more(made: Made) -> None:
    made.flip(made.seqs[3], 0)

    repair.repair(made.folder)

    assert dict(zip(range(10), range(100, 110), strict=True)) == made.facts(Fact.DEADLINE)
    assert {} == made.facts(Fact.DUE)


def test_a_database_made_anew_has_all_facts(made: Made) -> None:
    made.flip(made.seqs[2], 0)
    found = tools.inspected(made.file)
    found.is_torn = True

    repair._make_anew(made.file, found)

    assert DEADLINES == made.facts(Fact.DEADLINE)
    assert {4: 7} == made.facts(Fact.DUE)


def test_compacting_takes_facts_along(made: Made) -> None:
    made.orders.settled([1, 4, 6, 7, 8, 12])
    made.commit()

    answer = tools.compact(made.folder)

    assert answer.facts["moved"] > 0
    left = {n: at for n, at in DEADLINES.items() if n in (5, 9, 13)}
    assert left == made.facts(Fact.DEADLINE)
    assert {} == made.facts(Fact.DUE)
    assert {9: 1} == made.facts(Fact.LANE)
    assert tools.check(made.folder).is_good


def test_where_there_is_no_message_none_is_damaged(made: Made) -> None:
    """Neighbours in a row may have been settled, or never kept, before it was made."""
    made.orders.enqueued(14, [message(b"%d" % each) for each in range(14, 19)])
    made.orders.settled([15])
    made.commit()
    orders = ORDERS | {n: b"%d" % n for n in (14, 16, 17, 18)}
    assert orders == made.content()["orders"]
    assert tools.check(made.folder).is_good
    assert tools.compact(made.folder).is_good
    assert orders == made.content()["orders"]

    made.flip(made.seqs[-1], PUBLISH + HEADER + 2, "body")  # class of 16, which comes behind 14
    repaired = repair.repair(made.folder)

    assert {"orders": [(16, 16)]} == lost(repaired)
    del orders[16]
    assert {"orders": orders, "mails": MAILS} == made.content()
    assert tools.check(made.folder).is_good


def test_of_a_body_that_is_cut_short_what_is_there_is_kept(made: Made) -> None:
    seq = made.seqs[0]
    size = PUBLISH + HEADER + 1
    made.execute("UPDATE batch SET body = substr(body, 1, ?) WHERE seq = ?", 7 * size + 3, seq)

    answer = repair.repair(made.folder)

    assert {"orders": [(7, 9)]} == lost(answer)
    assert {**{n: ORDERS[n] for n in ORDERS if n not in (7, 8, 9)}} == made.content()["orders"]


def test_what_a_row_says_of_others_stays_when_its_messages_go(made: Made) -> None:
    made.execute("UPDATE batch SET body = x'' WHERE seq = ?", made.seqs[3])

    answer = repair.repair(made.folder)

    assert {"orders": [(12, 13)]} == lost(answer)
    assert {} == lost(answer, "back")
    assert set(ORDERS) - {12, 13} == set(made.content()["orders"])


def test_a_shared_message_is_lost_to_all_queues_that_have_it(made: Made) -> None:
    (body,) = made.execute("SELECT body FROM batch WHERE seq = ?", made.seqs[2])[0]
    made.flip(made.seqs[2], body.index(b"shared") - HEADER + 1, "body")

    answer = repair.repair(made.folder)

    assert {"orders": [(11, 11)], "mails": [(5, 5)]} == lost(answer)
    assert tools.check(made.folder).is_good


def test_a_flipped_bit_in_a_body_is_said_with_those_who_have_messages_there(made: Made) -> None:
    seq = made.seqs[2]
    made.flip(seq, -1, "body")

    checked = tools.check(made.folder)

    assert not checked.is_good
    orders, mails = "queue 'orders' in vhost 'shop'", "queue 'mails' in vhost 'shop'"
    held = f"it held messages: 2 of {orders} (10-11), 1 of {mails} (5)"
    assert f"row {seq}: the checksum of its body does not match; {held}" == checked.lines[0]
    assert {} == lost(checked)


def drop_orders(made: Made) -> None:
    """Let a repair drop the definition of a queue: a start drops what is in it, writing nothing."""
    made.execute("UPDATE meta SET value = x'00' WHERE kind = ? AND instr(key, ?)", QUEUE, b"orders")
    assert repair.repair(made.folder).is_good
    made.start()


def test_messages_of_a_queue_that_a_repair_has_dropped_do_not_spoil_a_compaction(
    tmp_path: Path,
) -> None:
    made = Made(tmp_path / "data")
    made.orders.enqueued(0, [message(b"x" * 900) for _ in range(2)])
    made.mails.enqueued(0, [message(b"y" * 900) for _ in range(10)])
    made.commit()
    made.mails.enqueued(10, [message(b"z")])
    made.mails.settled(list(range(8)))
    made.commit()
    drop_orders(made)

    assert tools.compact(made.folder).facts["moved"] > 0

    checked = tools.check(made.folder)
    assert (True, []) == (checked.is_good, checked.facts["notes"])
    assert {"mails": 3} == made.start()


def test_rows_of_nothing_but_a_queue_that_a_repair_has_dropped_are_not_moved(
    tmp_path: Path,
) -> None:
    made = Made(tmp_path / "data")
    made.orders.enqueued(0, [message(b"x" * 900) for _ in range(10)])
    made.commit()
    made.mails.enqueued(0, [message(b"y")])
    made.orders.settled(list(range(8)))
    made.commit()
    drop_orders(made)

    assert tools.compact(made.folder).facts["moved"] == 0

    assert tools.check(made.folder).is_good
    assert {"mails": 1} == made.start()


def test_what_is_not_as_it_was_written_is_not_moved(made: Made) -> None:
    made.flip(made.seqs[0], -1, "body")
    made.orders.settled([1, 3, 4, 5, 6, 7])
    made.commit()
    content = made.content()

    with pytest.raises(Damaged, match=f"row {made.seqs[0]}: {CHANGED}; try: "):
        tools.compact(made.folder)

    assert content == made.content()


def test_messages_in_a_body_that_is_another_one_now_stay_and_are_named(made: Made) -> None:
    seq = made.seqs[2]
    made.flip(seq, -1, "body")
    before = made.content()

    answer = repair.repair(made.folder)

    assert answer.is_good
    assert answer.lines[0].startswith(f"kept: row {seq}: {CHANGED}; it held messages: 2 ")
    assert {} == lost(answer)
    assert before == made.content()
    assert tools.check(made.folder).is_good


def test_a_flip_where_a_message_is_damaged_too_is_said_of_the_others(made: Made) -> None:
    seq = made.seqs[0]
    made.flip(seq, 0, "body")

    answer = repair.repair(made.folder)

    assert answer.lines[0].startswith(f"dropped: row {seq}: 1 of its messages cannot be read; ")
    assert answer.lines[1].startswith(f"kept: row {seq}: {CHANGED}; it held messages: 9 ")
    assert tools.check(made.folder).is_good


def test_of_messages_that_are_cut_off_the_holes_between_them_go_too(tmp_path: Path) -> None:
    made = Made(tmp_path / "data")
    made.orders.enqueued(0, [message(b"%d" % each * 100) for each in range(4)])
    made.orders.settled([2])
    made.commit()
    made.execute("UPDATE batch SET body = substr(body, 1, 150)")

    repaired = repair.repair(made.folder)

    assert repaired.is_good
    assert {"orders": [(1, 1), (3, 3)]} == lost(repaired)
    assert {0: b"0" * 100} == made.content()["orders"]
    assert {"orders": 1, "mails": 0} == made.start()


def test_rows_that_lost_their_bodies_are_good(made: Made) -> None:
    """What they say of others is still needed."""
    made.orders.settled([12, 13])
    made.commit()
    assert (0,) in made.execute("SELECT length(body) FROM batch")

    assert tools.check(made.folder).is_good


# The last commit


@pytest.fixture
def three(made: Made, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of three rows of the last commit, with a message of a queue each."""
    monkeypatch.setattr(row_builder, "ROW_SIZE", 1000)
    made.orders.enqueued(14, [message(bytes(1000)) for _ in range(3)])
    made.commit()
    seqs = [seq for (seq,) in made.execute("SELECT seq FROM batch ORDER BY seq")][-3:]
    if (last := made.execute("SELECT body FROM batch WHERE seq = ?", seqs[-1])[0][0]) == b"":
        pytest.fail(f"the last row is empty: {last!r}")
    return seqs


@pytest.mark.parametrize("hit", [0, 1, 2])
def test_of_the_last_commit_what_is_not_damaged_stays_after_a_repair(
    made: Made, three: list[int], hit: int
) -> None:
    made.flip(three[hit], 0)

    checked = tools.check(made.folder)
    answer = repair.repair(made.folder)

    reason = f"row {three[hit]} of the same commit is damaged"
    notes = [f"row {seq}: {reason}: a start without a repair leaves it out" for seq in three]
    del notes[hit]
    assert notes == checked.facts["notes"]
    assert {"orders": [(14 + hit, 14 + hit)]} == lost(answer)
    assert answer.is_good
    assert {14, 15, 16} - {14 + hit} == {each for each in made.content()["orders"] if each > 13}
    assert len(ORDERS) + 2 == made.start()["orders"]


def test_a_row_of_the_last_commit_that_lost_a_message_is_still_of_it(
    made: Made, three: list[int]
) -> None:
    made.flip(three[1], 0, "body")

    answer = repair.repair(made.folder)

    assert answer.is_good
    assert {"orders": [(15, 15)]} == lost(answer)
    assert len(ORDERS) + 2 == made.start()["orders"]


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_row_of_the_last_commit_that_is_not_there_is_said_and_the_others_stay(
    made: Made, three: list[int], gone: int
) -> None:
    made.execute("DELETE FROM batch WHERE seq = ?", three.pop(gone))

    checked = tools.check(made.folder)
    answer = repair.repair(made.folder)

    text = f"row {three[-1]}: row {gone + 1} of 3 of its commit is missing; it held messages: 1 of"
    assert checked.lines[0].startswith(text)
    assert answer.lines[0].startswith(f"kept: {text}")
    assert answer.is_good
    assert len(ORDERS) + 2 == made.start()["orders"]


def test_a_repair_that_drops_the_last_row_spares_the_commit_before(
    made: Made, three: list[int]
) -> None:
    """That has lost its end to a later commit, which was no damage."""
    made.orders.settled([16])
    made.commit()
    made.orders.enqueued(17, [message()])
    made.commit()
    made.commit()
    assert three[-1] not in [seq for (seq,) in made.execute("SELECT seq FROM batch")]
    made.execute("DELETE FROM batch WHERE seq BETWEEN ? AND ?", three[-1], made.seqs[-1] - 1)
    made.flip(made.seqs[-1], 0)

    answer = repair.repair(made.folder)

    assert answer.is_good
    assert {14, 15} == {each for each in made.content()["orders"] if each > 13}
    assert len(ORDERS) + 2 == made.start()["orders"]


def test_a_position_that_is_there_twice_is_said(made: Made) -> None:
    (row,) = made.execute("SELECT idx, sum, body FROM batch WHERE seq = ?", made.seqs[1])
    made.execute("INSERT INTO batch VALUES(?, ?, ?, ?)", 50, *row)

    answer = tools.check(made.folder)

    assert "queue 'mails' in vhost 'shop': position 0 is there twice" in answer.lines
    assert not answer.is_good


# Damaged definitions


def test_a_damaged_definition_goes_with_those_that_need_it(made: Made) -> None:
    numbers = dict(made.execute("SELECT kind || id, id FROM meta"))
    queue = min(number for kind, number in numbers.items() if kind.startswith(QUEUE))
    (value,) = made.execute("SELECT value FROM meta WHERE id = ?", queue)[0]
    made.execute("UPDATE meta SET value = ? WHERE id = ?", flipped(value, -1), queue)

    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    assert (
        f"definition {queue}: the definition of queue 'shop' 'orders' is damaged:"
        in (checked.lines[0])
    )
    assert "binding 'shop' 'all' 'queue' 'orders' '' cannot be restored" in checked.lines[1]
    told = "a queue that is not defined (number 1): 11 messages are in it"
    assert told in checked.lines
    assert repaired.is_good
    assert {"mails": 6} == made.start()


@pytest.mark.parametrize("kind", ["exchange", "binding", "vhost"])
def test_a_definition_that_is_not_there_stops_the_start(made: Made, kind: str) -> None:
    made.execute("DELETE FROM meta WHERE kind = 'binding'")
    if kind != "binding":  # nothing stands on them any more
        made.execute("DELETE FROM meta WHERE kind = 'exchange'")
    if kind == "vhost":
        made.catalog._vhost_changed(made.broker.add_vhost("new"))
        made.commit()
        made.execute("DELETE FROM meta WHERE kind = 'vhost' AND key = x'036e6577'")
    there = made.execute("SELECT count(*) FROM meta")[0][0]
    wanted = {"binding": 5, "exchange": 5, "vhost": 6}[kind]
    row = made.seqs[-1]
    told = f"there are {there} definitions, where row {row} counts {wanted}"

    with pytest.raises(Damaged, match=told):
        made.start()
    checked = tools.check(made.folder)
    repaired = repair.repair(made.folder)

    assert checked.lines[0].startswith(f"definitions: {told}")
    assert repaired.is_good
    assert {"orders": 11, "mails": 6} == made.start()
    assert tools.check(made.folder).is_good


def test_a_definition_that_is_an_older_one_stops_the_start(made: Made) -> None:
    (before,) = made.execute("SELECT value FROM meta WHERE kind = 'vhost'")[0]
    made.broker.vhosts["shop"].max_queues = 7
    made.catalog._vhost_changed(made.broker.vhosts["shop"])
    made.commit()
    made.execute("UPDATE meta SET value = ? WHERE kind = 'vhost'", before)

    with pytest.raises(Damaged, match=r"the 5 definitions are others than row \d+ counts"):
        made.start()
    assert not tools.check(made.folder).is_good
    assert repair.repair(made.folder).is_good
    made.start()


def test_a_store_that_does_not_count_its_definitions_is_an_older_one(made: Made) -> None:
    records = [one for one in split(made.index(made.seqs[-1])) if one[0] != DEFINED]
    index = seal_index(records)
    made.execute("UPDATE batch SET idx = ? WHERE seq = ?", index, made.seqs[-1])
    made.execute("DELETE FROM meta WHERE kind = 'binding'")

    assert tools.check(made.folder).is_good
    assert {"orders": 11, "mails": 6} == made.start()


def test_definitions_of_absent_parts_are_no_damage_and_kept(made: Made) -> None:
    key = b"\x04shop\x01x"
    exchange = seal(EXCHANGE, key, b"\x00\x06x-late" + b"\x00\x00\x00\x00")
    to_it = b"\x04shop\x01x\x05queue\x06orders\x00" + b"\x00\x00\x00\x00"
    for strange in (exchange, seal(BINDING, to_it, b""), Definition("stream", b"\x01s", b"?")):
        made.journal.note(strange)
    made.commit()

    answer = tools.check(made.folder)

    assert answer.is_good
    assert 3 == sum(line.startswith("note: ") for line in answer.lines)
    assert "note: stream 's': this kind is not known" in answer.lines


def test_notes_of_plugins_are_no_damage_also_if_their_owner_is_absent(made: Made) -> None:
    made.broker.notes.put(("shop", "queue", "orders"), "dedup", b"k", b"1")
    key = b"\x04shop\x01x"
    made.journal.note(seal(EXCHANGE, key, b"\x00\x06x-late" + b"\x00\x00\x00\x00"))
    made.journal.note(seal(NOTE, b"\x04shop\x08exchange\x01x\x05dedupk", b"1"))
    made.commit()

    answer = tools.check(made.folder)

    assert answer.is_good
    assert 2 == sum(line.startswith("note: ") for line in answer.lines)
    text = "note: 1 notes: exchange 'x' in vhost 'shop' is not there; kept as they are"
    assert text in answer.lines


def test_a_damaged_note_is_dropped_by_a_repair(made: Made) -> None:
    for key in (b"k", b"l"):
        made.broker.notes.put(("shop", "queue", "orders"), "dedup", key, b"1")
    made.commit()
    made.execute("UPDATE meta SET value = x'00' WHERE kind = ? AND instr(key, ?)", NOTE, b"dedupk")

    answer = repair.repair(made.folder)

    assert any("note 'shop' 'queue' 'orders' 'dedup' is damaged" in each for each in answer.lines)
    assert tools.check(made.folder).is_good
    assert [(b"dedupl",)] == made.execute("SELECT substr(key, -6) FROM meta WHERE kind = ?", NOTE)


def test_a_limit_of_queues_below_what_is_there_is_no_damage(made: Made) -> None:
    made.broker.vhosts["shop"].max_queues = 1
    made.catalog._vhost_changed(made.broker.vhosts["shop"])
    made.commit()

    assert tools.check(made.folder).is_good


# A damaged database


@pytest.fixture
def large(tmp_path: Path) -> Made:
    """Rows of many pages, each with messages of one letter."""
    made = Made(tmp_path / "data")
    for number in range(30):
        made.orders.enqueued(4 * number, [message(b"%03d" % number * 2000) for _ in range(4)])
        made.commit()
    return made


def pages(made: Made) -> int:
    return made.file.stat().st_size // database.PAGE


def leaves(made: Made) -> list[int]:
    """Return the pages that rows are on, counted from 0."""
    query = "SELECT rootpage FROM sqlite_master WHERE name IN ('meta', 'shard')"
    others = [0, *[root - 1 for (root,) in made.execute(query)]]
    octets = made.file.read_bytes()
    return [
        page
        for page in range(pages(made))
        if octets[page * database.PAGE] == 13 and page not in others
    ]


def spoil(made: Made, page: int, octets: bytes) -> None:
    with made.file.open("r+b") as file:
        file.seek(page * database.PAGE)
        file.write(octets)


@pytest.mark.long
@pytest.mark.parametrize("octets", [bytes(database.PAGE), b"\xa5" * database.PAGE], ids=["0", "a5"])
def test_whatever_page_is_spoilt_all_that_is_not_on_it_is_kept(
    large: Made, octets: bytes, tmp_path: Path
) -> None:
    whole = large.file.read_bytes()
    before = large.content()["orders"]
    losses = []
    for page in range(1, pages(large)):
        large.file.write_bytes(whole)
        spoil(large, page, octets)

        checked = tools.check(large.folder)
        repaired = repair.repair(large.folder)

        if checked.is_good:  # a map of pages, which is empty in such a small file
            continue
        assert repaired.is_good, (page, repaired.lines)
        assert "ok" == large.execute("PRAGMA integrity_check")[0][0]
        after = large.content()["orders"]
        assert after.keys() <= before.keys()
        # The octets of bodies are not checked: some on the page may have become others.
        losses.append(sum(after.get(each) != before[each] for each in before))
        large.folder.joinpath("leveret.db.before-repair-1").unlink()
    assert len(losses) > 40
    assert sum(loss <= 8 for loss in losses) > 0.9 * len(losses), losses


def test_rows_that_a_damaged_page_does_not_name_any_more_are_missed(large: Made) -> None:
    whole = large.file.read_bytes()
    before = large.content()["orders"]
    assert leaves(large)
    for page in leaves(large):
        at = page * database.PAGE
        cells = int.from_bytes(whole[at + 3 : at + 5])
        for found in (cells - 1, cells // 2):
            large.file.write_bytes(whole)
            spoil(large, page, whole[at : at + 3] + found.to_bytes(2))
            if large.execute("SELECT max(seq) FROM batch") != [(large.seqs[-1],)]:
                continue  # without the last rows it is as it was before the last commit
            with pytest.raises(StoreError):
                large.start()
            assert not tools.check(large.folder).is_good
            assert repair.repair(large.folder).is_good
            assert tools.check(large.folder).is_good
            assert large.start()["orders"] == len(large.content()["orders"]) < len(before)
            large.folder.joinpath("leveret.db.before-repair-1").unlink()


def test_definitions_that_a_damaged_page_does_not_name_any_more_are_missed(made: Made) -> None:
    ((root,),) = made.execute("SELECT rootpage FROM sqlite_master WHERE name = 'meta'")
    at = (root - 1) * database.PAGE
    whole = made.file.read_bytes()
    assert whole[at + 3 : at + 5] == (5).to_bytes(2)
    spoil(made, root - 1, whole[at : at + 3] + (4).to_bytes(2))

    with pytest.raises(Damaged, match=r"there are 4 definitions, where row \d+ counts 5"):
        made.start()
    assert not tools.check(made.folder).is_good
    assert repair.repair(made.folder).is_good
    assert {"orders": 11, "mails": 6} == made.start()


def test_a_row_that_is_not_there_stops_the_start(made: Made) -> None:
    made.execute("DELETE FROM batch WHERE seq = ?", made.seqs[0])
    rows = made.execute("SELECT count(*) FROM batch")[0][0]

    with pytest.raises(Damaged, match=rf"there are {rows} rows, where row \d+ counts {rows + 1}"):
        made.start()
    assert not tools.check(made.folder).is_good
    assert repair.repair(made.folder).is_good
    made.start()


def test_a_page_with_the_content_of_another_stops_the_start(large: Made) -> None:
    for number in range(100):  # so that rows are on several pages
        large.mails.enqueued(number, [message(b"x" * 900)])
        large.commit()
    whole = large.file.read_bytes()
    first, *others = leaves(large)
    assert len(others) > 3
    for one, other in pairwise([first, *others, first]):
        large.file.write_bytes(whole)
        spoil(large, one, whole[other * database.PAGE : (other + 1) * database.PAGE])
        with pytest.raises(StoreError):
            large.start()


def test_a_file_that_was_cut_off_gives_what_is_left(large: Made) -> None:
    before = large.content()["orders"]
    os.truncate(large.file, (pages(large) // 2) * database.PAGE + 77)

    checked = tools.check(large.folder)
    repaired = repair.repair(large.folder)

    assert not checked.is_good
    assert repaired.is_good
    after = large.content()["orders"]
    assert after.items() <= before.items()
    assert 0.3 * len(before) < len(after) < 0.6 * len(before)
    assert len(after) == large.start()["orders"]


@pytest.mark.parametrize("step", range(4))
def test_a_repair_that_is_interrupted_is_finished_by_whoever_comes_next(
    large: Made, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    os.truncate(large.file, pages(large) // 2 * database.PAGE)
    log = large.file.with_name("leveret.db-wal")
    log.write_bytes(b"of the damaged one")
    steps = iter(range(10))

    def sync(folder: Path) -> None:
        if next(steps) == step:
            raise KeyboardInterrupt
        synced(folder)

    synced = lock.sync
    monkeypatch.setattr(repair, "sync", sync)
    monkeypatch.setattr(database, "sync", sync)
    with pytest.raises(KeyboardInterrupt):
        repair.repair(large.folder)
    monkeypatch.undo()

    if not database.repaired(large.file).exists() and log.exists():
        assert repair.repair(large.folder).is_good
    assert tools.check(large.folder).is_good
    assert large.start()["orders"] > 0
    assert not log.exists()


def test_what_is_only_in_the_log_is_not_lost_by_a_repair(large: Made) -> None:
    """A broker was killed: its last commits are in no other file."""
    with closing(sqlite3.connect(large.file, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        large.orders.enqueued(1000, [message(b"last")])
        for row in large.journal.close():
            database.add(connection.execute, row)
        shutil.copytree(large.folder, large.folder.with_name("killed"))
    large.folder = large.folder.with_name("killed")
    large.file = large.folder / tools.FILE
    assert (large.folder / "leveret.db-wal").stat().st_size > 0
    spoil(large, pages(large) // 2, bytes(database.PAGE))

    answer = repair.repair(large.folder)

    assert answer.is_good
    assert b"last" == large.content()["orders"][1000]


def test_a_first_page_that_is_spoilt_is_beyond_repair_and_left_alone(large: Made) -> None:
    spoil(large, 0, whole := large.file.read_bytes()[:100] + bytes(3000))

    for tool in (tools.info, tools.check, repair.repair):
        with pytest.raises(Damaged, match="cannot be read at all"):
            tool(large.folder)
    assert whole == large.file.read_bytes()[: len(whole)]


# What is no store of ours


@pytest.fixture(params=["info", "check", "repair", "compact", "backup"])
def tool(request, tmp_path: Path):
    if request.param == "backup":
        return lambda folder: tools.backup(folder, tmp_path / "copy")
    return repair.repair if request.param == "repair" else getattr(tools, request.param)


def test_a_store_of_a_later_format_is_left_alone(made: Made, tool) -> None:
    made.execute("PRAGMA user_version = 3")
    before = made.file.read_bytes()

    with pytest.raises(StoreError, match="by a later Leveret: its format is 3, this one knows 2"):
        tool(made.folder)

    assert before == made.file.read_bytes()


def test_a_row_of_a_later_format_stops_everything(made: Made) -> None:
    octets = b"\x02" + made.index(made.seqs[1])[5:]
    index = crc32(octets).to_bytes(4, "little") + octets
    made.execute("UPDATE batch SET idx = ? WHERE seq = ?", index, made.seqs[1])
    made.flip(made.seqs[0], 0)

    for each in (tools.info, tools.check, repair.repair, tools.compact):
        with pytest.raises(StoreError, match="row 2: a later Leveret wrote it") as raised:
            each(made.folder)
        assert not isinstance(raised.value, Damaged)


def test_a_store_of_an_older_format_is_for_a_broker_to_open(made: Made, tool) -> None:
    made.execute("PRAGMA user_version = 0")

    with pytest.raises(StoreError, match="has format 0: the next start of a broker makes it 2"):
        tool(made.folder)


async def test_a_database_that_is_a_link_is_refused(made: Made, tool) -> None:
    """Its log and its bodies would be looked for where they are not."""
    elsewhere = made.folder.parent / "elsewhere.db"
    made.file.rename(elsewhere)
    made.file.symlink_to(elsewhere)
    before = elsewhere.read_bytes()

    with pytest.raises(StoreError, match="is a symbolic link: make one of the directory instead"):
        tool(made.folder)
    store = SQLiteStore(made.folder)
    with pytest.raises(StoreError, match="is a symbolic link"):
        await store.open()
    await store.close()

    assert before == elsewhere.read_bytes()


def test_a_folder_without_a_store_is_not_made_one(tmp_path: Path, tool) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(StoreError, match=f"there is no store in {folder}$"):
            tool(folder)

    assert [] == list(tmp_path.iterdir())


def test_of_a_backup_is_said_where_to_put_it(made: Made, tool) -> None:
    with pytest.raises(StoreError, match=r"which is a file: make it leveret\.db in a folder"):
        tool(made.file)


@pytest.mark.parametrize(
    ("octets", "text"),
    [(b"", "is empty"), (b"notes", "cannot be read at all: file is not a database")],
)
def test_a_file_that_is_no_database_is_left_alone(
    tmp_path: Path, tool, octets: bytes, text: str
) -> None:
    file = tmp_path / tools.FILE
    file.write_bytes(octets)

    with pytest.raises(StoreError, match=text):
        tool(tmp_path)

    assert octets == file.read_bytes()


def test_a_database_of_something_else_is_left_alone(tmp_path: Path, tool) -> None:
    file = tmp_path / tools.FILE
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE batch(seq, idx, body)")
    before = file.read_bytes()

    with pytest.raises(StoreError, match="is a database of something else"):
        tool(tmp_path)

    assert before == file.read_bytes()


def test_a_store_in_use_is_left_to_its_broker(made: Made, tool) -> None:
    taken = lock.take_lock(made.folder)
    try:
        with pytest.raises(tools.InUse, match=f"{made.folder} is in use by a broker"):
            tool(made.folder)
    finally:
        os.close(taken)


def test_the_lock_is_given_back(made: Made, tool) -> None:
    tool(made.folder)

    os.close(lock.take_lock(made.folder))


# Reading what cannot be read


class Broken:
    """A connection on which some numbers cannot be read."""

    def __init__(self, numbers: Mapping[int, bool]) -> None:
        self.numbers = numbers

    def execute(self, query: str, arguments: tuple[int]) -> "Rows":
        (start,) = arguments
        return Rows(self._read(start, "LIMIT" in query))

    def _read(self, start: int, is_single: bool) -> Iterator[tuple[int]]:
        for number in sorted(self.numbers):
            if number >= start:
                if not self.numbers[number]:
                    raise sqlite3.DatabaseError("malformed")
                yield (number,)
                if is_single:
                    return


class Rows:
    def __init__(self, rows: Iterator[tuple[int]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[tuple[int]]:
        return self.rows

    def fetchone(self) -> tuple[int] | None:
        return next(self.rows, None)


@pytest.mark.parametrize(
    ("bad", "gaps"),
    [
        ([], []),
        ([5], [(4, 6)]),
        ([1], [(salvage.LOWEST, 2)]),
        ([7, 9, 11], [(6, 12)]),
        ([5, 11], [(4, 6), (10, 12)]),
        ([51], [(50, None)]),
        ([*range(1, 53, 2)], [(salvage.LOWEST, None)]),
    ],
)
def test_a_walk_steps_over_what_is_bad_and_nothing_else(bad, gaps) -> None:
    numbers = {number: number not in bad for number in range(1, 53, 2)}
    missed: list[tuple[int, int | None]] = []

    walked = salvage.walk(
        Broken(numbers), "SELECT", lambda first, last, _: missed.append((first, last))
    )

    assert [number for number, is_good in numbers.items() if is_good] == [row[0] for row in walked]
    assert len(gaps) == len(missed)
    for (first, last), (low, high) in zip(missed, gaps, strict=True):
        assert low <= first
        assert last is None if high is None else last is not None and last <= high


# Making smaller


def test_compacting_moves_what_lives_in_rows_that_are_half_dead(large: Made) -> None:
    large.orders.settled([n for n in range(120) if n % 4])
    large.commit()
    before = large.content()
    assert 30 == len(before["orders"])

    answer = tools.compact(large.folder)

    assert 30 == answer.facts["moved"]
    assert before == large.content()
    assert large.file.stat().st_size == answer.facts["after"] < answer.facts["before"] / 2
    assert tools.check(large.folder).is_good
    assert 30 == large.start()["orders"]
    assert [(2,)] == large.execute("PRAGMA auto_vacuum")


def test_compacting_again_changes_nothing(made: Made) -> None:
    tools.compact(made.folder)
    content = made.content()

    answer = tools.compact(made.folder)

    assert 0 == answer.facts["moved"]
    assert answer.facts["before"] == answer.facts["after"]
    assert {"orders": ORDERS, "mails": MAILS} == content == made.content()


def test_messages_of_many_steps_are_moved_in_order(large: Made, monkeypatch) -> None:
    monkeypatch.setattr(tools, "STEP_ROWS", 7)
    large.orders.settled([n for n in range(120) if n % 2])
    large.orders.delivered(100)
    large.commit()
    before = large.content()

    tools.compact(large.folder)

    assert before == large.content()
    assert 60 == large.start()["orders"]


def test_a_damaged_store_is_not_compacted(made: Made) -> None:
    made.flip(made.seqs[0], 0)
    before = made.file.read_bytes()

    with pytest.raises(Damaged, match=r"row 1: .*; try: leveret store repair"):
        tools.compact(made.folder)

    assert before == made.file.read_bytes()


# Copying


def test_a_copy_is_a_store(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / tools.FILE
    copy.parent.mkdir()

    answer = tools.backup(made.folder, copy)

    assert [f"{copy}: {copy.stat().st_size:,} octets"] == answer.lines
    assert tools.check(copy.parent).is_good
    assert tools.check(made.folder).facts["messages"] == tools.check(copy.parent).facts["messages"]


def test_a_copy_never_replaces_anything(made: Made, tmp_path: Path) -> None:
    file, link = tmp_path / "precious", tmp_path / "link"
    file.write_text("precious")
    link.symlink_to(tmp_path / "nowhere")

    for each in (file, link):
        with pytest.raises(StoreError, match=f"{each} is there already"):
            tools.backup(made.folder, each)

    assert "precious" == file.read_text()
    assert not (tmp_path / "nowhere").exists()


def test_a_copy_that_cannot_be_written_is_absent(made: Made, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written: No such file"):
        tools.backup(made.folder, tmp_path / "nowhere" / "copy")

    assert ["data"] == [one.name for one in tmp_path.iterdir()]


def test_rows_of_strange_types_are_damage(made: Made) -> None:
    made.execute("INSERT INTO batch VALUES(60, 'text', 0, x'')")
    made.execute("INSERT INTO meta VALUES(60, 'queue', 'text', x'')")

    checked = tools.check(made.folder)
    repair.repair(made.folder)

    assert ["definition 60: it is no definition", "row 60: it is no row"] == checked.lines[:2]
    assert tools.check(made.folder).is_good
