"""Topic matching equals a naive regular expression."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from leveret.broker.core.exchange_types import Topic

WORDS = st.sampled_from(["a", "b", "", "*", "#"])
BINDING_KEYS = st.lists(WORDS, max_size=6).map(".".join)
ROUTING_KEYS = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=6).map(".".join)


def words(key: str) -> list[str]:
    return key.split(".") if key else []


def naive(binding_key: str, routing_key: str) -> bool:
    """Each word is written with a dot behind it, so that zero words are the empty text."""
    parts = {"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}
    pattern = "".join(parts.get(word, re.escape(word) + r"\.") for word in words(binding_key))
    text = "".join(word + "." for word in words(routing_key))
    return re.fullmatch(pattern, text) is not None


@settings(max_examples=250, deadline=None)
@given(st.lists(BINDING_KEYS, min_size=1, max_size=8, unique=True), ROUTING_KEYS)
def test_topic_equals_a_regular_expression(binding_keys, routing_key):
    topic = Topic({})
    for key in binding_keys:
        topic.bind(key, {}, key)

    expected = {key for key in binding_keys if naive(key, routing_key)}
    found = list(topic.match(routing_key, None))

    assert expected == set(found)
    assert len(found) == len(set(found))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(BINDING_KEYS, min_size=1, max_size=8, unique=True),
    st.lists(st.booleans(), min_size=8, max_size=8),
    ROUTING_KEYS,
)
def test_topic_after_unbinding_equals_one_that_was_never_bound(binding_keys, kept, routing_key):
    topic, never = Topic({}), Topic({})
    for key in binding_keys:
        topic.bind(key, {}, key)
    for key, keep in zip(binding_keys, kept, strict=False):
        if keep:
            never.bind(key, {}, key)
        else:
            topic.unbind(key, {}, key)

    assert set(never.match(routing_key, None)) == set(topic.match(routing_key, None))
