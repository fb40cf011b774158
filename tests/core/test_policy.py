"""Policies: which one applies, how they merge, and patterns that are safe to run."""

import time

import pytest

from leveret.broker.core.patterns import PatternError, compile_pattern
from leveret.broker.core.policy import (
    EMPTY,
    Policies,
    Policy,
    PolicyError,
)

SAFE = [
    "^orders[.].*",
    "amq[.].*|celery.*",
    "",
    ".*",
    "^.*$",
    "^(?!amq[.]).*",
    "^(amq[.]gen.*|amq[.]default)$",
    "^([a-z]+[.])*x$",
    r"^orders\..*\..*$",
    ".*foo.*bar",
    "^((orders|invoices)[.])+",
    "^(celery|celeryev|.*[.]celery[.]pidbox|reply[.]celery[.]pidbox)$",
    r"^(\w+-)?\d+$",
    "(?i)^orders",
    "^(a{3}){4}$",
    "^(ab?c)*$",
    "^(?>a|b)++c$",
    "".join(f"({chr(97 + number)}" for number in range(26)) + ")+" * 26,
]
COSTLY = [
    "^(a+)+$",
    "(a|a)*$",
    "(a*)*",
    "(a?){30}a{30}",
    "^.*.*.*.*.*x",
    "a?" * 40 + "a" * 40,
    "(x+x+)+y",
    "^(.*[.]){3}",
    r"^(\w+\s?)*$",
    r"^(\da|[0-9]b)*x",
    "^([^a]|[^b])*x",
    "^(Ab|[a-z]c)*x",
    r"(.)(.)\1",
    r"^(?:.(?:\b)??)+x",  # a choice of taking nothing, in each round
    r"(?:[ab].(?:(?!$))?)+x",
    "(?:[^a])*[.]*[.]*x",  # few choices, but a walk for each
]


def expected_cost_is_small(pattern: str) -> bool:
    """Try names that make a backtracking matcher work hard."""
    began = time.process_time()
    for filler in ("a", "x", ".", "1"):
        compile_pattern(pattern).search(filler * 254 + "!")
    return time.process_time() - began < 0.5


@pytest.mark.parametrize("pattern", SAFE)
def test_safe_patterns_pass_and_are_quick(pattern: str):
    assert expected_cost_is_small(pattern)


@pytest.mark.parametrize("pattern", COSTLY)
def test_costly_patterns_are_refused(pattern: str):
    with pytest.raises(PatternError, match="could take too long to match"):
        compile_pattern(pattern)


@pytest.mark.parametrize("pattern", ["[", "(", "(" * 3000, "a{99999999999}", "[[:alpha:]]", "*"])
def test_what_is_no_pattern_is_refused(pattern: str):
    with pytest.raises(PatternError, match="is not a regular expression"):
        compile_pattern(pattern)


def test_a_pattern_of_any_length_is_not_accepted():
    with pytest.raises(PatternError, match="longer than 4096"):
        compile_pattern("a" * 5000)


@pytest.mark.parametrize(
    ("apply_to", "expected"),
    [
        ("all", ["exchange", "classic_queue", "quorum_queue"]),
        ("exchanges", ["exchange"]),
        ("queues", ["classic_queue", "quorum_queue"]),
        ("classic_queues", ["classic_queue"]),
        ("quorum_queues", ["quorum_queue"]),
        ("streams", []),
    ],
)
def test_apply_to_chooses_the_kind(apply_to: str, expected: list[str]):
    policy = Policy("p", "^o", {"message-ttl": 1}, apply_to)

    kinds = [k for k in ("exchange", "classic_queue", "quorum_queue") if policy.matches(k, "o")]

    assert expected == kinds


def test_the_highest_priority_wins_then_the_first_name():
    policies = Policies()
    policies.put(Policy("c", ".*", {"max-length": 3}, priority=1))
    policies.put(Policy("b", ".*", {"max-length": 2}, priority=1))
    policies.put(Policy("a", ".*", {"max-length": 1}, priority=0))
    policies.put(Policy("d", "^other$", {"max-length": 4}, priority=9))

    assert policies.effective("classic_queue", "orders") == {"max-length": 2}


def test_without_a_match_the_settings_are_empty():
    policies = Policies()
    policies.put(Policy("a", "^x", {"max-length": 1}))

    assert policies.effective("classic_queue", "orders") is EMPTY


@pytest.mark.parametrize(
    ("own", "operator", "expected"),
    [
        ({"max-length": 10}, {"max-length": 5}, {"max-length": 5}),
        ({"max-length": 5}, {"max-length": 10}, {"max-length": 5}),
        ({"message-ttl": 7}, {"expires": 9}, {"message-ttl": 7, "expires": 9}),
        ({"overflow": "drop-head"}, {"overflow": "reject-publish"}, {"overflow": "reject-publish"}),
        (None, {"max-length": 5}, {"max-length": 5}),
    ],
)
def test_an_operator_can_only_lower_numbers(own, operator, expected):
    policies = Policies()
    if own is not None:
        policies.put(Policy("own", ".*", own))
    policies.put(Policy("limit", ".*", operator), operator=True)

    assert expected == policies.effective("classic_queue", "orders")


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Policy("p", "(", {"max-length": 1}), "policy 'p': pattern '\\(' is not a regular"),
        (Policy("p", "x", {}), "definition is empty"),
        (Policy("p", "x", {"max-lenght": 1}), "unknown key 'max-lenght'"),
        (Policy("p", "x", {"max-length": -1}), "'max-length' is -1, it must be an integer from 0"),
        (Policy("p", "x", {"max-length": True}), "'max-length' is True"),
        (Policy("p", "x", {"overflow": "no"}), "must be one of drop-head, reject-publish"),
        (Policy("p", "x", {"max-length": 1}, "topics"), "apply-to 'topics' is not one of all"),
    ],
)
def test_a_bad_policy_is_refused(policy: Policy, text: str):
    policies = Policies()

    with pytest.raises(PolicyError, match=text):
        policies.put(policy)

    assert list(policies) == []


def test_each_change_is_told_once_and_no_change_is_not():
    told = []
    policies = Policies(lambda name, **fields: told.append((name, fields)))
    policy, lower = Policy("p", "x", {"max-length": 2}), Policy("p", "x", {"max-length": 1})

    for _ in range(2):
        policies.put(policy)
        policies.put(lower, operator=True)
    policies.put(lower)
    policies.delete("p", operator=True)

    assert [
        ("policy.changed", {"policy": policy, "operator": False}),
        ("policy.changed", {"policy": lower, "operator": True}),
        ("policy.changed", {"policy": lower, "operator": False}),
        ("policy.deleted", {"policy": lower, "operator": True}),
    ] == told
