"""Fixtures of the tests that restart a broker; a test module takes them over by name.

Called by: test_restart, test_restart_definitions.
"""

from collections.abc import Callable, Iterator
from threading import Timer

import pytest

from .broker import IS_RABBITMQ, Mortal, mortal

DEADLINE = 50.0  # seconds for a test

ours = pytest.mark.skipif(IS_RABBITMQ, reason="a promise that RabbitMQ does not make")


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Mortal]:
    """A broker for all tests of a module."""
    with mortal(tmp_path_factory.mktemp("restart")) as broker:
        broker.start()
        yield broker


@pytest.fixture
def broker(shared: Mortal) -> Iterator[Mortal]:
    """The broker; one that does not answer in time is put down, so that its test ends."""
    if not shared.is_alive():
        shared.kill()
        shared.start()
    watchdog = Timer(DEADLINE, shared.put_down)
    watchdog.start()
    yield shared
    watchdog.cancel()


@pytest.fixture(params=[pytest.param("stopped", marks=pytest.mark.long), "killed"])
def restart(broker: Mortal, request) -> Callable[[], None]:
    """End the broker in one way or the other, and start it again."""

    def restart() -> None:
        if request.param == "killed":
            broker.kill()
        else:
            broker.stop()
        broker.start()

    return restart


@pytest.fixture
def revive(broker: Mortal) -> Callable[[], None]:
    """Kill the broker, and start it again."""

    def revive() -> None:
        broker.kill()
        broker.start()

    return revive


@pytest.fixture
def q(request) -> str:
    return request.node.name
