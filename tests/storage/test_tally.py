"""What definitions come to is the same however they came to be, and never that of others."""

from itertools import combinations
from random import Random

from leveret.broker.storage.tally import Tally


def tally(definitions):
    made = Tally()
    made.take_in(definitions)
    return made.total


def test_changes_come_to_the_same_as_what_they_lead_to():
    random, made, model = Random(7), Tally(), {}
    for _ in range(300):
        kind, key = random.choice(("queue", "user")), b"%d" % random.randrange(9)
        value = random.choice((None, b"a", b"b"))
        made.take_in([(kind, key, value)])
        model.pop((kind, key), None)
        if value is not None:
            model[kind, key] = value

        assert tally((*one, value) for one, value in model.items()) == made.total
        assert len(model) == made.total.definitions


def test_some_come_to_something_else_than_others():
    """Also where names differ in a regular way: checksums of those cancel out by exclusive or."""
    names = [b"%s%d" % (letter, digit) for letter in (b"a", b"b", b"c") for digit in range(3)]
    every = [("queue", name, b"") for name in names]
    sums = {tally(some).sum for count in range(10) for some in combinations(every, count)}

    assert 2 ** len(names) == len(sums)
