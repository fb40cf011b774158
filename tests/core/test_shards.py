"""Shards: numbers by position."""

from random import Random

from leveret.broker.core.shards import BITS, Shards


def test_it_equals_a_dict():
    dice, shards, model = Random(1), Shards(), {}
    for _ in range(5000):
        position = dice.randrange(3 << BITS)
        match dice.randrange(4):
            case 0:
                assert model.pop(position, 0) == shards.pop(position)
            case 1:
                shards.forget([position, position + 1])
                model.pop(position, None)
                model.pop(position + 1, None)
            case _:
                shards.set(position, position + 1)
                model[position] = position + 1
        assert (len(model), bool(model)) == (shards.count, bool(shards))
        assert model.get(position, 0) == shards.get(position)

    assert sorted(model.items()) == list(shards)
    shards.clear()
    assert ([], 0) == (list(shards), shards.count)


def test_no_dict_is_larger_than_a_shard_and_none_stays_empty():
    shards = Shards()
    for position in range(3 << BITS):
        shards.set(position, 1)
    assert {1 << BITS} == {len(shard) for shard in shards._shards.values()}

    shards.forget(range(2 << BITS))
    assert 1 == len(shards._shards)
