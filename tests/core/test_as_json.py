"""Whatever a client has sent has a form in JSON."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from leveret.broker.core.as_json import as_json
from leveret.protocol.table import Int8, LongString, Timestamp


@dataclass(frozen=True)
class Pair:
    left: object
    right: object


def test_what_is_nested_too_deep_is_cut():
    deep = []
    for _ in range(100_000):
        deep = [deep]

    shown = json.dumps(as_json(deep))

    assert "[" * 64 + '"..."' + "]" * 64 == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (Int8(3), 3),
        (Timestamp(5), 5),
        (1.5, 1.5),
        (float("inf"), "inf"),
        ("text", "text"),
        (b"text", "text"),
        (LongString(b"\xff"), "\\xff"),
        (Decimal("1.50"), "1.50"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        ({"a": (1, [b"b"])}, {"a": [1, ["b"]]}),
        (Pair(1, Pair(b"a", None)), {"left": 1, "right": {"left": "a", "right": None}}),
    ],
)
def test_a_value_becomes_what_json_takes(value, shown):
    made = as_json(value)

    assert shown == made
    assert shown == json.loads(json.dumps(made, allow_nan=False))
