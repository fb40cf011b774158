"""Fixtures that most tests of the broker start from."""

from collections.abc import Callable

import pytest

from leveret.broker.core.broker import Broker

from .support.client import Client


@pytest.fixture
def broker() -> Broker:
    """A broker with a virtual host and its administrator, guest."""
    made = Broker()
    made.add_defaults()
    return made


@pytest.fixture
def connect(broker: Broker) -> Callable[..., Client]:
    """Return what opens one more connection."""

    def open_one(*args: object, **options: object) -> Client:
        return Client(broker, *args, **options)

    return open_one


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    """A client with channel 1 open."""
    return connect()
