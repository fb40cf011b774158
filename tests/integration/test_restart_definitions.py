"""Which definitions are there after a restart, and how they meet a topology file.

One broker lives through the tests of the first part, as in `test_restart`; those of the second
have one of their own.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pika.exceptions import AMQPError, ChannelClosedByBroker

from ..support.leveret import ANYWHERE, ROOT, Durable
from .durability import fixtures
from .durability.clients import SECONDS, bodies, channel, declare, publish, store

shared = fixtures.shared
broker = fixtures.broker
restart = fixtures.restart
revive = fixtures.revive
q = fixtures.q
ours = fixtures.ours


# What clients have declared


def test_exchanges_and_bindings_of_every_kind(broker, restart, q):
    names = [f"{q}.{kind}" for kind in ("direct", "topic", "fanout", "headers")]
    alternate = {"alternate-exchange": f"{q}.fanout"}
    with channel(broker) as here:
        here.queue_declare(q, durable=True)
        for name in names:
            kind = name.rpartition(".")[2]
            arguments = alternate if kind == "direct" else None
            here.exchange_declare(name, kind, durable=True, arguments=arguments)
        here.exchange_bind(names[1], names[0], "to.topic")
        here.queue_bind(q, names[0], "direct")
        here.queue_bind(q, names[1], "to.#")
        here.queue_bind(q, names[2])
        here.queue_bind(q, names[3], arguments={"x-match": "any", "a": 1, "b": "two"})
        here.exchange_declare(f"{q}.passing", "direct")
        here.queue_bind(q, f"{q}.passing", "")

    restart()

    with channel(broker) as here:
        here.confirm_delivery()
        publish(here, "direct", b"direct", exchange=names[0])
        publish(here, "to.topic", b"to an exchange", exchange=names[0])
        publish(here, "unknown", b"alternate", exchange=names[0])
        publish(here, "other", b"nowhere", exchange=names[1])
        publish(here, "", b"headers", exchange=names[3], headers={"b": "two"})
        publish(here, "", b"other headers", exchange=names[3], headers={"b": "three"})
        for name in names:
            kind = name.rpartition(".")[2]
            arguments = alternate if kind == "direct" else None
            here.exchange_declare(name, kind, durable=True, arguments=arguments)
        with pytest.raises(ChannelClosedByBroker, match="NOT_FOUND"):
            here.exchange_declare(f"{q}.passing", passive=True)
    assert [b"direct", b"to an exchange", b"alternate", b"headers"] == bodies(broker, q)


@ours
def test_what_was_deleted_or_unbound_stays_so(broker, revive, q):
    with channel(broker) as here:
        here.confirm_delivery()
        for name in (q, f"{q}.deleted", f"{q}.again"):
            here.queue_declare(name, durable=True)
            here.queue_bind(name, "amq.direct", q)
        here.exchange_declare(f"{q}.x", "direct", durable=True)
        here.exchange_delete(f"{q}.x")
        publish(here, q, b"old", exchange="amq.direct")
        here.queue_unbind(q, "amq.direct", q)
        here.queue_delete(f"{q}.deleted")
        here.queue_delete(f"{q}.again")
        here.queue_declare(f"{q}.again", durable=True, arguments={"x-max-priority": 3})
        publish(here, f"{q}.again", b"new")
        revive()

    assert [b"old"] == bodies(broker, q)
    assert [b"new"] == bodies(broker, f"{q}.again")
    store(broker, q, b"unroutable", exchange="amq.direct")
    assert [b"old"] == bodies(broker, q)
    declare(broker, f"{q}.again", arguments={"x-max-priority": 3})
    for kind in ("queue", "exchange"):
        name = f"{q}.deleted" if kind == "queue" else f"{q}.x"
        with channel(broker) as here, pytest.raises(ChannelClosedByBroker, match="NOT_FOUND"):
            getattr(here, f"{kind}_declare")(name, passive=True)


def test_arguments_are_compared_after_a_restart_as_before(broker, restart, q):
    arguments = {"x-message-ttl": 60_000, "x-dead-letter-exchange": "amq.fanout"}
    declare(broker, q, arguments=arguments)

    restart()

    declare(broker, q, arguments=arguments)
    with pytest.raises(ChannelClosedByBroker, match="PRECONDITION_FAILED"):
        declare(broker, q, arguments={"x-message-ttl": 60_001})


def test_durable_queue_that_deletes_itself(broker, restart, q):
    declare(broker, q, auto_delete=True)
    store(broker, q, b"0")

    restart()

    with channel(broker) as here:
        for method, _, body in here.consume(q, inactivity_timeout=SECONDS):
            assert b"0" == body
            here.basic_ack(method.delivery_tag)
            break
        here.cancel()
    with channel(broker) as here, pytest.raises(ChannelClosedByBroker, match="NOT_FOUND"):
        here.queue_declare(q, passive=True)


def test_name_that_the_broker_made_up(broker, revive, q):
    with channel(broker) as here:
        here.confirm_delivery()
        name = here.queue_declare("", durable=True).method.queue
        publish(here, name, b"0")
        revive()

    assert [b"0"] == bodies(broker, name)


# Start and topology


TOPOLOGY = """
users:
  shop:
    password: secret
    permissions: {shop: .*}
vhosts: [shop]
exchanges:
  - {name: orders, vhost: shop, type: topic}
queues:
  - {name: invoices, vhost: shop, durable: true}
bindings:
  - {vhost: shop, source: orders, destination: invoices, routing_key: "order.#"}
policies:
  - {vhost: shop, name: rest, pattern: ^orders$, definition: {alternate-exchange: amq.fanout}}
"""


@pytest.fixture
def own(tmp_path) -> Iterator[Durable]:
    """A Leveret of the test's own; it is not started yet."""
    with Durable(tmp_path) as broker:
        yield broker


def with_topology(own: Durable, text: str) -> None:
    file = own.data.parent / "topology.yaml"
    file.write_text(text)
    own.arguments = ("--topology", str(file))


@ours
def test_what_a_topology_file_made_is_there_without_the_file(own):
    with_topology(own, TOPOLOGY)
    own.start()
    with channel(own, "shop", "shop", "secret") as here:
        here.confirm_delivery()
        publish(here, "order.created", b"0", exchange="orders")
    own.kill()
    own.arguments = ()
    own.start()

    with channel(own, "shop", "shop", "secret") as here:
        here.confirm_delivery()
        publish(here, "order.created", b"1", exchange="orders")
        assert [b"0", b"1"] == [here.basic_get("invoices")[2] for _ in range(2)]
        here.queue_declare("rest", durable=True)
        here.queue_bind("rest", "amq.fanout")
        publish(here, "unknown", b"by the policy", exchange="orders")
        assert b"by the policy" == here.basic_get("rest")[2]


@ours
def test_the_same_file_is_applied_again_and_a_larger_one_adds(own):
    with_topology(own, TOPOLOGY)
    own.start()
    own.kill()
    own.start()
    own.stop()
    with_topology(own, TOPOLOGY.replace("password: secret", "password: changed"))
    own.start()

    with channel(own, "shop", "shop", "changed") as here:
        here.queue_declare("invoices", passive=True)
    with pytest.raises(AMQPError), channel(own, "shop", "shop", "secret"):
        pass


@ours
@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("type: topic", "type: direct", "orders"),
        (
            "invoices, vhost: shop, durable: true",
            "invoices, vhost: shop, durable: true, arguments: {x-max-priority: 3}",
            "invoices",
        ),
    ],
)
def test_file_that_contradicts_what_is_stored_ends_the_start(own, old, new, name):
    with_topology(own, TOPOLOGY)
    own.start()
    own.stop()
    assert old in TOPOLOGY
    with_topology(own, TOPOLOGY.replace(old, new))
    status, line = refusal(own)

    assert 2 == status
    assert name in line
    own.arguments = ()
    own.start()  # and nothing of it was stored


@ours
def test_second_broker_on_one_directory_is_refused(own, tmp_path_factory):
    own.start()
    declare(own, "q")
    status, line = refusal(own)

    assert 2 == status
    assert str(own.data) in line
    store(own, "q", b"0")  # the first one does not mind
    own.kill()
    own.start()
    assert [b"0"] == bodies(own, "q")


@ours
def test_directory_that_cannot_be_written_to_is_refused(own):
    own.start()
    own.stop()
    for path in (*own.data.rglob("*"), own.data):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        status, line = refusal(own, preexec_fn=obey_permissions)
    finally:
        own.data.chmod(0o755)

    assert (2, True) == (status, str(own.data) in line)


def obey_permissions() -> None:
    """Let even root be held to the permissions of files."""
    drop_from_bounding_set, override_permissions = 24, 1
    if os.getuid() == 0:
        assert 0 == LIBC.prctl(drop_from_bounding_set, override_permissions, 0, 0, 0)


LIBC = ctypes.CDLL(None, use_errno=True)


def refusal(own: Durable, **options: Any) -> tuple[int, str]:
    """Start a broker that must not start; return its status and the one line it says."""
    place = ("--data-dir", str(own.data), *ANYWHERE)
    done = subprocess.run(
        [sys.executable, "-m", "leveret.broker", "serve", *place, *own.arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        **options,
    )
    assert "" == done.stdout
    [line] = [line for line in done.stderr.splitlines() if line.startswith("leveret serve: ")]
    return done.returncode, line
