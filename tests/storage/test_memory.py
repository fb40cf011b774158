"""The faults that the store in memory has on demand."""

import pytest
import trio
import trio.testing

from leveret.broker.storage.base import Row, StoreFailed
from leveret.broker.storage.memory import MemoryStore

from ..support.durable import commit


@pytest.fixture
async def store():
    made = MemoryStore()
    await made.open()
    return made


@pytest.fixture
async def lease(store):
    return await store.acquire(0, "hare", 10)


async def test_the_nth_commit_fails_without_effect(store, lease):
    store.fail(2)
    await commit(store, [(lease, Row(1, b""))])

    with pytest.raises(StoreFailed, match=r"rows \[2\] failed"):
        await commit(store, [(lease, Row(2, b""))])
    with pytest.raises(StoreFailed):
        await commit(store, [(lease, Row(3, b""))])

    assert [1] == list(store.rows)


async def test_the_nth_commit_fails_after_it_took_effect(store, lease):
    store.fail(after=True)

    with pytest.raises(StoreFailed):
        await commit(store, [(lease, Row(1, b""))])
    with pytest.raises(StoreFailed):
        await store.committed(lease, 1)

    await store.close()
    await store.open()
    assert await store.committed(lease, 1)


async def test_commits_are_held_until_they_are_let_through(store, lease):
    returned = []

    async def put(seq):
        await commit(store, [(lease, Row(seq, b""))])
        returned.append(seq)

    store.hold()
    async with trio.open_nursery() as nursery:
        for seq in (1, 2, 3):
            nursery.start_soon(put, seq)
            await trio.testing.wait_all_tasks_blocked()
        assert [[1], [2], [3]] == [[row.seq for row in rows] for rows in store.held]
        assert {} == store.rows

        store.let_through(1)
        await trio.testing.wait_all_tasks_blocked()
        assert [1] == returned
        assert [1] == list(store.rows)

        store.let_through()
        await trio.testing.wait_all_tasks_blocked()
        assert [1, 2, 3] == sorted(returned)
        await put(4)

    assert [1, 2, 3, 4] == list(store.rows)


async def test_a_held_commit_fails_when_the_store_is_closed(store, lease):
    store.hold()

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def put():
            with pytest.raises(StoreFailed, match="closed"):
                await commit(store, [(lease, Row(1, b""))])

        await trio.testing.wait_all_tasks_blocked()
        await store.close()

    assert {} == store.rows
