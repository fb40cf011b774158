"""What every client test shares: a broker's address, names of its own, and a deadline.

The same tests run against any AMQP 0-9-1 broker: `LEVERET_TEST_URL=amqp://guest:guest@host:port`
replaces the broker that they otherwise start.
"""

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import FrameType

import pytest

from ...support.leveret import leveret
from .relay import Relay

DEADLINE = 60  # seconds; a test that gets this far waits for something that will not come
URL = "LEVERET_TEST_URL"


class Restartable:
    """A Leveret that comes back on the same port, with nothing in it."""

    def __init__(self) -> None:
        self.url = ""
        self._running = ExitStack()

    def start(self) -> None:
        """Start, on the port of the last time if there was one."""
        again = ("--listen", self.url.partition("@")[2]) if self.url else ()
        server = self._running.enter_context(leveret(*again))
        self.url = self.url or f"amqp://guest:guest@{server.host}:{server.port}"

    def stop(self) -> None:
        """Stop; an exit status other than 0 is an error."""
        self._running.close()


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """End a test that hangs: no client here has a timeout for everything it waits for."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took longer than {DEADLINE} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(DEADLINE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> str:
    """The address of the broker under test, without a vhost."""
    if URL in os.environ:
        return os.environ[URL].rstrip("/")
    server = request.getfixturevalue("leveret_server")
    return f"amqp://guest:guest@{server.host}:{server.port}"


@pytest.fixture
def server() -> Iterator[Restartable]:
    """A broker of the test's own, which it may stop and start."""
    if URL in os.environ:
        pytest.skip(f"the broker given by {URL} is not ours to restart")
    server = Restartable()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Make names that no other test and no other run uses."""
    run = f"{request.node.originalname}-{uuid.uuid4().hex[:8]}"
    return lambda what: f"{what}-{run}"


@pytest.fixture
def relay(amqp_url: str) -> Iterator[Relay]:
    """A TCP relay in front of the broker, whose connections the test may cut."""
    with Relay(amqp_url) as relay:
        yield relay
