"""AMQPStorm: blocking, thread-safe, with message objects, raising at the next call."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import amqpstorm
import pytest
from amqpstorm import AMQPChannelError, AMQPConnectionError, AMQPMessageError, Message

SECONDS = 10  # for anything that must arrive


@contextmanager
def connect(url: str, **parameters: object) -> Iterator[amqpstorm.Connection]:
    host, port = url.rpartition("@")[2].split(":")
    settings = {"username": "guest", "password": "guest", "port": int(port)} | parameters
    with amqpstorm.Connection(host, timeout=SECONDS, **settings) as connection:
        yield connection


@pytest.fixture
def connection(amqp_url):
    with connect(amqp_url) as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.channel(rpc_timeout=SECONDS)


def consume(
    channel: amqpstorm.Channel, queue: str, count: int, no_ack: bool = True
) -> list[Message]:
    """Consume `count` messages in the documented loop, then cancel."""
    received: list[Message] = []

    def take(message: Message) -> None:
        received.append(message)
        if len(received) == count:
            channel.basic.cancel(tag)

    watch = threading.Timer(SECONDS, channel.close)
    watch.start()
    tag = channel.basic.consume(take, queue, no_ack=no_ack)
    channel.start_consuming()
    watch.cancel()
    watch.join()
    assert len(received) == count
    return received


def test_work_queue_acknowledges_each_task(channel, name):
    queue = name("tasks")
    channel.queue.declare(queue, durable=True)
    for number in range(5):
        message = Message.create(channel, f"task {number}", {"delivery_mode": 2})
        message.publish(queue)
    channel.basic.qos(prefetch_count=1)
    done = []

    def work(message: Message) -> None:
        done.append((message.body, message.properties["delivery_mode"]))
        message.ack()
        if len(done) == 5:
            channel.basic.cancel(message.method["consumer_tag"])

    channel.basic.consume(work, queue)
    channel.start_consuming()

    assert done == [(f"task {number}", 2) for number in range(5)]
    assert channel.queue.declare(queue, passive=True)["message_count"] == 0
    channel.queue.delete(queue, if_empty=True)


def test_fanout_gives_each_queue_a_copy(channel, name):
    logs = name("logs")
    channel.exchange.declare(logs, "fanout")
    queues = [channel.queue.declare(exclusive=True)["queue"] for _ in range(2)]
    for queue in queues:
        channel.queue.bind(queue, logs)

    for line in ("one", "two"):
        channel.basic.publish(line, "", exchange=logs)

    for queue in queues:
        assert [message.body for message in consume(channel, queue, 2)] == ["one", "two"]
    channel.exchange.delete(logs)


@pytest.mark.parametrize(
    ("kind", "key", "expected"),
    [
        ("direct", "error", ["error"]),
        ("topic", "*.error", ["kern.error", "cron.error"]),
        ("topic", "kern.#", ["kern.error", "kern", "kern.a.b"]),
    ],
)
def test_binding_key_selects_messages(kind, key, expected, channel, name):
    exchange = name("exchange")
    channel.exchange.declare(exchange, kind, auto_delete=True)
    queue = channel.queue.declare(exclusive=True)["queue"]
    channel.queue.bind(queue, exchange, key)

    for published in ("error", "kern.error", "cron.error", "info", "kern", "kern.a.b"):
        channel.basic.publish(published, published, exchange=exchange)

    received = consume(channel, queue, len(expected))
    assert [message.method["routing_key"] for message in received] == expected
    assert channel.basic.get(queue) is None


def test_headers_binding_and_exchange_binding(channel, name):
    source, sink = name("source"), name("sink")
    channel.exchange.declare(source, "headers", auto_delete=True)
    channel.exchange.declare(sink, "fanout", auto_delete=True)
    queue = channel.queue.declare(exclusive=True)["queue"]
    channel.queue.bind(queue, sink)
    channel.exchange.bind(sink, source, arguments={"x-match": "all", "a": 1, "b": "two"})

    for headers in ({"a": 1, "b": "two"}, {"a": 1}, {"a": 1, "b": "two", "c": None}):
        channel.basic.publish(
            json.dumps(headers), "", exchange=source, properties={"headers": headers}
        )

    assert [json.loads(message.body) for message in consume(channel, queue, 2)] == [
        {"a": 1, "b": "two"},
        {"a": 1, "b": "two", "c": None},
    ]


def test_rpc_over_a_reply_queue(amqp_url, channel, name):
    requests = name("requests")
    channel.queue.declare(requests, auto_delete=True)

    def serve() -> None:
        with connect(amqp_url) as connection, connection.channel() as server:
            for request in consume(server, requests, 2, no_ack=False):
                properties = {"correlation_id": request.correlation_id}
                reply = Message.create(server, str(int(request.body) ** 2), properties)
                reply.publish(request.reply_to)
                request.ack()

    server = threading.Thread(target=serve)
    server.start()
    reply_to = channel.queue.declare(exclusive=True)["queue"]
    for number in (3, 12):
        request = Message.create(channel, str(number))
        request.reply_to = reply_to
        request.correlation_id = f"n{number}"
        request.publish(requests)
    replies = consume(channel, reply_to, 2)
    server.join()

    assert [(reply.correlation_id, reply.body) for reply in replies] == [
        ("n3", "9"),
        ("n12", "144"),
    ]


def test_direct_reply_to(connection, channel, name):
    requests = name("requests")
    channel.queue.declare(requests)
    replies = []
    channel.basic.consume(replies.append, "amq.rabbitmq.reply-to", no_ack=True)
    channel.basic.publish("ping", requests, properties={"reply_to": "amq.rabbitmq.reply-to"})
    server = connection.channel()
    [request] = consume(server, requests, 1)
    server.basic.publish(f"{request.body} pong", request.reply_to)

    for message in channel.build_inbound_messages(break_on_empty=False):
        replies.append(message)
        break

    assert [reply.body for reply in replies] == ["ping pong"]
    server.queue.delete(requests)


def test_confirmed_publish_answers_and_unroutable_raises(channel, name):
    channel.confirm_deliveries()
    queue = channel.queue.declare(exclusive=True)["queue"]

    assert all(channel.basic.publish("kept", queue, mandatory=True) for _ in range(20))
    with pytest.raises(AMQPMessageError, match="NO_ROUTE"):
        channel.basic.publish("lost", name("nowhere"), mandatory=True)
    assert channel.queue.purge(queue)["message_count"] == 20


def test_transaction_block_commits_and_rolls_back(channel, name):
    queue = channel.queue.declare(exclusive=True)["queue"]

    with channel.tx:
        channel.basic.publish("committed", queue)
    with channel.tx:
        channel.basic.publish("rolled back", queue)
        channel.tx.rollback()

    assert channel.basic.get(queue).body == "committed"
    assert channel.basic.get(queue) is None


def test_large_binary_body_and_headers_of_many_types_come_back_equal(channel, name):
    queue = channel.queue.declare(exclusive=True)["queue"]
    body = bytes(range(256)) * 4096 + b"\xff"
    headers = {
        "true": True,
        "false": False,
        "nothing": None,
        "integers": [0, -1, 200, 40_000, 2**31, -(2**62)],
        "text": "Grüße, 世界 \N{RABBIT FACE}",
        "table": {"inner": {"deep": ["x", 1]}},
        "ключ": "значение",
    }
    channel.basic.publish(body, queue, properties={"headers": headers, "priority": 4})

    message = channel.basic.get(queue, auto_decode=False)

    assert message.body == body
    assert message.properties["priority"] == 4
    decoded = channel.basic.get(queue)
    assert decoded is None
    assert _text(message.properties["headers"]) == headers


def _text(value: object) -> object:
    """Decode the strings that AMQPStorm leaves as bytes when it is told not to decode."""
    match value:
        case bytes():
            return value.decode()
        case dict():
            return {_text(key): _text(item) for key, item in value.items()}
        case list():
            return [_text(item) for item in value]
    return value


def test_nack_and_reject_return_or_drop(channel, name):
    queue = channel.queue.declare(exclusive=True)["queue"]
    for body in ("a", "b"):
        channel.basic.publish(body, queue)
    first, second = channel.basic.get(queue), channel.basic.get(queue)

    second.reject(requeue=False)
    first.nack(requeue=True)

    again = channel.basic.get(queue)
    assert (again.body, again.redelivered) == ("a", True)
    assert channel.basic.get(queue) is None


def test_deleted_queue_cancels_its_consumer(connection, channel, name):
    queue = name("deleted")
    channel.queue.declare(queue)
    tag = channel.basic.consume(print, queue)
    assert channel.consumer_tags == [tag]

    connection.channel().queue.delete(queue)
    channel.queue.declare(exclusive=True)  # a round trip: the cancel came before its reply

    assert channel.consumer_tags == []


@pytest.mark.parametrize(
    ("code", "text", "mistake"),
    [
        (404, "no queue", lambda channel, name: channel.queue.declare(name, passive=True)),
        (404, "no exchange", lambda channel, name: channel.queue.bind("q", name, "key")),
        (403, "reserved prefix", lambda channel, name: channel.queue.declare(f"amq.{name}")),
        (
            406,
            "inequivalent arg",
            lambda channel, _: channel.exchange.declare("amq.topic", "direct"),
        ),
    ],
)
def test_mistake_raises_with_its_code_and_spares_the_connection(
    code, text, mistake, connection, name
):
    channel = connection.channel()

    with pytest.raises(AMQPChannelError, match=text) as closed:
        mistake(channel, name("missing"))

    assert closed.value.error_code == code
    assert channel.is_closed
    assert connection.channel().is_open


def test_refused_login_raises(amqp_url):
    with (
        pytest.raises(AMQPConnectionError, match="Login was refused"),
        connect(amqp_url, password="wrong"),
    ):
        pass


def test_server_properties_and_limits_are_those_of_the_handshake(amqp_url):
    with connect(amqp_url, heartbeat=30) as connection:
        properties = connection.server_properties

        assert connection.max_allowed_channels == 2047
        assert connection.max_frame_size == 131072
        assert not connection.is_blocked
    text = _text(properties)
    assert text["product"] == "RabbitMQ"
    assert text["capabilities"]["connection.blocked"] is True


def test_channel_of_one_connection_serves_several_threads(connection, name):
    queue = name("threads")
    setup = connection.channel()
    setup.queue.declare(queue)

    def publish(label: str) -> None:
        with connection.channel() as channel:
            channel.confirm_deliveries()
            for number in range(25):
                channel.basic.publish(f"{label} {number}", queue)

    threads = [threading.Thread(target=publish, args=(label,)) for label in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    bodies = [message.body for message in consume(setup, queue, 100)]
    for label in "abcd":
        own = [body for body in bodies if body.startswith(label)]
        assert own == [f"{label} {number}" for number in range(25)]
    setup.queue.delete(queue)
