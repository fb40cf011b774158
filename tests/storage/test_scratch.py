"""Scratch files: what was written is read again, and the files are gone when nobody needs them."""

import gc

import pytest

from leveret.broker.core.chunks import Paged
from leveret.broker.core.message import Message
from leveret.broker.storage import scratch as module
from leveret.broker.storage.base import StoreError
from leveret.broker.storage.scratch import Scratch
from leveret.protocol.properties import Properties, encode

from ..support.fakes import message, messages


@pytest.fixture
async def scratch(tmp_path):
    made = Scratch(tmp_path / "scratch")
    await made.open()
    yield made
    await made.close()


def paged(slot, count):
    return Paged(0, count, count, 0, slot)


def names(scratch):
    return sorted(file.name for file in scratch.folder.iterdir())


def content(found):
    return [(each.envelope.payload, each.header, each.body, each.flags) for each in found]


async def test_messages_come_back_as_they_were(scratch):
    properties = Properties(delivery_mode=1, app_id="x", headers={"a": 1})
    given = [message(b"hello", "a key", properties), message(b""), message(b"x" * 100_000)]

    slots = await scratch.write([given, given[:1]])

    assert content(given) == content(await scratch.read(paged(slots[0], 3)))
    assert content(given[:1]) == content(await scratch.read(paged(slots[1], 1)))


async def test_a_long_message_is_written_as_it_came_and_read_in_pieces(scratch, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 10)
    written = []
    write = module.os.pwritev

    def note(descriptor, pieces, at):
        written.extend(piece.obj for piece in pieces)
        return write(descriptor, pieces, at)

    monkeypatch.setattr(module.os, "pwritev", note)
    header = encode(Properties(headers={"a": "b" * 50}), 26)
    body = (b"abcdefghijkl", b"mnopqrstuvwxyz")
    given = Message(message(b"").envelope, (header, *body), len(header), 26, 0x2000)

    [slot] = await scratch.write([[given]])
    [found] = await scratch.read(paged(slot, 1))

    assert all(any(each is piece for each in written) for piece in body)
    assert content([given]) == content([found])
    assert (b"abcdefghij", b"klmnopqrst", b"uvwxyz") == found.chunks


async def test_of_a_chunk_of_which_some_were_taken_out_all_are_read(scratch):
    [slot] = await scratch.write([messages(1, 2, 3)])
    chunk = paged(slot, 3)
    chunk.remove(1, 1, None, None)

    assert content(messages(1, 2, 3)) == content(await scratch.read(chunk))


async def test_messages_of_one_kind_share_their_envelope(scratch):
    [slot] = await scratch.write([messages(1, 2)])

    first, second = await scratch.read(paged(slot, 2))

    assert first.envelope is second.envelope


async def test_a_file_goes_with_the_last_slot_in_it(scratch, monkeypatch):
    monkeypatch.setattr(module, "FILE_SIZE", 10)
    first, second = await scratch.write([messages(1), messages(2)])
    [third] = await scratch.write([messages(3)])
    assert ["1", "2"] == names(scratch)

    del first
    await scratch.tidy()
    assert ["1", "2"] == names(scratch)
    del second
    await scratch.tidy()
    assert ["2"] == names(scratch)

    assert content(messages(3)) == content(await scratch.read(paged(third, 1)))


async def test_the_file_that_is_written_goes_too_and_there_is_another(scratch):
    slots = await scratch.write([messages(1)])
    slots.clear()
    await scratch.tidy()
    assert [] == names(scratch)

    [slot] = await scratch.write([messages(2)])

    assert ["2"] == names(scratch)
    assert content(messages(2)) == content(await scratch.read(paged(slot, 1)))


async def test_slots_in_a_cycle_are_found_by_the_collector(scratch):
    slots = await scratch.write([messages(1)])
    slots.append(slots)
    del slots
    gc.collect()
    await scratch.tidy()

    assert [] == names(scratch)


async def test_what_another_process_has_left_is_removed(tmp_path):
    folder = tmp_path / "scratch"
    (folder / "within").mkdir(parents=True)
    (folder / "1").write_bytes(b"old")
    scratch = Scratch(folder)

    await scratch.open()
    assert [] == names(scratch)
    await scratch.write([messages(1)])
    await scratch.close()

    assert not folder.exists()
    await scratch.close()


async def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    scratch = Scratch(tmp_path / "file" / "scratch")

    with pytest.raises(NotADirectoryError):
        await scratch.open()
    await scratch.close()


async def test_a_file_that_was_cut_is_an_error_that_names_it(scratch):
    [slot] = await scratch.write([messages(1)])
    slot.file.path.write_bytes(b"")

    with pytest.raises(StoreError, match=r"scratch/1 is shorter than it should be"):
        await scratch.read(paged(slot, 1))


async def test_a_write_that_is_done_in_parts_is_whole(scratch, monkeypatch):
    write = module.os.pwrite
    monkeypatch.setattr(module.os, "pwritev", lambda fd, data, at: write(fd, data[0][:7], at))

    first, second = await scratch.write([messages(b"a" * 50, b"b"), messages(b"c")])

    assert content(messages(b"a" * 50, b"b")) == content(await scratch.read(paged(first, 2)))
    assert content(messages(b"c")) == content(await scratch.read(paged(second, 1)))


async def test_what_there_is_no_space_for_is_not_written(tmp_path):
    left = [300]
    scratch = Scratch(tmp_path / "scratch", lambda: left[0])
    await scratch.open()
    [slot] = await scratch.write([messages(bytes(200))])
    left[0] = 100

    with pytest.raises(OSError, match="No space left"):
        await scratch.write([messages(bytes(200))])

    assert content(messages(bytes(200))) == content(await scratch.read(paged(slot, 1)))
    await scratch.close()
