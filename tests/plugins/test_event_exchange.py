"""The event exchange: what happened, as messages."""

import pytest

from leveret.broker.core.broker import Broker
from leveret.broker.core.policy import Policy
from leveret.broker.core.users import Permissions, TopicPermissions
from leveret.broker.plugins import event_exchange
from leveret.broker.server.alarms import Alarms
from leveret.protocol.errors import AccessRefused
from leveret.protocol.methods import (
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicQos,
    ChannelClose,
    ExchangeBind,
    ExchangeDeclare,
    ExchangeDelete,
    QueueBind,
    QueueDelete,
    QueueUnbind,
)

from ..support.client import Received, closed

NAME = "amq.rabbitmq.event"
GUEST = {"user": "guest", "vhost": "/"}
ALL = Permissions(".*", ".*", ".*")


@pytest.fixture(autouse=True)
def _start(broker):
    broker.wall_offset = 1_700_000_000_123 - broker.now
    broker.events.emit("broker.started")


@pytest.fixture
def listen(client):
    """Return what binds a queue, and then takes the events that came: keys and headers."""

    def bind(pattern="#"):
        client.declare("events")
        client.call(QueueBind("events", NAME, pattern))
        take()

    def take():
        found = []
        while isinstance(event := client.call(BasicGet("events", no_ack=True)), Received):
            found.append((event.method.routing_key, dict(event.properties.headers)))
            assert found[-1][1].pop("timestamp_in_ms") == 1_700_000_000_123
        return found

    bind.take = take
    return bind


def only(events, *names):
    """Return the events with only the named fields."""
    return [(key, {name: headers[name] for name in names}) for key, headers in events]


# The exchange


def test_the_exchange_is_there_and_nobody_publishes_to_it(client, vhost):
    exchange = vhost.exchange(NAME)

    assert ("topic", True, True) == (exchange.type_name, exchange.durable, exchange.internal)
    refused = f"ACCESS_REFUSED - cannot publish to internal exchange '{NAME}' in vhost '/'"
    assert (403, refused) == closed(client.publish(b"", "k", NAME))


def test_the_exchange_comes_with_a_virtual_host_made_later(broker):
    broker.delete_vhost("/")

    assert NAME in broker.add_vhost("/").exchanges
    assert NAME not in broker.add_vhost("other").exchanges


def test_events_are_persistent_messages_without_a_body(client):
    client.declare("events")
    client.call(QueueBind("events", NAME, "queue.created"))

    client.declare("q")

    method, body, properties = client.call(BasicGet("events", no_ack=True))
    assert (NAME, "queue.created", b"") == (method.exchange, method.routing_key, body)
    assert (2, 1_700_000_000) == (properties.delivery_mode, properties.timestamp)


def test_what_comes_back_when_a_broker_starts_is_no_event(registry):
    restored = Broker(registry=registry)
    vhost = restored.add_vhost("/")
    vhost.bind(NAME, vhost.declare_queue("events"), "#")
    vhost.declare_queue("q")
    before = vhost.queue("events").ready_count

    restored.events.emit("broker.started")
    vhost.delete_queue(vhost.queue("q"))

    assert (0, 1) == (before, vhost.queue("events").ready_count)


def test_only_what_is_bound_is_told(client, listen):
    listen("queue.*")

    client.declare("q")
    client.call(QueueBind("q", "amq.fanout", ""))
    client.call(QueueDelete("q"))

    assert ["queue.created", "queue.deleted"] == [key for key, _ in listen.take()]


def test_nothing_is_made_while_nothing_is_bound(client, monkeypatch):
    monkeypatch.setattr(event_exchange, "make_content", lambda *_: pytest.fail("made a message"))

    client.declare("q")


def test_a_binding_hears_of_itself_first(client):
    client.declare("events")
    client.call(QueueBind("events", NAME, "#"))

    event = client.call(BasicGet("events", no_ack=True))
    assert "binding.created" == event.method.routing_key
    assert NAME == event.properties.headers["source_name"]


def test_the_queue_of_events_may_be_deleted(client, listen, vhost):
    listen()

    client.call(QueueDelete("events"))

    assert not vhost.exchange(NAME).bindings
    assert "events" not in vhost.queues


# What is told


def test_queues(client, listen):
    listen()

    client.declare("q", durable=True, arguments={"x-max-length": 5, "x-queue-mode": "lazy"})
    client.call(QueueDelete("q"))

    assert [
        (
            "queue.created",
            {
                "vhost": "/",
                "name": "q",
                "durable": True,
                "auto_delete": False,
                "exclusive": False,
                "owner_pid": "",
                "arguments": [
                    '{<<"x-max-length">>,signedint,5}',
                    '{<<"x-queue-mode">>,longstr,<<"lazy">>}',
                ],
            },
        ),
        ("queue.deleted", {"vhost": "/", "name": "q"}),
    ] == listen.take()


def test_exchanges(client, listen, vhost):
    vhost.policies.put(Policy("mine", "^x", {"alternate-exchange": "amq.fanout"}))
    listen()

    client.call(ExchangeDeclare("x", "topic", auto_delete=True, arguments={"a": 1}))
    client.call(ExchangeDelete("x"))

    assert [
        (
            "exchange.created",
            {
                "vhost": "/",
                "name": "x",
                "type": "topic",
                "durable": False,
                "auto_delete": True,
                "internal": False,
                "arguments": ['{<<"a">>,signedint,1}'],
                "policy": "mine",
            },
        ),
        ("exchange.deleted", {"vhost": "/", "name": "x"}),
    ] == listen.take()


def test_bindings(client, listen):
    client.declare("q")
    listen()

    client.call(QueueBind("q", "amq.topic", "k", arguments={"a": 1}))
    client.call(QueueUnbind("q", "amq.topic", "k", {"a": 1}))
    client.call(ExchangeBind("amq.fanout", "amq.topic", "e"))

    to_queue = {
        "vhost": "/",
        "source_kind": "exchange",
        "source_name": "amq.topic",
        "destination_kind": "queue",
        "destination_name": "q",
        "routing_key": "k",
        "arguments": ['{<<"a">>,signedint,1}'],
    }
    to_exchange = {
        "destination_kind": "exchange",
        "destination_name": "amq.fanout",
        "routing_key": "e",
        "arguments": [],
    }
    assert [
        ("binding.created", to_queue),
        ("binding.deleted", to_queue),
        ("binding.created", to_queue | to_exchange),
    ] == listen.take()


def test_connections_and_channels(client, connect, listen):
    listen()

    other = connect()
    other.send(ChannelClose(200, "", 0, 0))
    other.lose()

    events = listen.take()
    assert [
        "user.authentication.success",
        "connection.created",
        "channel.created",
        "channel.closed",
        "connection.closed",
    ] == [key for key, _ in events]
    (_, login), (_, created), (_, opened), (_, left), (_, ended) = events
    assert ("guest", "PLAIN") == (login["name"], login["auth_mechanism"])
    assert GUEST == {name: created[name] for name in GUEST}
    negotiated = {"channel_max": 2047, "frame_max": 131072, "timeout": 60}
    assert negotiated == {name: created[name] for name in negotiated}
    assert created["client_properties"][0].startswith('{<<"capabilities">>,table,')
    assert (1, GUEST) == (opened["number"], {name: opened[name] for name in GUEST})
    assert (opened["pid"], created["pid"]) == (left["pid"], ended["pid"])


def test_peers_are_told_by_address_and_port(client, listen):
    client.session.peer = "[::1]:4711"
    listen("channel.created")

    client.open_channel(2)

    [(_, headers)] = listen.take()
    assert ("[::1]:4711", "[::1]:4711 (2)") == (headers["connection"], headers["name"])
    assert {"peer_host": "[::1]", "peer_port": 4711} == event_exchange._peer(client.session)


def test_a_login_that_fails(connect, listen):
    listen()

    with pytest.raises(AccessRefused):
        connect(password="wrong")

    key, headers = listen.take()[0]
    assert ("user.authentication.failure", "guest") == (key, headers["name"])


def test_consumers(client, listen):
    client.declare("q")
    listen()

    client.call(BasicQos(0, 7))
    client.call(BasicConsume("q", "tag", no_ack=True, arguments={"x-priority": 3}))
    client.call(BasicCancel("tag"))

    what = {"consumer_tag": "tag", "channel": " (1)", "vhost": "/", "queue": "q"}
    how = {
        "exclusive": False,
        "ack_required": False,
        "prefetch_count": 7,
        "arguments": ['{<<"x-priority">>,signedint,3}'],
    }
    assert [("consumer.created", what | how), ("consumer.deleted", what)] == listen.take()


def test_consumers_end_with_their_channel_and_their_queue(client, listen):
    client.declare("q")
    client.open_channel(2)
    listen("consumer.deleted")
    client.send(BasicConsume("q", "a"))
    client.send(BasicConsume("q", "b"), channel=2)

    client.send(ChannelClose(200, "", 0, 0), channel=2)
    client.send(QueueDelete("q"))
    client.take()

    assert [("consumer.deleted", {"consumer_tag": tag}) for tag in "ba"] == only(
        listen.take(), "consumer_tag"
    )


def test_virtual_hosts_and_their_limits(broker, listen):
    listen("vhost.#")

    broker.add_vhost("new").max_queues = 5
    broker.vhosts["new"].max_queues = 1 << 70
    broker.vhosts["new"].max_queues = None
    broker.delete_vhost("new")

    limits = {"name": "limits", "vhost": "new"}
    assert [
        ("vhost.created", {"name": "new", "tracing": False}),
        ("vhost.limits.set", limits | {"max-queues": 5}),
        ("vhost.limits.set", limits | {"max-queues": (1 << 63) - 1}),
        ("vhost.limits.cleared", limits),
        ("vhost.deleted", {"name": "new"}),
    ] == listen.take()


def test_users(broker, listen):
    listen("user.#")

    broker.users.add("new", "secret")
    broker.users.add("new", "secret", ("monitoring",))
    broker.users.add("new", "other", ("monitoring",))
    broker.users.delete("new")
    broker.users.add("new", "secret", ("management",))

    tags = {"name": "new", "tags": ["monitoring"]}
    assert [
        ("user.created", {"name": "new"}),
        ("user.tags.set", tags),
        ("user.password.changed", {"name": "new"}),
        ("user.deleted", {"name": "new"}),
        ("user.created", {"name": "new"}),
        ("user.tags.set", tags | {"tags": ["management"]}),
    ] == listen.take()


def test_users_that_were_changed_while_nobody_listened_are_known(broker, listen):
    broker.users.add("new", "secret")
    listen("user.#")

    broker.users.add("new", "other")

    assert [("user.password.changed", {"name": "new"})] == listen.take()


def test_permissions(broker, listen):
    broker.users.add("new", "secret")
    listen("#.permission.*")

    broker.users.set_permissions("new", "/", Permissions("c", "w", "r"))
    broker.users.set_topic_permissions("new", "/", "amq.topic", TopicPermissions("w", "r"))
    broker.users.clear_topic_permissions("new", "/")
    broker.users.clear_permissions("new", "/")

    who = {"user": "new", "vhost": "/"}
    where = who | {"exchange": "amq.topic"}
    assert [
        ("permission.created", who | {"configure": "c", "write": "w", "read": "r"}),
        ("topic.permission.created", where | {"write": "w", "read": "r"}),
        ("topic.permission.deleted", where),
        ("permission.deleted", who),
    ] == listen.take()


@pytest.mark.parametrize(
    ("operator", "cleared"), [(False, "policy.cleared"), (True, "operator.policy.cleared")]
)
def test_policies(vhost, listen, operator, cleared):
    definition = {"max-length": 5, "overflow": "drop-head"}
    listen()

    vhost.policies.put(Policy("p", "^a", definition, "queues", 3), operator=operator)
    vhost.policies.delete("p", operator=operator)

    told = {"pattern": "^a", "definition": definition, "priority": 3, "apply-to": "queues"}
    which = {"vhost": "/", "name": "p"}
    assert [("policy.set", which | told), (cleared, which)] == listen.take()


def test_alarms(broker, listen):
    alarms = Alarms(broker)
    listen("alarm.*")

    alarms.start("memory", bytes=1)
    alarms.end("memory", bytes=1)

    assert [
        ("alarm.set", {"source": "memory", "node": broker.node}),
        ("alarm.cleared", {"source": "memory", "node": broker.node}),
    ] == listen.take()
