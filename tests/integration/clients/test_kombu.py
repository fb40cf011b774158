"""kombu over py-amqp: declarative entities, producers, consumers, simple queues, mixins, pools."""

import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import kombu
import pytest
from amqp.exceptions import (
    AccessRefused,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from kombu import Consumer, Exchange, Producer, Queue, binding
from kombu.mixins import ConsumerProducerMixin
from kombu.pools import producers

SECONDS = 10  # for anything that must arrive


@pytest.fixture
def connection(amqp_url):
    with kombu.Connection(f"{amqp_url}//") as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.default_channel


@pytest.fixture
def producer(channel):
    return Producer(channel)


def drain(connection: kombu.Connection, received: list, count: int) -> None:
    """Serve the connection until `received` has `count` items."""
    until = time.monotonic() + SECONDS
    while len(received) < count and time.monotonic() < until:
        try:
            connection.drain_events(timeout=1)
        except TimeoutError:
            continue
    assert len(received) == count, received


def collector(channel, queues, **options) -> tuple[Consumer, list]:
    """Make a consumer that appends (payload, message) to a list."""
    received: list = []
    consumer = Consumer(
        channel,
        queues,
        callbacks=[lambda payload, message: received.append((payload, message))],
        **options,
    )
    return consumer, received


def settled(count: Callable[[], int], expected: int) -> int:
    """Count until it is as expected; RabbitMQ may answer before it has stored all it was sent."""
    until = time.monotonic() + SECONDS
    while (seen := count()) != expected and time.monotonic() < until:
        pass
    return seen


def ready(channel, queue: Queue, expected: int) -> int:
    """Return how many messages wait in `queue`, as soon as they are as many as expected."""
    return settled(lambda: queue(channel).queue_declare(passive=True).message_count, expected)


def payloads(received: list) -> list:
    return [payload for payload, _message in received]


# -- producers and consumers


def test_work_queue_with_prefetch_of_one(connection, producer, name):
    tasks = Queue(name("tasks"), Exchange(name("tasks")), routing_key="task")
    for number in range(3):
        producer.publish({"task": number}, "task", exchange=tasks.exchange, declare=[tasks])
    consumer, received = collector(connection.channel(), tasks)
    consumer.qos(prefetch_count=1)

    with consumer:
        for count in (1, 2, 3):
            drain(connection, received, count)
            assert ready(connection.default_channel, tasks, 3 - count) == 3 - count
            received[-1][1].ack()

    assert payloads(received) == [{"task": 0}, {"task": 1}, {"task": 2}]
    assert received[0][1].properties["delivery_mode"] == 2
    tasks(connection.default_channel).delete()


@pytest.mark.parametrize("serializer", ["json", "yaml"])
@pytest.mark.parametrize("compression", [None, "zlib", "bzip2"])
def test_payload_survives_serializer_and_compression(
    serializer, compression, connection, producer, name
):
    queue = Queue(name("codec"), exclusive=True)
    payload = {"text": "Grüße, 世界", "numbers": [1, 2.5, None], "long": "x" * 10_000}

    producer.publish(
        payload,
        routing_key=queue.name,
        declare=[queue],
        serializer=serializer,
        compression=compression,
    )
    consumer, received = collector(connection.default_channel, queue, no_ack=True)
    consumer.accept = {"application/json", "application/x-yaml"}
    with consumer:
        drain(connection, received, 1)

    assert received[0][1].decode() == payload
    assert received[0][1].content_encoding == "utf-8"


def test_fanout_reaches_two_consumers_of_one_channel(connection, producer, name):
    news = Exchange(name("news"), "fanout", durable=False, auto_delete=True)
    queues = [Queue("", news, exclusive=True) for _ in range(2)]
    bound = [queue(connection.default_channel) for queue in queues]
    for queue in bound:
        queue.declare()

    producer.publish("hello", exchange=news)

    names = {queue.name for queue in bound}
    assert len(names) == 2
    consumer, received = collector(
        connection.default_channel, bound, no_ack=True, auto_declare=False
    )
    with consumer:
        drain(connection, received, 2)
    assert payloads(received) == ["hello", "hello"]


@pytest.mark.parametrize(
    ("kind", "key", "expected"),
    [
        ("direct", "error", ["error"]),
        ("topic", "*.error", ["kern.error", "cron.error"]),
        ("topic", "kern.#", ["kern.error", "kern", "kern.a.b"]),
    ],
)
def test_binding_key_selects_messages(kind, key, expected, connection, producer, name):
    exchange = Exchange(name("exchange"), kind, auto_delete=True)
    queue = Queue(name("queue"), exchange, routing_key=key, exclusive=True)
    consumer, received = collector(connection.default_channel, queue, no_ack=True)

    with consumer:
        for published in ("error", "kern.error", "cron.error", "info", "kern", "kern.a.b"):
            producer.publish(published, published, exchange=exchange)
        drain(connection, received, len(expected))

    assert payloads(received) == expected


def test_several_bindings_and_an_unbind(channel, producer, name):
    exchange = Exchange(name("exchange"), "direct", auto_delete=True)
    queue = Queue(
        name("queue"),
        bindings=[binding(exchange, routing_key=key) for key in ("a", "b")],
        exclusive=True,
    )(channel)
    queue.declare()
    for key in ("a", "b", "c"):
        producer.publish(key, key, exchange=exchange)

    queue.unbind_from(exchange(channel), "a")
    for key in ("a", "b"):
        producer.publish(key, key, exchange=exchange)

    got = [queue.get(no_ack=True) for _ in range(4)]
    assert [message and message.payload for message in got] == ["a", "b", "b", None]


def test_exchanges_bound_to_each_other_and_headers(channel, producer, name):
    source = Exchange(name("source"), "headers", auto_delete=True)(channel)
    middle = Exchange(name("middle"), "topic", auto_delete=True)(channel)
    queue = Queue(name("queue"), middle, routing_key="#", exclusive=True)(channel)
    source.declare()
    queue.declare()
    middle.bind_to(source, arguments={"x-match": "all", "kind": "audit", "level": 3})

    producer.publish("yes", "k", exchange=source, headers={"kind": "audit", "level": 3})
    producer.publish("no", "k", exchange=source, headers={"kind": "audit"})
    middle.unbind_from(source, arguments={"x-match": "all", "kind": "audit", "level": 3})

    assert queue.get(no_ack=True).payload == "yes"
    assert queue.get() is None
    with pytest.raises(NotFound):  # its last binding went: auto-delete
        source.declare(passive=True)


def test_simple_queue_gives_back_what_was_not_acknowledged(connection, name):
    with connection.clone() as other, other.SimpleQueue(name("simple")) as queue:
        for number in range(3):
            queue.put({"n": number})
        assert settled(queue.qsize, 3) == 3
        first, second = queue.get(timeout=SECONDS), queue.get(timeout=SECONDS)
        first.ack()
    with connection.SimpleQueue(name("simple")) as queue:
        again, last = queue.get(timeout=SECONDS), queue.get(timeout=SECONDS)

        assert (first.payload, second.payload) == ({"n": 0}, {"n": 1})
        assert (again.payload, again.delivery_info["redelivered"]) == ({"n": 1}, True)
        assert last.payload == {"n": 2}
        again.ack()
        last.ack()
        with pytest.raises(queue.Empty):
            queue.get_nowait()
    assert queue.queue(connection.channel()).delete(if_unused=True, if_empty=True) == 0


def test_simple_buffer_is_transient_and_needs_no_acknowledgement(connection, name):
    with connection.clone() as other, other.SimpleBuffer(name("buffer")) as buffer:
        buffer.put("fast")
        message = buffer.get(timeout=SECONDS)

    assert (message.payload, message.properties["delivery_mode"]) == ("fast", 1)
    with connection.SimpleBuffer(name("buffer")) as buffer:
        assert buffer.qsize() == 0


def test_requeue_and_reject(connection, producer, name):
    queue = Queue(name("queue"), expires=60)
    for body in ("first", "second"):
        producer.publish(body, routing_key=queue.name, declare=[queue])
    consumer, received = collector(connection.default_channel, queue)
    with consumer:
        drain(connection, received, 2)
        received[1][1].reject()
        received[0][1].requeue()
        drain(connection, received, 3)
        received[2][1].ack()

    assert payloads(received) == ["first", "second", "first"]
    assert received[2][1].delivery_info["redelivered"] is True
    assert queue(connection.default_channel).get() is None


def test_channel_wide_prefetch_follows_every_change(connection, producer, name):
    queue = Queue(name("window"), exclusive=True)
    for number in range(6):
        producer.publish(number, routing_key=queue.name, declare=[queue])
    consumer, received = collector(connection.default_channel, queue)
    consumer.qos(prefetch_count=1, apply_global=True)

    with consumer:
        drain(connection, received, 1)
        consumer.qos(prefetch_count=3, apply_global=True)
        drain(connection, received, 3)
        consumer.qos(prefetch_count=1, apply_global=True)
        received[0][1].ack()
        received[1][1].ack()
        assert ready(connection.channel(), queue, 3) == 3
        received[2][1].ack()
        drain(connection, received, 4)

    assert payloads(received) == [0, 1, 2, 3]


# -- RPC


def test_rpc_with_a_mixin_that_consumes_and_produces(amqp_url, connection, name):
    requests = Queue(name("requests"), auto_delete=True)

    class Squares(ConsumerProducerMixin):
        def __init__(self) -> None:
            self.connection = kombu.Connection(f"{amqp_url}//")
            self.ready = threading.Event()

        def get_consumers(self, Consumer, channel):
            return [Consumer(requests, on_message=self.on_request, prefetch_count=1)]

        def on_consume_ready(self, connection, channel, consumers, **_):
            self.ready.set()

        def on_request(self, message):
            self.producer.publish(
                message.payload**2,
                routing_key=message.properties["reply_to"],
                correlation_id=message.properties["correlation_id"],
                retry=True,
            )
            message.ack()

    squares = Squares()
    server = threading.Thread(target=squares.run)
    server.start()
    try:
        assert squares.ready.wait(SECONDS)
        replies_to = Queue("", exclusive=True)(connection.default_channel)
        replies_to.declare()
        consumer, replies = collector(
            connection.default_channel, replies_to, no_ack=True, auto_declare=False
        )
        producer = Producer(connection.default_channel)
        with consumer:
            for number in (3, 12):
                producer.publish(
                    number,
                    routing_key=requests.name,
                    reply_to=replies_to.name,
                    correlation_id=f"n{number}",
                )
            drain(connection, replies, 2)
    finally:
        squares.should_stop = True
        server.join()
        squares.producer_connection.release()
        squares.connection.release()

    assert [(message.properties["correlation_id"], payload) for payload, message in replies] == [
        ("n3", 9),
        ("n12", 144),
    ]


def test_direct_reply_to(connection, channel, name):
    requests = Queue(name("requests"), exclusive=True)(channel)
    requests.declare()
    pseudo = Queue("amq.rabbitmq.reply-to", no_declare=True)
    consumer, replies = collector(channel, pseudo, no_ack=True, auto_declare=False)

    with consumer:
        Producer(channel).publish("ping", requests.name, reply_to="amq.rabbitmq.reply-to")
        request = requests.get(no_ack=True)
        Producer(connection.channel()).publish("pong", request.properties["reply_to"])
        drain(connection, replies, 1)

    assert payloads(replies) == ["pong"]


# -- publishing


def test_confirmed_publish_waits_for_the_broker(amqp_url, name):
    with kombu.Connection(
        f"{amqp_url}//", transport_options={"confirm_publish": True}
    ) as connection:
        queue = Queue(name("confirmed"), exclusive=True)
        producer = connection.Producer()

        for number in range(10):
            producer.publish(
                number, routing_key=queue.name, declare=[queue], confirm_timeout=SECONDS
            )

        assert queue(connection.default_channel).purge() == 10


def test_mandatory_message_without_a_queue_is_returned(connection, name):
    returned = []
    producer = connection.Producer(
        on_return=lambda exception, exchange, key, message: returned.append(
            (exception.reply_code, exception.reply_text, exchange, key, message.body)
        )
    )

    producer.publish("lost", routing_key=name("nowhere"), mandatory=True)
    drain(connection, returned, 1)

    assert returned == [(312, "NO_ROUTE", "", name("nowhere"), "lost")]


def test_large_message_and_headers_of_every_type_come_back_equal(channel, producer, name):
    queue = Queue(name("headers"), exclusive=True)(channel)
    queue.declare()
    headers = {
        "true": True,
        "nothing": None,
        "integers": [0, -1, 127, 255, 40_000, 2**31, -(2**31), 2**40, 2**62],
        "float": 0.1,
        "decimal": Decimal("12.34"),
        "text": "Grüße, 世界 \N{RABBIT FACE}",
        "bytes": b"\x00\xff\xfe",
        "time": datetime(2024, 2, 29, 12, 30, 1, tzinfo=UTC),
        "table": {"inner": [{"deep": "x"}], "empty": {}},
        "ключ": "значение",
    }
    body = bytes(range(256)) * 4096 + b"end"

    producer.publish(
        body,
        routing_key=queue.name,
        headers=headers,
        content_type="application/data",
        content_encoding="binary",
        priority=6,
        expiration=60,
        message_id="m",
        type="t",
        app_id="a",
    )
    message = queue.get(no_ack=True)

    assert message.body == body
    received = message.headers | {"time": message.headers["time"].replace(tzinfo=UTC)}
    assert received == headers
    expected = {"priority": 6, "expiration": "60000", "message_id": "m", "type": "t", "app_id": "a"}
    assert {key: message.properties[key] for key in expected} == expected


# -- errors and the connection


def exclusive_elsewhere(connection, name):
    Queue(name, exclusive=True)(connection.default_channel).declare()
    with connection.clone() as other:
        Queue(name, exclusive=True)(other.default_channel).declare()


def declared_otherwise(connection, name):
    Queue(name, auto_delete=True, expires=60)(connection.default_channel).declare()
    Queue(name, auto_delete=True, expires=90)(connection.default_channel).declare()


@pytest.mark.parametrize(
    ("error", "text", "mistake"),
    [
        (
            NotFound,
            "no queue",
            lambda connection, name: Queue(name)(connection.default_channel).get(),
        ),
        (
            NotFound,
            "no exchange",
            lambda connection, name: Queue(
                f"{name}-q", Exchange(name, no_declare=True), exclusive=True
            )(connection.default_channel).declare(),
        ),
        (
            AccessRefused,
            "reserved prefix",
            lambda connection, name: Queue(f"amq.{name}")(connection.default_channel).declare(),
        ),
        (PreconditionFailed, "inequivalent arg 'x-expires'", declared_otherwise),
        (ResourceLocked, "exclusive access", exclusive_elsewhere),
    ],
)
def test_mistake_raises_its_exception_and_spares_the_connection(
    error, text, mistake, connection, name
):
    with pytest.raises(error, match=text) as raised:
        mistake(connection, name("mistake"))

    assert raised.value.reply_code == error.code
    assert connection.connected
    assert connection.channel().is_open


def test_refused_login_and_unknown_vhost_raise(amqp_url):
    wrong = amqp_url.replace(":guest@", ":wrong@")
    with (
        pytest.raises(AccessRefused, match="Login was refused"),
        kombu.Connection(f"{wrong}//") as connection,
    ):
        connection.connect()

    with (
        pytest.raises(NotAllowed, match="vhost nowhere not found"),
        kombu.Connection(f"{amqp_url}/nowhere") as connection,
    ):
        connection.connect()


def test_broker_is_recognised_and_its_qos_is_channel_wide(connection):
    connection.connect()
    announced = connection.connection.server_properties

    assert announced["product"] == "RabbitMQ"
    assert announced["capabilities"]["connection.blocked"] is True
    assert connection.qos_semantics_matches_spec is False  # 3.3 <= version < 4.0


def test_heartbeat_is_negotiated_and_kept(amqp_url):
    with kombu.Connection(f"{amqp_url}//", heartbeat=1) as connection:
        connection.connect()
        assert connection.get_heartbeat_interval() == 1
        until = time.monotonic() + 2.6  # the broker gives up after 2 to 3 s of silence
        while time.monotonic() < until:
            connection.heartbeat_check()
            with pytest.raises(socket.timeout):
                connection.drain_events(timeout=0.4)

        assert connection.default_channel.queue_declare("", exclusive=True).message_count == 0


def test_deleted_queue_cancels_its_consumer(connection, name):
    queue = Queue(name("deleted"))(connection.default_channel)
    queue.declare()
    cancelled = []
    connection.default_channel.basic_consume(
        queue.name, consumer_tag="told", on_cancel=cancelled.append
    )

    connection.channel().queue_delete(queue.name)
    drain(connection, cancelled, 1)

    assert cancelled == ["told"]
    assert connection.default_channel.is_open


def test_publish_with_retry_reconnects_after_the_wire_was_cut(relay, name):
    with kombu.Connection(f"{relay.url}//") as connection:
        queue = Queue(name("retry"), Exchange(name("retry"), auto_delete=True), "k")
        producer = connection.Producer()
        producer.publish("before", "k", exchange=queue.exchange, declare=[queue])
        assert ready(connection.default_channel, queue, 1) == 1
        assert relay.cut() == 1

        for number in range(3):
            producer.publish(
                number,
                "k",
                exchange=queue.exchange,
                declare=[queue],
                retry=True,
                retry_policy={"interval_start": 0, "max_retries": 5},
            )

        bound = queue(connection.default_channel)
        got = [bound.get(no_ack=True).payload for _ in range(4)]
        bound.delete()
    assert got == ["before", 0, 1, 2]


@pytest.mark.long
def test_ensured_consumer_survives_a_restart(server, name):
    queue = Queue(name("ensured"), Exchange(name("ensured")), "k")
    received: list = []
    with kombu.Connection(f"{server.url}//") as connection:

        def drain_until_two(channel: object) -> None:
            with Consumer(channel, queue, on_message=lambda m: received.append(m.payload)):
                Producer(channel).publish(len(received), "k", exchange=queue.exchange)
                drain(connection, received, 1 if not received else 2)

        serve = connection.autoretry(drain_until_two, interval_start=0, max_retries=20)
        serve()
        server.stop()
        server.start()
        serve()

    assert received == [0, 1]


def test_producer_pool_hands_out_working_producers(amqp_url, name):
    connection = kombu.Connection(f"{amqp_url}//")
    queue = Queue(name("pool"), expires=60)
    pool = producers[connection]

    with pool.acquire(block=True) as first, pool.acquire(block=True) as second:
        for producer, body in ((first, "one"), (second, "two")):
            producer.publish(body, routing_key=queue.name, declare=[queue])
        assert first.connection is not second.connection
    with connection, connection.channel() as channel:
        got = [queue(channel).get(no_ack=True).payload for _ in range(2)]

    assert sorted(got) == ["one", "two"]
    pool.force_close_all()
    kombu.pools.reset()
