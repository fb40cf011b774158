"""aio-pika: plain and robust connections, its patterns, confirms by default, its exceptions."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import aio_pika
import pytest
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import (
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
    QueueEmpty,
)
from aio_pika.patterns import RPC, Master
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource

SECONDS = 10  # for anything that must arrive


def asynchronous(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test under asyncio; its name and its fixtures stay."""

    @functools.wraps(test)
    def run(**fixtures: object) -> None:
        asyncio.run(test(**fixtures))

    return run


async def soon(awaitable: Awaitable):
    return await asyncio.wait_for(awaitable, SECONDS)


async def take(inbox: asyncio.Queue, count: int) -> list:
    return [await soon(inbox.get()) for _ in range(count)]


async def collect(queue: aio_pika.abc.AbstractQueue, **options: object) -> asyncio.Queue:
    """Consume from `queue` into the asyncio queue that is returned."""
    inbox: asyncio.Queue = asyncio.Queue()
    await queue.consume(inbox.put, **options)
    return inbox


@asynchronous
async def test_work_queue_gives_each_worker_one_task_at_a_time(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        inboxes = []
        for _ in range(2):
            worker = await connection.channel()
            await worker.set_qos(prefetch_count=1)
            tasks = await worker.declare_queue(name("tasks"), durable=True)
            inboxes.append(await collect(tasks))
        channel = await connection.channel()

        for number in range(3):
            await channel.default_exchange.publish(
                Message(b"task %d" % number, delivery_mode=DeliveryMode.PERSISTENT),
                routing_key=name("tasks"),
            )
        [first] = await take(inboxes[0], 1)
        [second] = await take(inboxes[1], 1)

        assert {first.body, second.body} == {b"task 0", b"task 1"}
        assert first.delivery_mode is DeliveryMode.PERSISTENT
        await second.ack()
        [third] = await take(inboxes[1], 1)
        assert third.body == b"task 2"
        assert inboxes[0].empty()


@asynchronous
async def test_fanout_reaches_every_exclusive_queue(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        logs = await channel.declare_exchange(name("logs"), ExchangeType.FANOUT)
        inboxes = []
        for _ in range(3):
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(logs)
            inboxes.append(await collect(queue, no_ack=True))

        for line in (b"one", b"two"):
            await logs.publish(Message(line), routing_key="")

        for inbox in inboxes:
            assert [message.body for message in await take(inbox, 2)] == [b"one", b"two"]


@asynchronous
async def test_direct_and_topic_exchanges_route_by_key(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        direct = await channel.declare_exchange(name("direct"), ExchangeType.DIRECT)
        topic = await channel.declare_exchange(name("topic"), ExchangeType.TOPIC)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(direct, "error")
        await queue.bind(topic, "kern.*")
        inbox = await collect(queue, no_ack=True)

        for exchange, key in (
            (direct, "info"),
            (direct, "error"),
            (topic, "kern.critical"),
            (topic, "cron.warning"),
            (topic, "kern"),
            (topic, "kern.info"),
        ):
            await exchange.publish(Message(key.encode()), routing_key=key, mandatory=False)

        received = await take(inbox, 3)
        assert [message.routing_key for message in received] == [
            "error",
            "kern.critical",
            "kern.info",
        ]
        assert inbox.empty()


@asynchronous
async def test_headers_exchange_and_exchange_binding(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        source = await channel.declare_exchange(name("source"), ExchangeType.HEADERS)
        sink = await channel.declare_exchange(name("sink"), ExchangeType.FANOUT)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(sink)
        await sink.bind(source, arguments={"x-match": "any", "kind": "audit", "level": 3})

        for number, headers in enumerate(({"kind": "audit"}, {"kind": "log"}, {"level": 3}, {})):
            message = Message(b"%d" % number, headers=headers)
            await source.publish(message, routing_key="", mandatory=False)

        inbox = await collect(queue, no_ack=True)
        assert [message.body for message in await take(inbox, 2)] == [b"0", b"2"]
        assert inbox.empty()


@asynchronous
async def test_rpc_pattern_returns_results_and_exceptions(amqp_url, name):
    async def divide(*, number: int, by: int) -> float:
        return number / by

    async with await aio_pika.connect_robust(amqp_url) as connection:
        server = await RPC.create(await connection.channel())
        client = await RPC.create(await connection.channel())
        await server.register(name("divide"), divide, auto_delete=True)

        assert await soon(client.call(name("divide"), {"number": 7, "by": 2})) == 3.5
        with pytest.raises(ZeroDivisionError):
            await soon(client.call(name("divide"), {"number": 7, "by": 0}))

        await client.close()
        await server.close()


@asynchronous
async def test_master_hands_tasks_to_workers(amqp_url, name):
    done: asyncio.Queue = asyncio.Queue()

    async def work(*, task_id: int) -> None:
        await done.put(task_id)

    async with await aio_pika.connect_robust(amqp_url) as connection:
        channel = await connection.channel()
        master = Master(channel)
        worker = await master.create_worker(name("work"), work, auto_delete=True)

        for task_id in range(5):
            await master.create_task(name("work"), kwargs={"task_id": task_id})

        assert sorted(await take(done, 5)) == [0, 1, 2, 3, 4]
        await worker.close()


@asynchronous
async def test_rpc_over_direct_reply_to(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        requests = await channel.declare_queue(name("requests"), auto_delete=True)

        async def serve(request: aio_pika.abc.AbstractIncomingMessage) -> None:
            async with request.process():
                await channel.default_exchange.publish(
                    Message(request.body.upper(), correlation_id=request.correlation_id),
                    routing_key=request.reply_to,
                )

        await requests.consume(serve)
        client = await connection.channel()
        pseudo = await client.declare_queue("amq.rabbitmq.reply-to", passive=True)
        replies = await collect(pseudo, no_ack=True)
        await client.default_exchange.publish(
            Message(b"shout", reply_to="amq.rabbitmq.reply-to", correlation_id="c1"),
            routing_key=name("requests"),
        )

        [reply] = await take(replies, 1)
        assert (reply.body, reply.correlation_id) == (b"SHOUT", "c1")


# -- publishing


@asynchronous
async def test_concurrent_publishes_are_all_confirmed(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue(name("confirmed"), auto_delete=True)

        confirms = await soon(
            asyncio.gather(
                *(
                    channel.default_exchange.publish(Message(b"%d" % n), routing_key=queue.name)
                    for n in range(300)
                )
            )
        )

        assert len(confirms) == 300
        assert {type(confirm).__name__ for confirm in confirms} == {"Ack"}
        assert (await queue.purge()).message_count == 300


@asynchronous
async def test_unroutable_message_raises_with_the_returned_message(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)

        with pytest.raises(DeliveryError) as unroutable:
            await channel.default_exchange.publish(
                Message(b"lost", app_id="me"), routing_key=name("nowhere"), mandatory=True
            )

        returned = unroutable.value.message
        assert (returned.delivery.reply_code, returned.delivery.reply_text) == (312, "NO_ROUTE")
        assert (returned.body, returned.header.properties.app_id) == (b"lost", "me")


@asynchronous
async def test_returned_message_reaches_the_callback_when_it_is_not_to_raise(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=False)
        returned: asyncio.Queue = asyncio.Queue()
        channel.return_callbacks.add(lambda _channel, message: returned.put_nowait(message))

        await channel.default_exchange.publish(Message(b"back"), routing_key=name("nowhere"))

        [message] = await take(returned, 1)
        assert (message.body, message.routing_key) == (b"back", name("nowhere"))


@asynchronous
async def test_transaction_commits_or_rolls_back_as_its_block_ends(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=False)
        queue = await channel.declare_queue(name("tx"), auto_delete=True)
        exchange = channel.default_exchange

        async def fail() -> None:
            async with channel.transaction():
                await exchange.publish(Message(b"undone"), routing_key=queue.name)
                raise ArithmeticError

        with pytest.raises(ArithmeticError):
            await fail()
        async with channel.transaction():
            for body in (b"one", b"two"):
                await exchange.publish(Message(body), routing_key=queue.name)

        inbox = await collect(queue, no_ack=True)
        assert [message.body for message in await take(inbox, 2)] == [b"one", b"two"]


@asynchronous
async def test_large_message_and_every_header_type_come_back_equal(amqp_url, name):
    headers = {
        "true": True,
        "nothing": None,
        "integers": [0, -1, 127, -128, 255, 32767, -32768, 65535, 2**31, -(2**31), 2**62],
        "float": 0.5,
        "text": "Grüße, 世界 \N{RABBIT FACE}",
        "bytes": bytearray(b"\x00\xff"),
        "time": datetime(2024, 2, 29, 12, 30, 1, tzinfo=UTC),
        "table": {"inner": [{"deep": "x"}], "empty": {}},
        "ключ": "значение",
    }
    body = bytes(range(256)) * 4096 + b"end"
    sent = Message(
        body,
        headers=headers,
        content_type="text/plain",
        content_encoding="utf-8",
        priority=3,
        correlation_id="c",
        reply_to="r",
        message_id="m",
        timestamp=datetime(2024, 1, 1, tzinfo=UTC),
        type="t",
        user_id="guest",
        app_id="a",
        expiration=60,
    )
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)

        await channel.default_exchange.publish(sent, routing_key=queue.name)
        received = await soon(queue.get(no_ack=True))

        assert received.body == body
        before = {key: value for key, value in sent.info().items() if value is not None}
        assert {key: received.info()[key] for key in before} == before


# -- consuming


@asynchronous
async def test_processing_block_acknowledges_and_requeues_on_failure(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await channel.default_exchange.publish(Message(b"task"), routing_key=queue.name)

        first = await soon(queue.get())
        with pytest.raises(ValueError, match="broken"):
            async with first.process(requeue=True):
                raise ValueError("broken")
        second = await soon(queue.get())
        async with second.process():
            pass

        assert (first.redelivered, second.redelivered) == (False, True)
        assert second.body == b"task"
        with pytest.raises(QueueEmpty):
            await queue.get()


@asynchronous
async def test_queue_iterator_cancels_its_consumer_and_returns_the_rest(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=4)
        queue = await channel.declare_queue(exclusive=True)
        for number in range(10):
            await channel.default_exchange.publish(Message(b"%d" % number), routing_key=queue.name)

        seen = []
        async with queue.iterator(timeout=SECONDS) as messages:
            async for message in messages:
                seen.append(message.body)
                await message.ack()
                if len(seen) == 3:
                    break

        assert seen == [b"0", b"1", b"2"]
        again = await soon(queue.get(no_ack=True))
        assert (again.body, again.redelivered) == (b"3", True)
        assert (await queue.purge()).message_count == 6


@asynchronous
async def test_nack_of_multiple_messages_restores_their_order(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        for number in range(3):
            await channel.default_exchange.publish(Message(b"%d" % number), routing_key=queue.name)
        held = [await soon(queue.get()) for _ in range(3)]

        await held[2].nack(multiple=True, requeue=True)

        inbox = await collect(queue)
        assert [message.body for message in await take(inbox, 3)] == [b"0", b"1", b"2"]


@asynchronous
async def test_exclusive_consumer_keeps_others_out(amqp_url, name):
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name("mine"), auto_delete=True)
        await collect(queue, exclusive=True)
        other = await connection.channel()

        with pytest.raises(ChannelAccessRefused, match="in exclusive use"):
            await collect(await other.get_queue(name("mine")))


# -- errors


@asynchronous
async def test_each_channel_error_has_its_exception(amqp_url, name):
    async with (
        await aio_pika.connect(amqp_url) as connection,
        await aio_pika.connect(amqp_url) as stranger,
    ):
        channel = await connection.channel()
        await channel.declare_queue(name("queue"), durable=True)
        await channel.declare_queue(name("private"), exclusive=True)

        async def fails(on: aio_pika.abc.AbstractConnection, queue: str, **options: object) -> None:
            await (await on.channel()).declare_queue(queue, **options)

        with pytest.raises(ChannelNotFoundEntity, match=f"no queue '{name('missing')}'"):
            await fails(connection, name("missing"), passive=True)
        with pytest.raises(ChannelPreconditionFailed, match="inequivalent arg 'durable'"):
            await fails(connection, name("queue"))
        with pytest.raises(ChannelAccessRefused, match="reserved prefix"):
            await fails(connection, "amq.mine")
        with pytest.raises(ChannelLockedResource, match="cannot obtain exclusive access"):
            await fails(stranger, name("private"))
        assert (await channel.queue_delete(name("queue"))).message_count == 0


@asynchronous
async def test_refused_login_and_unknown_vhost_have_their_exceptions(amqp_url):
    with pytest.raises(ProbableAuthenticationError, match="ACCESS_REFUSED"):
        await aio_pika.connect(amqp_url.replace(":guest@", ":wrong@"))

    with pytest.raises(InvalidFrameError, match=r"Connection\.Close"):  # aio-pika drops the text
        await aio_pika.connect(f"{amqp_url}/nowhere")


# -- robust connections


@asynchronous
async def test_robust_consumer_goes_on_after_the_wire_was_cut(relay, name):
    async with await aio_pika.connect_robust(relay.url, reconnect_interval=0.1) as connection:
        back = asyncio.Event()
        connection.reconnect_callbacks.add(lambda *_: back.set())
        channel = await connection.channel()
        exchange = await channel.declare_exchange(name("exchange"), auto_delete=True)
        queue = await channel.declare_queue(name("queue"), exclusive=True)
        await queue.bind(exchange, "key")
        inbox = await collect(queue, no_ack=True)

        await exchange.publish(Message(b"before"), routing_key="key")
        assert [message.body for message in await take(inbox, 1)] == [b"before"]
        assert relay.cut() == 1
        await soon(back.wait())
        await exchange.publish(Message(b"after"), routing_key="key")

        assert [message.body for message in await take(inbox, 1)] == [b"after"]


@asynchronous
async def test_robust_connection_declares_everything_anew_after_a_restart(server, name):
    async with await aio_pika.connect_robust(server.url, reconnect_interval=0.1) as connection:
        back = asyncio.Event()
        connection.reconnect_callbacks.add(lambda *_: back.set())
        channel = await connection.channel()
        exchange = await channel.declare_exchange(name("exchange"), ExchangeType.TOPIC)
        queue = await channel.declare_queue(name("queue"))
        await queue.bind(exchange, "a.*")
        inbox = await collect(queue, no_ack=True)

        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        await soon(back.wait())
        await exchange.publish(Message(b"after"), routing_key="a.b", mandatory=True)

        assert [message.body for message in await take(inbox, 1)] == [b"after"]
