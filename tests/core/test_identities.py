"""Identities: waiting messages by name, what is out of date, and hooked queues that use them."""

from leveret.broker.core import identities as module
from leveret.broker.core.identities import PART, TOLERATED, Identities, hash_of, hashes_of

NAME = hash_of("a")


def found(identities: Identities, number: int) -> list[int]:
    return sorted(set(identities.find(number)))


def waits_never(position: int) -> bool:
    return False


def test_hash_is_never_zero_and_fits_64_bits() -> None:
    hashes = {hash_of(str(number)) for number in range(1000)}

    assert 1000 == len(hashes)
    assert all(0 < each < 1 << 64 for each in hashes)


def test_many_hashes_are_those_of_each() -> None:
    names = [*map(str, range(1000)), "\udcff", "ä" * 300]

    assert list(map(hash_of, names)) == list(hashes_of(names))
    assert [0, hash_of("a"), 0] == list(hashes_of([None, "a", ""]))


def test_a_name_whose_hash_would_be_none_has_one(monkeypatch) -> None:
    class Zero:
        def __init__(self, octets: bytes, digest_size: int) -> None:
            self._size = digest_size

        def digest(self) -> bytes:
            return bytes(self._size)

    monkeypatch.setattr(module, "blake2b", Zero)

    assert [1, 1] == [hash_of("a"), *hashes_of(["a"])]


def test_positions_of_a_name_are_found_ascending() -> None:
    identities = Identities()
    identities.add([7, 3, 5], [NAME, NAME, hash_of("b")])

    assert [3, 7] == found(identities, NAME)
    assert [5] == found(identities, hash_of("b"))
    assert [] == found(identities, hash_of("c"))


def test_what_has_no_name_is_not_kept() -> None:
    identities = Identities()
    identities.add([1, 2], [0, NAME])

    assert 1 == identities.count
    assert [2] == found(identities, NAME)


def test_a_message_that_waits_again_is_found_once() -> None:
    identities = Identities()
    identities.add([1], [NAME])
    identities.add([1], [NAME])
    identities.add([2, 1], [NAME, NAME])

    assert [1, 2] == found(identities, NAME)


def test_what_waits_no_longer_goes_once_it_is_most() -> None:
    identities = Identities()
    count = 3 * TOLERATED
    identities.add(range(count), [hash_of(str(number)) for number in range(count)])
    steps = 0
    while identities.count > TOLERATED:
        identities.tidy(10, lambda position: position < 10)
        steps += 1

    while identities.count > 10:
        identities.tidy(0, lambda position: position < 10)
    assert steps > 1
    assert [9] == found(identities, hash_of("9"))
    assert [] == found(identities, hash_of("10"))


def test_few_that_are_out_of_date_stay() -> None:
    identities = Identities()
    identities.add(range(TOLERATED), [hash_of(str(number)) for number in range(TOLERATED)])

    identities.tidy(0, waits_never)

    assert TOLERATED == identities.count


def test_very_many_of_one_name_are_tidied_in_steps_while_more_come() -> None:
    identities = Identities()
    count = 5 * TOLERATED
    identities.add(range(count), [NAME] * count)
    identities.tidy(1, lambda position: position == 5)
    identities.add([count], [NAME])
    for _ in range(count // TOLERATED + 1):
        identities.tidy(count, lambda position: position == 5)

    assert [5, count] == found(identities, NAME)
    assert 2 == identities.count


def test_what_was_added_twice_does_not_stay_so() -> None:
    identities = Identities()
    identities.add(range(TOLERATED), [NAME] * TOLERATED)
    identities.add(range(TOLERATED), [NAME] * TOLERATED)
    for _ in range(10):
        identities.tidy(1, lambda position: position == 5)

    assert [5] == found(identities, NAME)
    assert 2 >= identities.count


def test_all_is_forgotten_at_once_and_freed_in_steps():
    identities = Identities()
    identities.add(range(3 * PART), [hash_of(str(number)) for number in range(3 * PART)])

    steps = identities.free()

    assert ([], 0) == (found(identities, hash_of("1")), identities.count)
    assert 3 == len(list(steps))


def test_a_name_is_found_in_all_parts():
    identities = Identities()
    identities.add([0], [NAME])
    identities.add(range(1, 2 * PART), [hash_of(str(number)) for number in range(1, 2 * PART)])
    identities.add([3 * PART], [NAME])

    assert [0, 3 * PART] == found(identities, NAME)
    assert [2 * PART - 1] == found(identities, hash_of(str(2 * PART - 1)))
    assert 2 * PART + 1 == identities.count


def test_a_message_that_came_back_and_waits_again_has_one_entry_in_all_parts():
    identities = Identities()
    identities.add([0], [NAME])
    identities.add(range(1, 2 * PART), [hash_of(str(number)) for number in range(1, 2 * PART)])
    identities.add([0], [NAME], is_new=False)

    assert [0] == found(identities, NAME)
    assert 2 * PART == identities.count


def test_parts_that_became_small_are_put_together_and_stay_to_be_found_meanwhile():
    identities = Identities()
    count = 20 * PART
    identities.add(range(count), [hash_of(str(number)) for number in range(count)])

    def waits(position):
        return position % 100 == 0

    identities.tidy(0, waits)
    while identities._tidying is not None:
        assert [100] == found(identities, hash_of("100"))
        identities.tidy(count, waits)

    assert count // 100 + 1 == identities.count
    assert len(identities._parts) <= 2
    assert all([at] == found(identities, hash_of(str(at))) for at in range(0, count, 1000))
    assert [] == found(identities, hash_of("101"))


def test_of_very_many_that_wait_again_those_are_added_that_are_not_known() -> None:
    identities = Identities()
    count = 4 * PART
    identities.add(range(count), hashes_of(map(str, range(count))))
    again = [0, PART, count, count + 1, 5]
    names = [hash_of("0"), hash_of(str(PART)), hash_of("new"), 0, hash_of("7")]

    identities.add(again, names, is_new=False)

    assert count + 2 == identities.count
    assert [0] == found(identities, hash_of("0"))
    assert [count] == found(identities, hash_of("new"))
    assert [5, 7] == found(identities, hash_of("7"))


class Asked(dict[int, int | list[int]]):
    """A part that counts how often it is asked for one name."""

    times = 0

    def get(self, *arguments):
        type(self).times += 1
        return super().get(*arguments)


def test_many_that_wait_again_are_not_looked_for_one_by_one(monkeypatch) -> None:
    identities = Identities()
    monkeypatch.setattr(identities, "_parts", [Asked({number: number}) for number in range(1, 100)])

    identities.add(range(500), range(1000, 1500), is_new=False)
    identities.add([1, 98], [1, 98], is_new=False)

    assert Asked.times <= 4
    assert 500 == identities.count


def test_messages_of_one_name_that_wait_again_and_again_have_few_entries() -> None:
    identities = Identities()
    count = 2 * TOLERATED
    for _ in range(20):
        identities.add(range(count), [NAME] * count, is_new=False)
        for _ in range(count // TOLERATED + 2):
            identities.tidy(count, lambda position: True)

    assert count <= identities.count <= 3 * count + TOLERATED
    assert list(range(count)) == found(identities, NAME)
