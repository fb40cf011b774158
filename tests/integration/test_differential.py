"""The same conversations with RabbitMQ and with Leveret; see `differential/`.

All chosen conversations are held at once before the first is looked at: most of their time they
wait, some for the three seconds after which RabbitMQ closes a socket without a word.
"""

import json
from collections.abc import Iterator
from time import time

import pytest

from leveret.protocol.table import Timestamp

from ..support.leveret import Server, leveret
from ..support.rabbitmq import Node
from .differential.conversation import CONVERSATIONS, Conversation, Transcript, differs
from .differential.definitions import DEFINITIONS
from .differential.letters import written_down
from .differential.suite import disagreement, hold

Transcripts = dict[str, list[Transcript]]


@pytest.fixture(scope="module")
def leveret_alike(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Leveret with the definitions that the RabbitMQ node starts with."""
    file = tmp_path_factory.mktemp("definitions") / "definitions.json"
    file.write_text(json.dumps(DEFINITIONS))
    with leveret("--topology", str(file)) as server:
        yield server


@pytest.fixture(scope="module")
def transcripts(
    request: pytest.FixtureRequest, rabbitmq_server: Node, leveret_alike: Server
) -> Transcripts:
    """What each broker said in the conversations of the chosen tests."""
    titles = [
        item.callspec.params["title"]
        for item in request.session.items
        if item.originalname == test_conversation.__name__
    ]
    addresses = [(node.host, node.port) for node in (rabbitmq_server, leveret_alike)]
    return hold([CONVERSATIONS[title] for title in titles], addresses)


@pytest.mark.parametrize("title", CONVERSATIONS)
def test_conversation(title: str, transcripts: Transcripts) -> None:
    rabbitmq, ours = transcripts[title]

    wrong = disagreement(CONVERSATIONS[title], rabbitmq, ours)

    assert not wrong, wrong


# The suite itself


ASKED = "a1 > queue.delete queue='~q'"
REFUSED = "a1 < channel.close 404 'no queue' at queue.delete"
DELETED = "a1 < queue.delete-ok message_count=0"


def _compare(
    rabbitmq: tuple[str, ...], ours: tuple[str, ...], expected: str | None = None, failure: str = ""
) -> str:
    exception = None if expected is None else differs("it is better so", expected)
    item = Conversation("deleting", lambda talk: None, exception)
    return disagreement(item, Transcript(rabbitmq, failure), Transcript(ours, ""))


def test_equal_transcripts_agree() -> None:
    assert not _compare((ASKED, REFUSED), (ASKED, REFUSED))


def test_another_answer_is_a_disagreement() -> None:
    assert REFUSED in _compare((ASKED, REFUSED), (ASKED, DELETED))


def test_missing_answer_is_a_disagreement() -> None:
    assert REFUSED in _compare((ASKED, REFUSED), (ASKED,))


def test_exception_allows_exactly_what_it_names() -> None:
    assert not _compare((ASKED, REFUSED), (ASKED, DELETED), expected=DELETED)
    assert _compare((ASKED, REFUSED), (ASKED,), expected=DELETED)


def test_exception_that_is_not_needed_is_a_disagreement() -> None:
    assert "no exception" in _compare((ASKED, DELETED), (ASKED, DELETED), expected=DELETED)


def test_failing_script_is_a_disagreement() -> None:
    assert "boom" in _compare((ASKED,), (ASKED,), failure="boom")


DEATH = {"reason": "expired", "queue": "q", "exchange": ""}


def test_order_and_second_of_a_death_are_nobodys_business() -> None:
    now, later = ({"time": Timestamp(time() + seconds), **DEATH} for seconds in (0, 2))

    first = written_down({"b": 1, "x-death": [now]})
    second = written_down({"x-death": [dict(reversed(later.items()))], "b": 1})

    assert repr(first) == repr(second)


def test_death_of_another_day_is_written_down() -> None:
    death = {"time": Timestamp(1_000_000), **DEATH}

    assert written_down({"x-death": [death]})["x-death"] == [death]


def test_last_death_is_left_out_only_where_it_is_the_newest() -> None:
    headers = {"x-death": [DEATH], "x-last-death-queue": "q", "x-last-death-reason": "rejected"}

    assert set(written_down(headers)) == {"x-death", "x-last-death-reason"}
