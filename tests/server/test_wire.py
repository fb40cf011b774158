"""Wires: partial writes, peers that are gone, and streams with the same session above them."""

import socket
import struct
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from leveret.broker.server.wire import (
    MAX_BUFFERS,
    REFERENCE_SIZE,
    SocketWire,
    StreamWire,
    WireClosed,
)

BUFFER = 4096


@pytest.fixture
def pair() -> Iterator[tuple[SocketWire, socket.socket]]:
    """A wire whose kernel buffer is small, and the other end, which does not wait either."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        theirs.setblocking(False)
        yield SocketWire(ours), theirs


def read_all(sock: socket.socket) -> bytes:
    """Return what has come."""
    chunks = []
    try:
        while chunk := sock.recv(1 << 20):
            chunks.append(chunk)
    except BlockingIOError:
        pass
    return b"".join(chunks)


def parts_of(sizes: list[int]) -> list[bytes]:
    """Return parts whose octets tell where they belong."""
    whole = bytes(index * 7 % 251 for index in range(sum(sizes)))
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [whole[end - size : end] for size, end in zip(sizes, ends, strict=True)]


SIZES = {
    "one": [200_000],
    "small": [100] * 2000,
    "large": [REFERENCE_SIZE * 4] * 10,
    "mixed": [11, REFERENCE_SIZE, 7, 50_000, 1, 30_000, REFERENCE_SIZE - 1, 90_000],
    "much that is small": [4088] * 3000,
    "small before large": [*[100] * 2000, *[100_000] * 100],
    "more buffers than one call takes": [*[3] * (MAX_BUFFERS + 10), REFERENCE_SIZE, *[5] * 3000],
}


@pytest.mark.parametrize("name", SIZES)
async def test_what_the_peer_does_not_take_comes_back_and_nothing_is_lost(pair, name):
    wire, peer = pair
    parts = parts_of(SIZES[name])
    expected = b"".join(parts)

    left = wire.write_now(parts)
    received = read_all(peer)
    assert expected == received + b"".join(left)
    assert left  # so the rest of this test is about something
    while left:
        left = await wire.write(left)
        received += read_all(peer)

    assert expected == received


@pytest.mark.parametrize("name", ["much that is small", "small before large"])
def test_what_is_left_of_much_is_not_copied(pair, name):
    wire, _ = pair
    parts = parts_of(SIZES[name])

    left = wire.write_now(parts)

    assert MAX_BUFFERS >= len(parts) - len(left)
    assert all(one is other for one, other in zip(left[1:], parts[MAX_BUFFERS:], strict=True))


def test_nothing_is_sent_at_all_while_the_buffer_is_full(pair):
    wire, peer = pair
    left = wire.write_now([bytes(100_000)])

    assert [b"more"] == wire.write_now([b"more"])
    several = [b"a" * REFERENCE_SIZE, b"b"]
    assert several == wire.write_now(several)
    assert 100_000 == len(read_all(peer)) + len(left[0])


def test_no_parts_are_no_write(pair):
    wire, peer = pair

    assert [] == wire.write_now([])
    assert b"" == read_all(peer)


async def test_write_waits_until_the_peer_reads(pair):
    wire, peer = pair
    left = wire.write_now([bytes(100_000)])
    done = trio.Event()

    async def write() -> None:
        assert sum(map(len, await wire.write(left))) < sum(map(len, left))
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        assert not done.is_set()
        read_all(peer)
        await done.wait()


def test_a_peer_that_is_gone_is_a_closed_wire(pair):
    wire, peer = pair
    peer.close()

    for parts in ([b"one"], [b"one", b"x" * REFERENCE_SIZE]):
        with pytest.raises(WireClosed):
            wire.write_now(parts)


def test_the_end_of_the_peer_is_read_as_nothing(pair):
    wire, peer = pair
    with pytest.raises(BlockingIOError):
        wire.receive_now(10)
    peer.sendall(b"last words")
    peer.close()

    assert b"last words" == wire.receive_now(100)
    assert b"" == wire.receive_now(100)


async def test_a_reset_by_the_peer_is_a_closed_wire():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours:
        ours.setblocking(False)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", True, 0))
        peer.close()
        wire = SocketWire(ours)
        await trio.lowlevel.wait_readable(ours)

        with pytest.raises(WireClosed):
            wire.receive_now(10)
        with pytest.raises(WireClosed):
            wire.write_now([b"x"])


async def test_closing_wakes_whoever_waits_to_write(pair):
    wire, _ = pair
    left = wire.write_now([bytes(100_000)])

    async def write() -> None:
        with pytest.raises(WireClosed):
            await wire.write(left)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        wire.close()
        wire.close()  # twice is as good as once


async def test_a_closed_wire_takes_nothing_and_gives_nothing(pair):
    wire, _ = pair
    wire.close()

    with pytest.raises(WireClosed):
        wire.write_now([b"x"])
    with pytest.raises(WireClosed):
        await wire.write([b"x"])
    with pytest.raises(WireClosed):
        wire.receive_now(1)


# Streams


async def test_a_stream_sends_only_when_it_may_wait():
    ours, theirs = trio.testing.memory_stream_pair()
    wire = StreamWire(ours)

    assert [b"a", b"b"] == wire.write_now([b"a", b"b"])
    assert [] == await wire.write([b"a", b"b"])
    assert b"ab" == await theirs.receive_some()


async def test_a_stream_whose_peer_is_gone_is_a_closed_wire():
    ours, theirs = trio.testing.memory_stream_pair()
    wire = StreamWire(ours)
    await theirs.aclose()

    assert b"" == await wire.receive(10)
    with pytest.raises(WireClosed):
        await wire.write([b"x"])


async def test_closing_a_stream_wakes_whoever_reads_and_whoever_writes():
    ours, theirs = trio.testing.lockstep_stream_pair()  # a write waits for its reader
    wire = StreamWire(ours)

    async def write() -> None:
        with pytest.raises(WireClosed):
            await wire.write([b"x"])

    async def read() -> None:
        with pytest.raises(WireClosed):
            await wire.receive(10)

    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await wire.aclose()

    with pytest.raises(WireClosed):
        await wire.receive(10)
    await wire.aclose()


async def test_a_stream_is_closed_also_by_a_task_that_is_cancelled():
    ours, theirs = trio.testing.memory_stream_pair()
    wire = StreamWire(ours)

    with trio.CancelScope() as scope:
        scope.cancel()
        await wire.aclose()

    assert b"" == await theirs.receive_some()
