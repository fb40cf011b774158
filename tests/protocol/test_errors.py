"""Errors: codes, names, and reply texts that fit a short string."""

import pytest

from leveret.protocol import errors
from leveret.protocol.errors import (
    BY_CODE,
    AMQPError,
    ChannelException,
    ConnectionException,
    InternalError,
    NotFound,
    from_reply,
)

SOFT = {311, 313, 403, 404, 405, 406}
HARD = {320, 402, 501, 502, 503, 504, 505, 506, 530, 540, 541}


def test_every_code_has_its_branch():
    assert {code for code, leaf in BY_CODE.items() if issubclass(leaf, ChannelException)} == SOFT
    assert {code for code, leaf in BY_CODE.items() if issubclass(leaf, ConnectionException)} == HARD


@pytest.mark.parametrize(
    ("leaf", "name"),
    [
        ("FieldError", "SYNTAX_ERROR"),
        ("ChannelNotOpen", "CHANNEL_ERROR"),
        ("Unsupported", "NOT_IMPLEMENTED"),
        ("PreconditionFailed", "PRECONDITION_FAILED"),
        ("ConnectionForced", "CONNECTION_FORCED"),
    ],
)
def test_reply_texts_begin_with_the_names_of_the_specification(leaf, name):
    assert getattr(errors, leaf)("why").reply_text == f"{name} - why"


def test_an_error_carries_what_the_close_method_says():
    problem = NotFound("no queue 'q' in vhost '/'", 50, 10)

    assert (problem.code, problem.class_id, problem.method_id) == (404, 50, 10)
    assert str(problem) == "404 NOT_FOUND - no queue 'q' in vhost '/'"


@pytest.mark.parametrize("text", ["x" * 300, "é" * 200, "€" * 200, "\ud800" * 300])
def test_a_reply_text_is_cut_between_characters_and_fits_a_short_string(text):
    reply_text = NotFound(text).reply_text

    assert 252 <= len(reply_text.encode()) <= 255


@pytest.mark.parametrize("leaf", BY_CODE.values())
def test_a_received_close_gives_the_error_that_was_sent(leaf):
    received = from_reply(leaf.code, leaf("why").reply_text, 60, 40)

    assert type(received) is leaf
    assert (received.text, received.class_id, received.method_id) == ("why", 60, 40)


def test_an_unknown_code_is_kept_in_the_text():
    received = from_reply(599, "odd")

    assert isinstance(received, InternalError)
    assert received.text == "599 odd"
    assert isinstance(received, AMQPError)
