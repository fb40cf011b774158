"""pika: the blocking adapter as in its tutorials, and the select adapter with callbacks."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionBlockedTimeout,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    StreamLostError,
    UnroutableError,
)

from ...support.leveret import leveret
from .relay import Relay

SECONDS = 10  # for anything that must arrive
PERSISTENT = pika.BasicProperties(delivery_mode=2)


@contextmanager
def connect(url: str, **parameters: object) -> Iterator[pika.BlockingConnection]:
    """Open a blocking connection, and close it unless the broker already has."""
    settings = pika.URLParameters(f"{url}/%2f")
    for attribute, value in parameters.items():
        setattr(settings, attribute, value)
    connection = pika.BlockingConnection(settings)
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


@pytest.fixture
def connection(amqp_url):
    with connect(amqp_url) as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def low_memory_url():
    """The address of a Leveret that is over its limit from the start."""
    with leveret(environment={"LEVERET_MEMORY_LIMIT": "1MiB"}) as server:
        yield f"amqp://guest:guest@{server.host}:{server.port}"


def pump(channel: BlockingChannel, received: list, count: int) -> None:
    """Serve the connection until `received` has `count` items."""
    until = time.monotonic() + SECONDS
    while len(received) < count and time.monotonic() < until:
        channel.connection.process_data_events(time_limit=0.5)
    assert len(received) == count, received


def settle(channel: BlockingChannel) -> None:
    """Make a round trip, so that all the broker had to send before has been handled."""
    channel.exchange_declare("amq.direct", passive=True)
    channel.connection.process_data_events(time_limit=0)


def collect(channel: BlockingChannel, queue: str, **options: object) -> list:
    """Consume from `queue` into the list that is returned."""
    received: list = []
    channel.basic_consume(
        queue,
        lambda _channel, method, properties, body: received.append((method, properties, body)),
        **options,
    )
    return received


def bodies(received: list) -> list[bytes]:
    return [body for _method, _properties, body in received]


def get(channel: BlockingChannel, queue: str) -> bytes | None:
    return channel.basic_get(queue, auto_ack=True)[2]


def assert_ready(channel: BlockingChannel, queue: str, count: int) -> None:
    """Assert how many messages wait; RabbitMQ may answer before it has stored all it was sent."""
    until = time.monotonic() + SECONDS
    while True:
        seen = channel.queue_declare(queue, passive=True).method.message_count
        if seen == count or time.monotonic() > until:
            break
    assert seen == count


# -- the tutorials


def test_work_queue_gives_a_worker_the_next_task_when_it_acknowledged_the_last(
    connection, channel, name
):
    tasks = name("tasks")
    channel.queue_declare(tasks, durable=True)
    workers = [connection.channel(), connection.channel()]
    inboxes = []
    for worker in workers:
        worker.basic_qos(prefetch_count=1)
        inboxes.append(collect(worker, tasks))

    for number in range(4):
        channel.basic_publish("", tasks, b"task %d" % number, PERSISTENT)
    for worker, inbox in zip(workers, inboxes, strict=True):
        pump(worker, inbox, 1)

    assert sorted(bodies(inboxes[0] + inboxes[1])) == [b"task 0", b"task 1"]
    assert_ready(channel, tasks, 2)
    workers[1].basic_ack(inboxes[1][0][0].delivery_tag)
    pump(workers[1], inboxes[1], 2)
    assert len(inboxes[0]) == 1
    assert inboxes[1][1][2] == b"task 2"
    assert inboxes[1][1][1].delivery_mode == 2


def test_unacknowledged_task_goes_to_another_worker_when_its_worker_dies(amqp_url, channel, name):
    tasks = name("tasks")
    channel.queue_declare(tasks, durable=True)
    channel.basic_publish("", tasks, b"task", PERSISTENT)
    with connect(amqp_url) as dying:
        worker = dying.channel()
        pump(worker, collect(worker, tasks), 1)
    received = collect(channel, tasks)
    pump(channel, received, 1)

    assert received[0][0].redelivered
    assert received[0][2] == b"task"


def test_fanout_gives_each_subscriber_every_message(amqp_url, channel, name):
    logs = name("logs")
    channel.exchange_declare(logs, "fanout")
    with connect(amqp_url) as first, connect(amqp_url) as second:
        subscribers = [first.channel(), second.channel()]
        inboxes = []
        for subscriber in subscribers:
            queue = subscriber.queue_declare("", exclusive=True).method.queue
            subscriber.queue_bind(queue, logs)
            inboxes.append(collect(subscriber, queue, auto_ack=True))

            assert re.fullmatch(r"amq\.gen-[\w-]{22}", queue)

        for number in range(5):
            channel.basic_publish(logs, "ignored", b"line %d" % number)
        for subscriber, inbox in zip(subscribers, inboxes, strict=True):
            pump(subscriber, inbox, 5)

        expected = [b"line %d" % number for number in range(5)]
        assert [expected, expected] == [bodies(inbox) for inbox in inboxes]


def test_direct_exchange_routes_by_severity(channel, name):
    logs = name("logs")
    channel.exchange_declare(logs, "direct")
    to_disk = channel.queue_declare("", exclusive=True).method.queue
    to_screen = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(to_disk, logs, "error")
    for severity in ("info", "warning", "error"):
        channel.queue_bind(to_screen, logs, severity)
    disk = collect(channel, to_disk, auto_ack=True)
    screen = collect(channel, to_screen, auto_ack=True)

    for severity in ("info", "error", "debug", "warning", "error"):
        channel.basic_publish(logs, severity, severity.encode())
    pump(channel, screen, 4)
    pump(channel, disk, 2)

    assert bodies(screen) == [b"info", b"error", b"warning", b"error"]
    assert bodies(disk) == [b"error", b"error"]
    assert {method.routing_key for method, _, _ in disk} == {"error"}
    assert {method.exchange for method, _, _ in disk} == {logs}


def test_topic_exchange_matches_words(channel, name):
    animals = name("animals")
    channel.exchange_declare(animals, "topic")
    patterns = {
        "orange": ["*.orange.*"],
        "rabbits": ["*.*.rabbit", "lazy.#"],
        "all": ["#"],
    }
    inboxes = {}
    for label, keys in patterns.items():
        queue = channel.queue_declare("", exclusive=True).method.queue
        for key in keys:
            channel.queue_bind(queue, animals, key)
        inboxes[label] = collect(channel, queue, auto_ack=True)
    published = [
        "quick.orange.rabbit",
        "lazy.orange.elephant",
        "quick.brown.fox",
        "lazy",
        "lazy.pink.rabbit",
        "orange",
        "quick.orange.new.rabbit",
        "",
    ]

    for key in published:
        channel.basic_publish(animals, key, key.encode())
    for label, count in (("all", 8), ("orange", 2), ("rabbits", 4)):
        pump(channel, inboxes[label], count)

    def keys(label: str) -> list[str]:
        return [method.routing_key for method, _, _ in inboxes[label]]

    assert keys("all") == published
    assert keys("orange") == ["quick.orange.rabbit", "lazy.orange.elephant"]
    assert keys("rabbits") == [
        "quick.orange.rabbit",
        "lazy.orange.elephant",
        "lazy",
        "lazy.pink.rabbit",
    ]


def test_rpc_over_a_reply_queue(connection, channel, name):
    requests = name("fibonacci")
    server = connection.channel()
    server.queue_declare(requests)
    server.basic_qos(prefetch_count=1)

    def serve(server, method, properties, body):
        answer = b"%d" % (int(body) ** 2)
        same = pika.BasicProperties(correlation_id=properties.correlation_id)
        server.basic_publish("", properties.reply_to, answer, same)
        server.basic_ack(method.delivery_tag)

    server.basic_consume(requests, serve)
    replies_to = channel.queue_declare("", exclusive=True).method.queue
    replies = collect(channel, replies_to, auto_ack=True)
    for number in (3, 12):
        channel.basic_publish(
            "",
            requests,
            b"%d" % number,
            pika.BasicProperties(reply_to=replies_to, correlation_id=f"n{number}"),
        )
    pump(channel, replies, 2)

    assert [(properties.correlation_id, body) for _, properties, body in replies] == [
        ("n3", b"9"),
        ("n12", b"144"),
    ]


def test_rpc_over_direct_reply_to_needs_no_queue(amqp_url, connection, channel, name):
    requests = name("requests")
    server = connection.channel()
    server.queue_declare(requests)
    pseudo = "amq.rabbitmq.reply-to"
    replies = collect(channel, pseudo, auto_ack=True)
    channel.basic_publish("", requests, b"ping", pika.BasicProperties(reply_to=pseudo))
    received = collect(server, requests, auto_ack=True)
    pump(server, received, 1)
    reply_to = received[0][1].reply_to
    server.basic_publish("", reply_to, b"pong")
    pump(channel, replies, 1)

    assert reply_to.startswith(f"{pseudo}.")
    assert replies[0][2] == b"pong"
    assert server.queue_declare(reply_to, passive=True).method.consumer_count == 1
    channel.close()
    with pytest.raises(ChannelClosedByBroker) as gone:
        server.queue_declare(reply_to, passive=True)
    assert gone.value.reply_code == 404


def test_direct_reply_to_without_its_consumer_is_refused(channel, name):
    channel.basic_publish(
        "", name("any"), b"", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
    )
    with pytest.raises(ChannelClosedByBroker) as refused:
        settle(channel)

    assert refused.value.reply_code == 406
    assert refused.value.reply_text == "PRECONDITION_FAILED - fast reply consumer does not exist"


# -- publishing


def test_confirmed_publish_returns_when_the_broker_has_the_message(channel, name):
    queue = name("confirmed")
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()

    for number in range(20):
        channel.basic_publish("", queue, b"%d" % number, PERSISTENT, mandatory=True)

    assert_ready(channel, queue, 20)


def test_confirmed_mandatory_publish_without_a_queue_raises_with_the_message(channel, name):
    channel.confirm_delivery()
    nowhere = name("nowhere")

    with pytest.raises(UnroutableError) as unroutable:
        channel.basic_publish(
            "amq.direct", nowhere, b"lost", pika.BasicProperties(app_id="me"), mandatory=True
        )

    [returned] = unroutable.value.messages
    assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
    assert (returned.method.exchange, returned.method.routing_key) == ("amq.direct", nowhere)
    assert (returned.properties.app_id, returned.body) == ("me", b"lost")
    channel.basic_publish("amq.direct", nowhere, b"not mandatory: dropped in silence")


def test_mandatory_publish_without_confirms_reaches_the_return_callback(channel, name):
    returned = []
    channel.add_on_return_callback(lambda *arguments: returned.append(arguments[1:]))
    nowhere = name("nowhere")

    for number in range(3):
        channel.basic_publish("", nowhere, b"%d" % number, mandatory=True)
    pump(channel, returned, 3)

    assert bodies(returned) == [b"0", b"1", b"2"]
    assert {method.reply_code for method, _, _ in returned} == {312}


def test_large_message_crosses_many_frames_unchanged(channel, name):
    queue = name("large")
    channel.queue_declare(queue)
    body = bytes(range(256)) * 4096 + b"end"

    channel.basic_publish("", queue, body)
    channel.basic_publish("", queue, b"")
    received = collect(channel, queue, auto_ack=True)
    pump(channel, received, 2)

    assert bodies(received) == [body, b""]


def test_small_frames_are_negotiated_and_kept(amqp_url, name):
    with connect(amqp_url, frame_max=4096) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        body = bytes(100_000)

        channel.basic_publish("", queue, body)

        assert get(channel, queue) == body


HEADERS = {
    "true": True,
    "false": False,
    "nothing": None,
    "small": 7,
    "negative": -7,
    "wide": 2**31 + 5,
    "widest": 2**63 - 1,
    "lowest": -(2**63),
    "decimal": Decimal("3.14"),
    "text": "Grüße, 世界 \N{RABBIT FACE}",
    "bytes": b"\x00\xff\xfe",
    "time": datetime(2024, 2, 29, 12, 30, 1, tzinfo=UTC),
    "list": [1, "two", [3, None], {"four": True}],
    "table": {"inner": {"innermost": ["x", -1]}, "": "empty name"},
    "ключ": "значение",
}


def test_headers_of_every_type_come_back_equal(channel, name):
    queue = name("headers")
    channel.queue_declare(queue)

    channel.basic_publish("", queue, b"", pika.BasicProperties(headers=HEADERS))
    _method, properties, _body = channel.basic_get(queue, auto_ack=True)

    assert properties.headers == HEADERS
    assert type(properties.headers["true"]) is bool
    assert type(properties.headers["bytes"]) is bytes


def test_all_properties_come_back_equal(channel, name):
    queue = name("properties")
    channel.queue_declare(queue)
    sent = pika.BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        headers={"n": 1},
        delivery_mode=2,
        priority=9,
        correlation_id="correlation-é",
        reply_to="replies",
        expiration="60000",
        message_id="id-1",
        timestamp=1_700_000_000,
        type="kind",
        user_id="guest",
        app_id="app",
        cluster_id="cluster",
    )

    channel.basic_publish("", queue, b"", sent)
    _method, received, _body = channel.basic_get(queue, auto_ack=True)

    assert sent == received


def test_transaction_publishes_on_commit_and_forgets_on_rollback(channel, connection, name):
    queue = name("tx")
    observer = connection.channel()
    channel.queue_declare(queue)
    channel.tx_select()

    channel.basic_publish("", queue, b"forgotten")
    channel.tx_rollback()
    channel.basic_publish("", queue, b"kept")

    assert_ready(observer, queue, 0)
    channel.tx_commit()
    assert_ready(observer, queue, 1)
    assert get(observer, queue) == b"kept"


# -- consuming


def test_get_reports_what_is_left_and_none_when_empty(channel, name):
    queue = name("get")
    channel.queue_declare(queue)
    for number in range(3):
        channel.basic_publish("", queue, b"%d" % number)

    got = [channel.basic_get(queue, auto_ack=True) for _ in range(4)]

    assert bodies(got) == [b"0", b"1", b"2", None]
    assert [method.message_count for method, _, _ in got[:3]] == [2, 1, 0]
    assert got[3] == (None, None, None)


def test_nack_puts_messages_back_in_publication_order(channel, name):
    queue = name("nack")
    channel.queue_declare(queue)
    for number in range(4):
        channel.basic_publish("", queue, b"%d" % number)
    tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(3)]

    channel.basic_ack(tags[1])
    channel.basic_nack(tags[2], multiple=True, requeue=True)

    got = [channel.basic_get(queue) for _ in range(3)]
    assert bodies(got) == [b"0", b"2", b"3"]
    assert [method.redelivered for method, _, _ in got] == [True, True, False]


def test_reject_without_requeue_drops_the_message(channel, name):
    queue = name("reject")
    channel.queue_declare(queue)
    channel.basic_publish("", queue, b"poison")

    channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)

    assert_ready(channel, queue, 0)
    channel.close()
    assert_ready(channel.connection.channel(), queue, 0)


def test_recover_redelivers_what_is_not_acknowledged(channel, name):
    queue = name("recover")
    channel.queue_declare(queue)
    for number in range(2):
        channel.basic_publish("", queue, b"%d" % number)
    received = collect(channel, queue)
    pump(channel, received, 2)

    channel.basic_recover(requeue=True)
    pump(channel, received, 4)

    assert bodies(received) == [b"0", b"1", b"0", b"1"]
    assert [method.redelivered for method, _, _ in received] == [False, False, True, True]


def test_consume_generator_yields_and_gives_back_what_it_prefetched(channel, name):
    queue = name("generator")
    channel.queue_declare(queue)
    for number in range(10):
        channel.basic_publish("", queue, b"%d" % number)

    taken = []
    for method, _properties, body in channel.consume(queue, inactivity_timeout=SECONDS):
        taken.append(body)
        channel.basic_ack(method.delivery_tag)
        if len(taken) == 3:
            break
    channel.cancel()

    assert taken == [b"0", b"1", b"2"]
    assert_ready(channel, queue, 7)


def test_channel_wide_prefetch_moves_on_live_consumers(channel, name):
    queue = name("window")
    channel.queue_declare(queue)
    channel.basic_qos(prefetch_count=2, global_qos=True)
    first, second = collect(channel, queue), collect(channel, queue)
    for number in range(10):
        channel.basic_publish("", queue, b"%d" % number)
    assert_ready(channel, queue, 8)

    channel.basic_qos(prefetch_count=5, global_qos=True)
    assert_ready(channel, queue, 5)
    settle(channel)

    assert len(first) + len(second) == 5
    assert_ready(channel, queue, 5)


def test_cancelled_consumer_gets_nothing_more(channel, name):
    queue = name("cancel")
    channel.queue_declare(queue)
    received = collect(channel, queue, auto_ack=True, consumer_tag="mine")

    assert channel.consumer_tags == ["mine"]
    channel.basic_cancel("mine")
    channel.basic_publish("", queue, b"after")
    settle(channel)

    assert received == []
    assert get(channel, queue) == b"after"


def test_consumer_is_told_when_its_queue_is_deleted(connection, channel, name):
    queue = name("deleted")
    channel.queue_declare(queue)
    cancelled = []
    channel.add_on_cancel_callback(cancelled.append)
    channel.basic_consume(queue, lambda *_: None, consumer_tag="told")

    connection.channel().queue_delete(queue)
    pump(channel, cancelled, 1)

    assert cancelled[0].method.consumer_tag == "told"
    assert channel.is_open
    assert channel.consumer_tags == []


def test_higher_consumer_priority_is_served_first(connection, channel, name):
    queue = name("priority")
    channel.queue_declare(queue)
    low_channel, high_channel = connection.channel(), connection.channel()
    low = collect(low_channel, queue, arguments={"x-priority": -1})
    high_channel.basic_qos(prefetch_count=2)
    high = collect(high_channel, queue, arguments={"x-priority": 5})

    for number in range(3):
        channel.basic_publish("", queue, b"%d" % number)
    pump(high_channel, high, 2)
    pump(low_channel, low, 1)

    assert bodies(high) == [b"0", b"1"]
    assert bodies(low) == [b"2"]


# -- topology


def test_headers_exchange_matches_all_or_any(channel, name):
    exchange = name("reports")
    channel.exchange_declare(exchange, "headers")
    queues = {}
    for match in ("all", "any"):
        queues[match] = channel.queue_declare("", exclusive=True).method.queue
        arguments = {"x-match": match, "format": "pdf", "pages": 3}
        channel.queue_bind(queues[match], exchange, arguments=arguments)

    for headers in ({"format": "pdf", "pages": 3}, {"format": "pdf"}, {"pages": "3"}, {}):
        channel.basic_publish(
            exchange, "", repr(headers).encode(), pika.BasicProperties(headers=headers)
        )

    assert_ready(channel, queues["all"], 1)
    assert [get(channel, queues["any"]) for _ in range(3)] == [
        b"{'format': 'pdf', 'pages': 3}",
        b"{'format': 'pdf'}",
        None,
    ]


def test_exchange_binding_passes_on_until_it_is_unbound(channel, name):
    source, destination = name("source"), name("destination")
    channel.exchange_declare(source, "topic")
    channel.exchange_declare(destination, "fanout")
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, destination)
    channel.exchange_bind(destination, source, "stock.#")

    channel.basic_publish(source, "stock.nyse", b"bound")
    channel.basic_publish(source, "weather", b"other key")
    channel.exchange_unbind(destination, source, "stock.#")
    channel.basic_publish(source, "stock.nyse", b"unbound")

    assert [get(channel, queue), get(channel, queue)] == [b"bound", None]


def test_alternate_exchange_takes_what_has_no_route(channel, name):
    main, unrouted = name("main"), name("unrouted")
    channel.exchange_declare(unrouted, "fanout")
    channel.exchange_declare(main, "direct", arguments={"alternate-exchange": unrouted})
    known = channel.queue_declare("", exclusive=True).method.queue
    rest = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(known, main, "known")
    channel.queue_bind(rest, unrouted)

    for key in ("known", "unknown"):
        channel.basic_publish(main, key, key.encode())

    assert [get(channel, known), get(channel, known)] == [b"known", None]
    assert [get(channel, rest), get(channel, rest)] == [b"unknown", None]


def test_purge_and_delete_count_what_was_ready(channel, name):
    queue = name("counted")
    channel.queue_declare(queue)
    for _ in range(3):
        channel.basic_publish("", queue, b"")

    assert channel.queue_purge(queue).method.message_count == 3
    channel.basic_publish("", queue, b"")
    assert channel.queue_delete(queue).method.message_count == 1
    assert channel.queue_delete(queue).method.message_count == 0


def test_auto_delete_queue_goes_with_its_last_consumer(connection, channel, name):
    queue = name("auto-delete")
    channel.queue_declare(queue, auto_delete=True)
    channel.basic_consume(queue, lambda *_: None, consumer_tag="last")

    assert channel.queue_declare(queue, passive=True).method.consumer_count == 1
    channel.basic_cancel("last")
    with pytest.raises(ChannelClosedByBroker) as gone:
        connection.channel().queue_declare(queue, passive=True)
    assert gone.value.reply_code == 404


# -- errors


def unlike(channel, name):
    channel.queue_declare(name, durable=True)
    channel.queue_declare(name, durable=False)


def in_use(channel, name):
    channel.queue_declare(name)
    channel.basic_consume(name, lambda *_: None)
    channel.queue_delete(name, if_unused=True)


def not_empty(channel, name):
    channel.queue_declare(name)
    channel.basic_publish("", name, b"")
    channel.queue_delete(name, if_empty=True)


def exclusively_consumed(channel, name):
    channel.queue_declare(name)
    channel.basic_consume(name, lambda *_: None, exclusive=True)
    channel.basic_consume(name, lambda *_: None)


def acknowledged_twice(channel, name):
    channel.queue_declare(name)
    channel.basic_publish("", name, b"")
    tag = channel.basic_get(name)[0].delivery_tag
    channel.basic_ack(tag)
    channel.basic_ack(tag)
    settle(channel)


def published_nowhere(channel, name):
    channel.basic_publish(name, "key", b"")
    settle(channel)


ERRORS = {
    "missing queue": (
        lambda channel, name: channel.queue_declare(name, passive=True),
        404,
        "NOT_FOUND - no queue '{}' in vhost '/'",
    ),
    "missing exchange": (
        lambda channel, name: channel.exchange_declare(name, passive=True),
        404,
        "NOT_FOUND - no exchange '{}' in vhost '/'",
    ),
    "publish to a missing exchange": (
        published_nowhere,
        404,
        "NOT_FOUND - no exchange '{}' in vhost '/'",
    ),
    "redeclared differently": (
        unlike,
        406,
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{}' in vhost '/': "
        "received 'false' but current is 'true'",
    ),
    "acknowledged twice": (
        acknowledged_twice,
        406,
        "PRECONDITION_FAILED - unknown delivery tag 1",
    ),
    "deleted while in use": (
        in_use,
        406,
        "PRECONDITION_FAILED - queue '{}' in vhost '/' in use",
    ),
    "deleted while not empty": (
        not_empty,
        406,
        "PRECONDITION_FAILED - queue '{}' in vhost '/' not empty",
    ),
    "reserved queue name": (
        lambda channel, name: channel.queue_declare(f"amq.{name}"),
        403,
        "ACCESS_REFUSED - queue name 'amq.{}' contains reserved prefix 'amq.*'",
    ),
    "default exchange deleted": (
        lambda channel, name: channel.exchange_delete(""),
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
    ),
    "consumed beside an exclusive consumer": (
        exclusively_consumed,
        403,
        "ACCESS_REFUSED - queue '{}' in vhost '/' in exclusive use",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistake_closes_the_channel_and_spares_the_connection(case, connection, name):
    mistake, code, text = ERRORS[case]
    queue = name("mistake")
    channel = connection.channel()

    with pytest.raises(ChannelClosedByBroker) as closed:
        mistake(channel, queue)

    assert (closed.value.reply_code, closed.value.reply_text) == (code, text.format(queue))
    assert not channel.is_open
    assert connection.channel(channel.channel_number).is_open


def test_exclusive_queue_is_locked_for_other_connections(amqp_url, channel, name):
    queue = name("exclusive")
    channel.queue_declare(queue, exclusive=True)

    with connect(amqp_url) as other, pytest.raises(ChannelClosedByBroker) as locked:
        other.channel().basic_get(queue)

    assert locked.value.reply_code == 405
    assert locked.value.reply_text.startswith(
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'"
    )


def test_exclusive_queue_is_free_when_its_connection_ended(amqp_url, channel, name):
    queue = name("exclusive")
    with connect(amqp_url) as owner:
        owner.channel().queue_declare(queue, exclusive=True)

    assert channel.queue_declare(queue, exclusive=True).method.message_count == 0


def test_wrong_password_is_told_as_refused(amqp_url):
    credentials = pika.PlainCredentials("guest", "wrong")

    with (
        pytest.raises(ProbableAuthenticationError) as refused,
        connect(amqp_url, credentials=credentials),
    ):
        pass

    assert "403" in repr(refused.value)
    assert "Login was refused using authentication mechanism PLAIN" in repr(refused.value)


def test_unknown_vhost_is_not_allowed(amqp_url):
    with (
        pytest.raises(ProbableAccessDeniedError) as refused,
        connect(amqp_url, virtual_host="no-such-vhost"),
    ):
        pass

    assert "(530) 'NOT_ALLOWED - vhost no-such-vhost not found'" in str(refused.value)


# -- the connection


def test_broker_announces_what_pika_looks_for(connection):
    announced = connection._impl.server_properties

    assert announced["product"] == "RabbitMQ"
    assert connection.basic_nack_supported
    assert connection.consumer_cancel_notify_supported
    assert connection.exchange_exchange_bindings_supported
    assert connection.publisher_confirms_supported
    for capability in ("connection.blocked", "per_consumer_qos", "direct_reply_to"):
        assert announced["capabilities"][capability] is True


def test_heartbeat_is_the_clients_choice_from_the_brokers_offer(amqp_url):
    offers = []

    def choose(_connection, offer):
        offers.append(offer)
        return 17

    with connect(amqp_url, heartbeat=choose) as connection:
        chosen = connection._impl.params.heartbeat

    assert offers == [60]
    assert chosen == 17


@pytest.mark.long
def test_idle_connection_lives_on_heartbeats(amqp_url):
    with connect(amqp_url, heartbeat=1) as connection:
        connection.process_data_events(time_limit=3.2)  # longer than either side waits: 2-3 s

        assert connection.channel().is_open


def test_publisher_is_told_while_the_broker_is_short_of_memory(low_memory_url, name):
    """A blocked connection is not even closed in order (RabbitMQ's rule): pika gives it up."""
    blocked: list[str] = []
    publishing = pika.BlockingConnection(
        pika.URLParameters(f"{low_memory_url}/%2F?blocked_connection_timeout=1")
    )
    publishing.add_on_connection_blocked_callback(
        lambda _connection, frame: blocked.append(frame.method.reason)
    )
    publisher = publishing.channel()
    with connect(low_memory_url) as consuming:
        consumer = consuming.channel()
        queue = consumer.queue_declare("", exclusive=True).method.queue
        received = collect(consumer, queue, auto_ack=True)

        until = time.monotonic() + SECONDS
        while not blocked and time.monotonic() < until:  # the broker looks now and then
            publisher.basic_publish("", name("anywhere"), b"held back")
            publishing.process_data_events(time_limit=0.1)
        publisher.basic_publish("", queue, b"held back as well")
        settle(consumer)  # a connection that does not publish goes on

    assert blocked == ["low on memory"]
    assert received == []
    with pytest.raises(ConnectionBlockedTimeout):
        publishing.process_data_events(time_limit=SECONDS)


def test_lost_connection_is_noticed_and_can_be_opened_anew(relay: Relay, name):
    queue = name("reopened")
    with connect(relay.url) as connection:
        channel = connection.channel()
        channel.queue_declare(queue)
        channel.basic_publish("", queue, b"kept")
        settle(channel)

        assert relay.cut() == 1
        with pytest.raises(StreamLostError):
            connection.process_data_events(time_limit=SECONDS)

    with connect(relay.url) as connection:
        assert get(connection.channel(), queue) == b"kept"


# -- the select adapter


class Conversation:
    """An application of callbacks: opens, prepares, runs `act`, and stops at `done`."""

    def __init__(self, url: str, queue: str) -> None:
        self.queue = queue
        self.channel: pika.channel.Channel | None = None
        self.ended: BaseException | None = None
        self.channel_ended: BaseException | None = None
        self.connection = pika.SelectConnection(
            pika.URLParameters(f"{url}/%2f"),
            on_open_callback=lambda connection: connection.channel(
                on_open_callback=self.on_channel
            ),
            on_open_error_callback=self.on_end,
            on_close_callback=self.on_end,
        )

    def run(self) -> None:
        """Serve the connection until it is closed."""
        self.connection.ioloop.call_later(SECONDS, self.connection.ioloop.stop)
        self.connection.ioloop.start()
        assert self.connection.is_closed, "the conversation did not end"
        self.connection.ioloop.close()

    def on_channel(self, channel) -> None:
        self.channel = channel
        channel.add_on_close_callback(self.on_channel_end)
        channel.queue_declare(self.queue, durable=True, callback=lambda _ok: self.act())

    def on_channel_end(self, _channel, reason) -> None:
        self.channel_ended = reason

    def on_end(self, _connection, reason) -> None:
        self.ended = reason
        self.connection.ioloop.stop()

    def act(self) -> None:
        raise NotImplementedError


class Publisher(Conversation):
    """Publishes `count` messages without waiting, and counts the confirms as they come."""

    count = 200

    def act(self) -> None:
        self.pending = set(range(1, self.count + 1))
        self.returned: list[bytes] = []
        self.channel.add_on_return_callback(lambda *arguments: self.returned.append(arguments[3]))
        self.channel.confirm_delivery(self.on_confirm, callback=lambda _ok: self.publish())

    def publish(self) -> None:
        for number in range(1, self.count + 1):
            key = "no-such-queue" if number % 50 == 0 else self.queue
            self.channel.basic_publish("", key, b"%d" % number, PERSISTENT, mandatory=True)

    def on_confirm(self, frame) -> None:
        assert isinstance(frame.method, pika.spec.Basic.Ack)
        tag = frame.method.delivery_tag
        confirmed = {tag}
        if frame.method.multiple:
            confirmed = {number for number in self.pending if number <= tag}
        assert confirmed <= self.pending
        self.pending -= confirmed
        if not self.pending:
            self.connection.close()


class Subscriber(Conversation):
    """Consumes `count` messages with a prefetch of 10, acknowledging each tenth with multiple."""

    count = 196

    def act(self) -> None:
        self.received: list[bytes] = []
        self.channel.basic_qos(prefetch_count=10, callback=lambda _ok: self.consume())

    def consume(self) -> None:
        self.tag = self.channel.basic_consume(self.queue, self.on_message)

    def on_message(self, channel, method, _properties, body) -> None:
        self.received.append(body)
        last = len(self.received) == self.count
        if last or len(self.received) % 10 == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if last:
            channel.basic_cancel(self.tag, callback=lambda _ok: self.connection.close())


def test_select_connection_publishes_with_confirms_and_consumes_with_prefetch(
    amqp_url, channel, name
):
    queue = name("select")
    publisher = Publisher(amqp_url, queue)
    publisher.run()
    subscriber = Subscriber(amqp_url, queue)
    subscriber.run()

    assert publisher.returned == [b"50", b"100", b"150", b"200"]
    assert publisher.pending == set()
    assert subscriber.received == [b"%d" % n for n in range(1, 201) if n % 50]
    assert_ready(channel, queue, 0)
    assert channel.queue_delete(queue, if_unused=True, if_empty=True)


class Deleter(Conversation):
    """Loses its consumer with its queue, then its channel by a mistake."""

    def act(self) -> None:
        self.cancelled: list[str] = []
        self.channel.add_on_cancel_callback(self.on_cancel)
        self.channel.basic_consume(
            self.queue, lambda *_: None, callback=lambda _ok: self.channel.queue_delete(self.queue)
        )

    def on_cancel(self, frame) -> None:
        self.cancelled.append(frame.method.consumer_tag)
        self.channel.queue_declare(self.queue, passive=True)

    def on_channel_end(self, channel, reason) -> None:
        super().on_channel_end(channel, reason)
        self.connection.close()


def test_select_connection_hears_of_cancelled_consumers_and_closed_channels(amqp_url, name):
    conversation = Deleter(amqp_url, name("select-deleted"))

    conversation.run()

    assert len(conversation.cancelled) == 1
    assert isinstance(conversation.channel_ended, ChannelClosedByBroker)
    assert conversation.channel_ended.reply_code == 404


class Offender(Conversation):
    """Uses one consumer tag twice on the wire, which costs the whole connection."""

    def act(self) -> None:
        consume = pika.spec.Basic.Consume(queue=self.queue, consumer_tag="twice")
        for _ in range(2):
            self.channel._send_method(consume)


def test_select_connection_hears_why_the_broker_closed_it(amqp_url, channel, name):
    conversation = Offender(amqp_url, name("select-closed"))

    conversation.run()

    assert isinstance(conversation.ended, ConnectionClosedByBroker)
    assert conversation.ended.reply_code == 530
    assert conversation.ended.reply_text == "NOT_ALLOWED - attempt to reuse consumer tag 'twice'"
    channel.queue_delete(conversation.queue)
