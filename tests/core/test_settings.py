"""Settings: what arguments and policies say together."""

import pytest

from leveret.broker.core.arguments import Argument, milliseconds, one_of
from leveret.broker.core.settings import settings
from leveret.protocol.wire import EMPTY_TABLE

KNOWN = {
    "x-message-ttl": Argument(milliseconds),
    "x-overflow": Argument(one_of("a", "b", otherwise="no such")),
}


@pytest.mark.parametrize(
    ("arguments", "policy", "expected"),
    [
        ({}, {}, {}),
        ({}, {"message-ttl": 1}, {"message-ttl": 1}),
        ({"x-message-ttl": 2}, {}, {"message-ttl": 2}),
        ({"x-message-ttl": 2}, {"message-ttl": 1}, {"message-ttl": 1}),
        ({"x-message-ttl": 1}, {"message-ttl": 2}, {"message-ttl": 1}),
        ({"x-message-ttl": 0}, {"message-ttl": 2}, {"message-ttl": 0}),
        ({"x-overflow": "a"}, {"overflow": "b"}, {"overflow": "a"}),
        ({"x-overflow": "a"}, {"message-ttl": 2}, {"overflow": "a", "message-ttl": 2}),
        ({"x-unknown": 1}, {"overflow": "b"}, {"overflow": "b"}),
        ({"x-overflow": "c"}, {"overflow": "b"}, {"overflow": "b"}),
        ({"x-message-ttl": -1, "x-overflow": "a"}, {}, {"overflow": "a"}),
    ],
)
def test_the_smaller_number_counts_else_the_argument(arguments, policy, expected):
    assert expected == settings(arguments, KNOWN, policy, {"message-ttl"})


def test_where_nothing_is_said_all_share_one_mapping():
    assert settings({}, KNOWN, {}, ()) is EMPTY_TABLE
    assert settings({"x-unknown": 1}, KNOWN, {}, ()) is EMPTY_TABLE


def test_a_policy_is_not_changed():
    policy = {"message-ttl": 5}
    settings({"x-message-ttl": 1}, KNOWN, policy, {"message-ttl"})

    assert {"message-ttl": 5} == policy
