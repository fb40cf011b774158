"""What every store keeps to, in memory or on a disk."""

import random
import sqlite3
from contextlib import closing

import pytest
import trio

from leveret.broker.storage.base import (
    CHANGED,
    Damaged,
    Definition,
    Fenced,
    Ref,
    Row,
    StoreError,
    StoreFailed,
)
from leveret.broker.storage.memory import MemoryStore
from leveret.broker.storage.sqlite import SQLiteStore

from ..support.durable import commit


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, tmp_path):
    made = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "data")
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def lease(store):
    return await store.acquire(0, "hare", 10)


async def restarted(store):
    """Close a store and open it again; return the new lease."""
    await store.close()
    await store.open()
    return await store.acquire(0, "hare", 10)


async def indexes(store, lease):
    return [row async for rows in store.recover(lease) for row in rows]


async def test_a_new_store_is_empty(store, lease):
    assert [] == await indexes(store, lease)
    assert [] == list(await store.load_definitions())
    assert not await store.committed(lease, 1)


async def test_rows_come_back_in_order_of_their_numbers(store, lease):
    for seq in (3, 20, 100):
        await commit(store, [(lease, Row(seq, b"index %d" % seq, [b"body"]))])

    assert [(3, b"index 3"), (20, b"index 20"), (100, b"index 100")] == await indexes(store, lease)
    lease = await restarted(store)
    assert [(3, b"index 3"), (20, b"index 20"), (100, b"index 100")] == await indexes(store, lease)


async def test_commits_take_effect_in_the_order_in_which_they_were_begun(store, lease):
    async def put(row):
        await commit(store, [(lease, row)])

    async with trio.open_nursery() as nursery:
        for seq in range(20):  # each replaces the definition, and deletes the row before
            row = Row(
                seq, b"", delete=[seq - 1], definitions=[Definition("last", b"", b"%d" % seq)]
            )
            await nursery.start(started, put, row)

    assert [(19, b"")] == await indexes(store, lease)
    assert [("last", b"", b"19")] == list(await store.load_definitions())


async def started(commit, row, task_status):
    """Call something, and go on elsewhere as soon as it waits for the first time."""
    task_status.started()
    await commit(row)


async def test_several_rows_are_one_commit(store, lease):
    await commit(store, [(lease, Row(1, b"a", [b"one"])), (lease, Row(2, b"b", [b"two"]))])

    assert [(1, b"a"), (2, b"b")] == await indexes(store, lease)
    assert [b"two", b"one"] == await store.read(lease, [Ref(2, 0, 3), Ref(1, 0, 3)])


async def test_a_commit_of_nothing_changes_nothing(store, lease):
    await commit(store, [])

    assert [] == await indexes(store, lease)


async def test_a_row_that_cannot_be_added_takes_all_others_with_it(store, lease):
    await commit(store, [(lease, Row(0, b"first")), (lease, Row(1, b"old", [b"old body"]))])

    with pytest.raises(StoreFailed):
        await commit(
            store,
            [
                (lease, Row(2, b"new", delete=[0], definitions=[Definition("k", b"", b"v")])),
                (lease, Row(1, b"a second time")),
            ],
        )

    assert [(0, b"first"), (1, b"old")] == await indexes(store, lease)
    assert [b"old body"] == await store.read(lease, [Ref(1, 0, 8)])
    assert [] == list(await store.load_definitions())


async def test_after_a_failure_nothing_is_committed_until_the_store_is_opened_again(store, lease):
    await commit(store, [(lease, Row(1, b""))])
    with pytest.raises(StoreFailed):
        await commit(store, [(lease, Row(1, b""))])

    with pytest.raises(StoreFailed):
        await commit(store, [(lease, Row(2, b""))])
    with pytest.raises(StoreFailed):
        await store.committed(lease, 2)

    lease = await restarted(store)
    await commit(store, [(lease, Row(3, b""))])
    assert [(1, b""), (3, b"")] == await indexes(store, lease)


async def test_a_row_deletes_others_in_its_commit(store, lease):
    for seq in range(1, 6):
        await commit(store, [(lease, Row(seq, b"", [b"body"]))])

    await commit(store, [(lease, Row(6, b"", delete=[1, 3, 4, 1000]))])

    assert [2, 5, 6] == [seq for seq, _ in await indexes(store, lease)]
    with pytest.raises(StoreError):
        await store.read(lease, [Ref(3, 0, 4)])


async def test_a_row_may_be_deleted_by_another_of_the_same_commit(store, lease):
    await commit(store, [(lease, Row(1, b"")), (lease, Row(2, b"", delete=[1]))])

    assert [(2, b"")] == await indexes(store, lease)


async def test_replaced_rows_keep_their_place_and_lose_their_bodies(store, lease):
    for seq in range(1, 5):
        await commit(store, [(lease, Row(seq, b"whole", [b"body"]))])

    await commit(store, [(lease, Row(5, b"last", replace=[(2, b"rest"), (4, b""), (99, b"none")]))])

    expected = [(1, b"whole"), (2, b"rest"), (3, b"whole"), (4, b""), (5, b"last")]
    assert expected == await indexes(store, lease)
    assert [b"body", b""] == await store.read(lease, [Ref(3, 0, 4), Ref(2, 0, 0)])
    with pytest.raises(StoreError):
        await store.read(lease, [Ref(2, 0, 4)])


async def test_definitions_come_back_in_the_order_they_were_first_kept(store, lease):
    await commit(
        store,
        [
            (lease, Row(1, b"", definitions=[Definition("q", b"b", b"1")])),
            (lease, Row(2, b"", definitions=[Definition("x", b"b", b"2")])),
        ],
    )
    await commit(store, [(lease, Row(3, b"", definitions=[Definition("q", b"a", b"3")]))])

    await commit(store, [(lease, Row(4, b"", definitions=[Definition("q", b"b", b"new")]))])

    expected = [("q", b"b", b"new"), ("x", b"b", b"2"), ("q", b"a", b"3")]
    assert expected == list(await store.load_definitions())
    await restarted(store)
    assert expected == list(await store.load_definitions())


async def test_a_definition_that_was_deleted_and_kept_again_is_the_last(store, lease):
    kept = [Definition("q", b"%d" % number, b"old") for number in range(3)]
    await commit(store, [(lease, Row(1, b"", definitions=kept))])

    changes = [
        Definition("q", b"0", b"never seen"),
        Definition("q", b"0", None),
        Definition("q", b"0", b"new"),
        Definition("q", b"1", None),
        Definition("q", b"never there", None),
        Definition("q", b"short-lived", b""),
        Definition("q", b"short-lived", None),
    ]
    await commit(store, [(lease, Row(2, b"", definitions=changes))])

    assert [("q", b"2", b"old"), ("q", b"0", b"new")] == list(await store.load_definitions())


async def test_definitions_may_be_any_octets(store, lease):
    octets = bytes(range(256))
    kept = [Definition("q'\"\u00e9", octets, octets[::-1]), Definition("", b"", b"")]

    await commit(store, [(lease, Row(1, b"", definitions=kept))])

    assert [tuple(one) for one in kept] == list(await store.load_definitions())


async def test_definitions_follow_a_plain_model(store, lease):
    dice, model = random.Random(7), {}
    for seq in range(60):
        changes = []
        for _ in range(dice.randrange(12)):
            key = b"%d" % dice.randrange(8)
            value = dice.choice([None, b"a", b"bb"])
            changes.append(Definition("q", key, value))
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        await commit(store, [(lease, Row(seq, b"", definitions=changes))])

        found = [(key, value) for _, key, value in await store.load_definitions()]
        assert list(model.items()) == found


async def test_bodies_are_read_in_pieces_and_in_any_order(store, lease):
    bodies = {seq: random.Random(seq).randbytes(100_000) for seq in (1, 2)}
    await commit(store, [(lease, Row(seq, b"", [body])) for seq, body in bodies.items()])
    refs = [
        Ref(2, 99_990, 10),
        Ref(1, 50_000, 30_000),
        Ref(2, 0, 20_000),
        Ref(2, 20_000, 20_000),
        Ref(2, 99_990, 10),
        Ref(2, 100_000, 0),
    ]

    found = await store.read(lease, refs)

    assert [bodies[seq][at : at + length] for seq, at, length in refs] == found
    assert [bodies[1]] == await store.read(lease, [Ref(1, 0, 100_000)])
    assert [] == await store.read(lease, [])


@pytest.mark.parametrize(
    "refs",
    [
        [Ref(2, 0, 1)],
        [Ref(2, 0, 1), Ref(2, 1, 1)],
        [Ref(1, 3, 2)],
        [Ref(1, 0, 1), Ref(1, 3, 2)],
        [Ref(1, 5, 1)],
        [Ref(1, 0, 4), Ref(2, 0, 1)],
    ],
    ids=str,
)
async def test_what_is_not_there_cannot_be_read(store, lease, refs):
    await commit(store, [(lease, Row(1, b"", [b"body"]))])

    with pytest.raises(StoreError, match=r"row [12]"):
        await store.read(lease, refs)


def spoil(store, seq, body):
    """Change a body behind the back of a store that is closed."""
    if isinstance(store, MemoryStore):
        store.rows[seq] = store.rows[seq][0], body
        return
    with closing(sqlite3.connect(store.file)) as other:
        other.execute("UPDATE batch SET body = ? WHERE seq = ?", (body, seq))
        other.commit()


@pytest.mark.parametrize("size", [1, 3000, 200_000])
@pytest.mark.parametrize("pieces", [0, 1, 2])
async def test_a_body_is_what_was_written_whatever_is_read_of_it(store, lease, size, pieces):
    body = b"x" * size + b"y"
    await commit(store, [(lease, Row(seq, b"index", [body])) for seq in (1, 2, 3)])
    refs = [Ref(2, 0, size), Ref(2, size, 1)][:pieces] or [Ref(2, 0, size + 1)]
    for _ in range(2):  # the second time not all of it need be read
        found = b"".join(await store.read(lease, refs))
        assert body[: len(found)] == found
        assert len(found) == sum(ref.length for ref in refs)
    await store.close()
    spoil(store, 2, b"\0" + body[1:])
    await store.open()
    lease = await store.acquire(0, "hare", 10)

    with pytest.raises(Damaged, match=f"row 2: {CHANGED}$"):
        await store.read(lease, refs)

    assert [body] == await store.read(lease, [Ref(3, 0, size + 1)])


async def test_a_body_that_was_given_up_is_as_it_was_written(store, lease):
    await commit(store, [(lease, Row(1, b"index", [b"body"]))])
    await commit(store, [(lease, Row(2, b"last", replace=[(1, b"rest")]))])

    assert [b""] == await store.read(lease, [Ref(1, 0, 0)])


async def test_a_committed_row_is_known(store, lease):
    await commit(store, [(lease, Row(1, b""))])

    assert await store.committed(lease, 1)
    assert not await store.committed(lease, 2)


async def test_each_owner_has_a_higher_epoch(store, lease):
    again = await store.acquire(0, "hare", 10)
    after = await restarted(store)

    assert lease.epoch < again.epoch < after.epoch


async def test_another_node_gets_no_lease_until_it_is_given_back(store, lease):
    assert await store.acquire(0, "tortoise", 10) is None

    await store.release(lease)

    other = await store.acquire(0, "tortoise", 10)
    assert lease.epoch < other.epoch


async def test_the_owner_of_an_older_epoch_is_fenced(store, lease):
    newer = await store.acquire(0, "hare", 10)

    with pytest.raises(Fenced):
        await commit(store, [(newer, Row(1, b"")), (lease, Row(2, b""))])
    await store.release(lease)  # it has none to give back

    await commit(store, [(newer, Row(3, b""))])
    assert [(3, b"")] == await indexes(store, newer)
    assert [newer] == list(await store.renew([lease, newer], 10))


async def test_a_lease_that_was_given_back_is_fenced(store, lease):
    await store.release(lease)

    with pytest.raises(Fenced):
        await commit(store, [(lease, Row(1, b""))])
    assert [] == list(await store.renew([lease], 10))


async def test_a_commit_whose_task_is_cancelled_is_finished(store, lease):
    with trio.CancelScope() as scope:
        scope.cancel()
        await commit(store, [(lease, Row(1, b"a"))])

    assert [(1, b"a")] == await indexes(store, lease)


@pytest.mark.parametrize("name", ["recover", "read", "maintain"])
async def test_what_only_reads_or_tidies_up_ends_when_it_is_cancelled(store, lease, name):
    await commit(store, [(lease, Row(1, b"a"))])
    calls = {
        "recover": lambda: indexes(store, lease),
        "read": lambda: store.read(lease, [Ref(1, 0, 0)]),
        "maintain": lambda: store.maintain(1),
    }

    with trio.CancelScope() as scope:
        scope.cancel()
        await calls[name]()

    assert scope.cancelled_caught


async def test_closing_twice_is_closing_once(store, lease):
    await commit(store, [(lease, Row(1, b""))])

    await store.close()
    await store.close()

    lease = await restarted(store)
    assert [(1, b"")] == await indexes(store, lease)


async def test_a_closed_store_says_so(store, lease):
    await store.close()

    with pytest.raises(StoreFailed, match="closed"):
        await commit(store, [(lease, Row(1, b""))])
    for call in (
        lambda: store.read(lease, [Ref(1, 0, 0)]),
        lambda: store.load_definitions(),
        lambda: store.acquire(0, "hare", 10),
        lambda: store.committed(lease, 1),
        lambda: indexes(store, lease),
        lambda: store.maintain(0),
    ):
        with pytest.raises(StoreError, match="closed"):
            await call()


async def test_many_rows_come_back_some_at_a_time(store, lease):
    rows = [Row(seq, b"%07d" % seq * 100, [b""]) for seq in range(4_000)]
    await commit(store, [(lease, row) for row in rows])

    steps = [step async for step in store.recover(lease)]

    assert [(row.seq, row.index) for row in rows] == [row for step in steps for row in step]
    assert len(steps) > 1
    assert max(sum(len(index) for _, index in step) for step in steps) < 2 << 20


async def test_rows_that_come_while_others_are_read_back_do_no_harm(store, lease):
    await commit(store, [(lease, Row(seq, bytes(1000))) for seq in range(2_000)])
    found = []

    async for rows in store.recover(lease):
        found += [seq for seq, _ in rows]
        if len(found) < 2_000:
            await commit(store, [(lease, Row(10_000 + len(found), b""))])

    assert list(range(2_000)) == found[:2_000]


async def test_maintenance_ends_and_leaves_everything_in_place(store, lease):
    await commit(store, [(lease, Row(seq, b"i", [bytes(50_000)])) for seq in range(100)])
    await commit(store, [(lease, Row(100, b"i", [b"kept"], delete=range(99)))])

    while await store.maintain(0.01):
        pass

    assert [(99, b"i"), (100, b"i")] == await indexes(store, lease)
    assert [b"kept"] == await store.read(lease, [Ref(100, 0, 4)])
