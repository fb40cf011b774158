"""Where the messages of a segment are."""

from array import array
from itertools import accumulate

import pytest

from leveret.broker.storage.records import Enqueued
from leveret.broker.storage.segment import STRIDE, LiveRow, Segment

BASE, COUNT = 1000, 3 * STRIDE + 5


def segment(*, is_packed):
    publishes = [30 + number % 3 for number in range(COUNT)]
    headers = [14 + number % 5 for number in range(COUNT)]
    sizes = [number % 7 for number in range(COUNT)]
    wholes = map(sum, zip(publishes, headers, sizes, strict=True))
    offsets = list(accumulate(wholes, initial=50))[:-1]
    columns = (array("H", publishes), array("I", headers), array("I", sizes))
    record = Enqueued(1, BASE, array("Q", offsets[:1] if is_packed else offsets), *columns)
    return Segment(LiveRow(1), record)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("step", [1, 2, STRIDE - 1, STRIDE, STRIDE + 1])
def test_some_messages_are_where_they_are_among_all(is_packed, step):
    made = segment(is_packed=is_packed)
    everywhere = made.living_places(BASE, BASE + COUNT)

    assert everywhere[::step] == made.places_of(range(BASE, BASE + COUNT, step))


def test_settled_messages_have_no_place():
    made = segment(is_packed=True)
    made.settle(BASE + 70, BASE + 71)

    found = made.places_of([BASE + 69, BASE + 70, BASE + 72])

    assert [BASE + 69, BASE + 72] == [position for position, _ in found]
