"""Fixtures that most tests of the broker start from."""

import gc
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from leveret.broker import testing
from leveret.broker.app import GC_THRESHOLD
from leveret.broker.core.broker import Broker

from .support.client import Client
from .support.strategies import STRATEGIES, registry


def pytest_collection_finish() -> None:
    """Collect garbage as the application does: many messages take twice as long otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


@pytest.fixture(scope="module", autouse=True)
def _leave_no_garbage() -> Iterator[None]:
    """Free the cycles of a module: with such thresholds the collector hardly ever comes to them."""
    yield
    gc.collect()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of modules that ask for it with plain and with hooked queues."""
    if hasattr(metafunc.module, "BOTH_STRATEGIES") and "strategy" in metafunc.fixturenames:
        marks = metafunc.definition.iter_markers("parametrize")
        if all(mark.args[0] != "strategy" for mark in marks):
            metafunc.parametrize("strategy", STRATEGIES, indirect=True)


@pytest.fixture
def strategy(request: pytest.FixtureRequest) -> str:
    """Of which kind all queues are: plain, or hooked."""
    return getattr(request, "param", "plain")


@pytest.fixture
def broker(strategy: str) -> Broker:
    """A broker with a virtual host and its administrator, guest."""
    made = Broker(registry=registry(strategy))
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


@pytest.fixture
def advance(broker: Broker) -> Callable[[float], None]:
    """Return what lets the broker's time go on by some seconds, from deadline to deadline."""
    return partial(testing.advance, broker)
