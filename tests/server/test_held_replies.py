"""Held replies: who asks faster than the store commits is not read from, and waits for it."""

from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import pytest
import trio
import trio.testing

from leveret.broker.amqp.session import Session
from leveret.broker.server.connection import LARGEST_READ
from leveret.broker.storage.memory import MemoryStore
from leveret.protocol.methods import BasicGet, BasicGetEmpty, QueueDeclare, QueueDeclareOk
from leveret.protocol.reader import Contents
from leveret.protocol.writer import method_frame

from ..support.edge import PATIENCE, Edge, Peer, durable, persistent

MIB = 1 << 20
COUNT = 100_000
GET = method_frame(1, BasicGet("q", True))


class Asked(NamedTuple):
    """A peer that has asked for more than it gets before a commit is done."""

    edge: Edge
    peer: Peer
    session: Session


@pytest.fixture
def store():
    return MemoryStore()


@asynccontextmanager
async def asking(store, nursery, payloads):
    """A peer that declares what waits for a commit, and gets each message and many more."""
    async with durable(store, nursery) as (edge, _):
        peer = await Peer.connect(edge)
        (session,) = edge.broker.sessions
        await peer.call(QueueDeclare("q", durable=True))
        store.hold()
        for payload in payloads:
            await peer.write(persistent(payload))
        declare = method_frame(1, QueueDeclare("other", durable=True))
        nursery.start_soon(_write, peer, declare + GET * COUNT)
        await _until_it_rests(session)
        yield Asked(edge, peer, session)


async def _write(peer, octets):
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # when it is ended
        await peer.write(octets)


async def _until_it_rests(session):
    before = -1
    while session.octets_in != before:
        before = session.octets_in
        await trio.testing.wait_all_tasks_blocked(0.05)


async def answers(peer, count):
    """Return so many answers."""
    found = []
    while len(found) < count:
        _, command = await peer.next()
        found += command if isinstance(command, Contents) else [command]
    return found


async def test_who_pipelines_gets_is_not_read_from_until_the_commit(store, nursery):
    async with asking(store, nursery, [b"m"]) as (edge, peer, session):
        high = session.outbox_high
        assert session.octets_in < 2 * LARGEST_READ < COUNT * len(GET)
        assert high < session.held.octets < high + MIB
        assert session.held.octets <= session.memory <= edge.broker.memory

        store.let_through()
        declared, *found = await answers(peer, 1 + COUNT)
        assert QueueDeclareOk("other", 0, 0) == declared
        assert [b"m"] == [each.body for each in found[:1]]
        assert {BasicGetEmpty()} == set(found[1:])
        assert 0 == session.held.octets


async def test_messages_that_were_got_count_while_their_replies_are_held(store, nursery):
    payloads = [bytes([number]) * (MIB // 4) for number in range(20)]
    async with asking(store, nursery, payloads) as (_, peer, session):
        assert session.outbox_high < session.held.octets < session.outbox_high + MIB

        store.let_through()
        declared, *found = await answers(peer, 1 + COUNT)
        assert QueueDeclareOk("other", 0, 0) == declared
        assert payloads == [each.body for each in found[:20]]


async def test_a_peer_that_waits_for_a_commit_is_not_judged_on_its_silence(store, nursery):
    async with asking(store, nursery, [b"m"]) as (_, peer, session):
        assert not session.connection.is_reading
        store.let_through()
        await answers(peer, 1 + COUNT)
        with trio.fail_after(PATIENCE):
            while not session.connection.is_reading:
                await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_peer_that_waits_for_a_commit_is_ended_when_the_store_fails(store, nursery):
    async with asking(store, nursery, [b"m"]) as (edge, peer, _):
        store.fail()
        store.let_through()
        peer.stream.socket.close()

        with trio.fail_after(PATIENCE):
            await edge.is_over.wait()
