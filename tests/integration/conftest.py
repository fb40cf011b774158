"""Brokers that integration tests talk to, each started once a session."""

from collections.abc import Iterator

import pytest

from ..support.leveret import Server, leveret
from ..support.rabbitmq import Node, rabbitmq, why_not
from .differential.definitions import DEFINITIONS, PLUGINS


@pytest.fixture(scope="session")
def leveret_server() -> Iterator[Server]:
    """A Leveret that keeps messages in memory and knows only guest."""
    with leveret() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[Node]:
    """A private RabbitMQ node with the users of the differential suite beside guest."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with rabbitmq(definitions=DEFINITIONS, plugins=PLUGINS) as node:
        yield node
