import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from subprocess import PIPE, Popen, run

import pytest

from leveret.clients.perf import process
from leveret.clients.perf.latency import Histogram
from leveret.clients.perf.link import Link, LinkLost
from leveret.clients.perf.message import Encoder, templates
from leveret.clients.perf.options import Options, Sizes, parse_options, parse_sizes
from leveret.clients.perf.producer import NEVER, Producer
from leveret.clients.perf.report import Report, limit_of
from leveret.clients.perf.run import verdict
from leveret.clients.perf.topology import addresses, topic_key, topic_pattern
from leveret.clients.perf.verify import Ledger, Stream, Verdict, merge
from leveret.clients.perf.worker import Findings, shares
from leveret.protocol import properties
from leveret.protocol.methods import BasicAck, BasicNack

from .deliveries import FRAME_MAX, Listener, delivered, published

MIXED = Options(
    sizes=Sizes((100, 4096), spread=True), message_ids=True, headers=3, type="direct", keys=20
)
SHAPES = {
    "equal and small": Options(),
    "equal": Options(sizes=Sizes((256,))),
    "mixed": MIXED,
    "in several frames": Options(sizes=Sizes((300_000,))),
}


class Audience:
    """A listener with its ledgers."""

    def __init__(self, options: Options, **arguments) -> None:
        self.ledgers: dict[int, Ledger] = {}
        self.options = options
        self.listener = Listener(self._stream, **arguments)

    def _stream(self, number: int) -> Stream | None:
        producer = number & 0xFFFF
        if producer >= self.options.producers or number >> 16 != 0x4C56:
            return None
        return Stream(self.ledgers.setdefault(producer, Ledger()))

    def verdict(self, *sent: int) -> Verdict:
        self.listener.finish()
        findings = Findings(
            sent=dict(enumerate(sent)),
            ledgers={(0, producer): ledger for producer, ledger in self.ledgers.items()},
            received=self.listener.received,
            reordered=self.listener.reordered,
            damaged=self.listener.damaged,
            checked=self.listener.checked,
        )
        return verdict(self.options, [findings])


def hear(options: Options, messages: list[bytes], *sent: int, **arguments) -> Verdict:
    audience = Audience(options, **arguments)
    audience.listener.hear(b"".join(delivered(messages)))
    return audience.verdict(*sent)


# options


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("1024", Sizes((1024,))),
        ("100,1k,4k", Sizes((100, 1024, 4096))),
        ("100-4k", Sizes((100, 4096), spread=True)),
        ("64-64", Sizes((64, 64))),
    ],
)
def test_sizes_are_one_or_a_list_or_a_range(text, sizes):
    assert sizes == parse_sizes(text)


@pytest.mark.parametrize("text", ["", "x", "15", "4k-100", "1g", "1,,2", "-5", "200m"])
def test_sizes_that_make_no_sense_are_refused(text, capsys):
    with pytest.raises(SystemExit) as refused:
        parse_options(["--size", text])

    assert 2 == refused.value.code
    assert "size" in capsys.readouterr().err


def test_options_name_their_queues_apart_from_other_runs():
    first, second = parse_options([]), parse_options([])

    assert first.queue(0).startswith("perf-")
    assert first.queue(0) != second.queue(0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--producers", "0", "--consumers", "0"],
        ["--keys", "5"],
        ["--type", "direct", "--bindings", "5"],
        ["--time", "0"],
        ["--rate", "-1"],
        ["--ack", "300", "--prefetch", "250"],
        ["--consumers", "0", "--max-backlog", "5"],
        ["--idle", "5", "--fill", "5"],
        ["--spare-bindings", "5"],
        ["--backlog", "5", "--processes", "1"],
        ["--backlog", "5", "--max-backlog", "5"],
        ["--backlog", "5", "--count", "5"],
        ["--uri", "http://x"],
        ["--broker-pid", "99999999"],
        ["--json", "/nowhere/report.json"],
        ["--producers", "x"],
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as refused:
        parse_options(arguments)

    assert 2 == refused.value.code
    assert 1 == capsys.readouterr().err.count("\n")


def test_a_report_of_options_shows_no_password():
    options = parse_options(["--uri", "amqp://me:secret@127.0.0.1:5"])

    assert "secret" not in json.dumps(options.as_dict())


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_every_producer_and_consumer_has_one_process(processes):
    dealt = shares(Options(producers=7, consumers=4, processes=processes))

    assert list(range(7)) == sorted(index for share in dealt for index in share.producers)
    assert list(range(4)) == sorted(index for share in dealt for index in share.consumers)
    assert len(dealt) <= processes


# latency


def test_percentiles_are_values_that_occurred():
    histogram = Histogram()
    for value in range(1, 101):
        histogram.add(value)

    assert (50, 95, 99, 100) == tuple(histogram.percentile(each) for each in (50, 95, 99, 100))


def test_a_percentile_of_one_value_is_that_value():
    histogram = Histogram()
    histogram.add(7)

    assert 7 == histogram.percentile(50) == histogram.percentile(99)
    assert 0 == Histogram().percentile(50)
    assert {} == Histogram().summary()


@pytest.mark.parametrize("value", [1, 255, 256, 1_000_003, 123_456_789_012])
def test_a_latency_is_kept_within_one_percent(value):
    histogram = Histogram()
    histogram.add(value)

    assert 0.992 * value < histogram.percentile(50) <= value


def test_latencies_of_processes_are_merged():
    fast, slow = Histogram(), Histogram()
    fast.add_since([90] * 99, 100)
    slow.add_since([50], 100)
    fast.merge(slow.counts)

    assert 100 == fast.total
    assert (10, 50) == (fast.percentile(99), fast.percentile(100))


def test_clocks_that_disagree_give_no_negative_latency():
    histogram = Histogram()
    histogram.add(-5)

    assert 0 == histogram.percentile(50)


# messages


def test_a_published_message_carries_its_properties():
    (message,) = published(MIXED, 1)
    size = int.from_bytes(message[3:7], "big")
    header = message[8 + size :]
    decoded = properties.decode(header[7 : 7 + int.from_bytes(header[3:7], "big")])

    assert 1 == decoded.delivery_mode
    assert 3 == len(decoded.headers)
    assert 36 == len(decoded.message_id)


def test_message_ids_are_distinct():
    messages = published(MIXED, 1000) + published(MIXED, 1000, producer=3)
    marks = {message[at : at + 36] for message in messages if (at := message.find(b"00000000-"))}

    assert 2000 == len(marks)


def test_every_key_is_used_and_they_are_mixed():
    options = Options(type="topic", keys=10_000, bindings=1000)
    messages = published(options, 10_240)
    keys = [message[message.index(b"-topic") + 7 :].split(b"\0")[0] for message in messages]

    assert 10_000 == len(set(keys))
    assert keys[:10] != sorted(keys)[:10]


def test_a_topic_key_matches_one_pattern():
    def matches(pattern: str, key: str) -> bool:
        words, wanted = key.split("."), pattern.split(".")
        if wanted[0] == "#":
            return words[-1] == wanted[-1]
        return all(a in {"*", b} for a, b in zip(wanted, words, strict=True))

    patterns = [topic_pattern(binding) for binding in range(30)]
    for index in range(90):
        key = topic_key(index, 30)
        assert [patterns[index % 30]] == [each for each in patterns if matches(each, key)]


def test_producers_of_the_default_exchange_have_a_queue_each():
    options = Options(queues=2)

    keys = [addresses(options, producer)[0].routing_key for producer in range(3)]

    assert [options.queue(0), options.queue(1), options.queue(0)] == keys


def test_an_encoder_crosses_blocks_without_a_gap():
    encoder = Encoder(templates(Options(), range(1), FRAME_MAX)[0], 0, 0)
    counts = []
    while encoder.sequence < 600:
        counts.append(encoder.next_parts(100, 1)[1])

    assert [100, 100, 56, 100, 100, 56, 100] == counts


# verification


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_a_faultless_stream_is_found_faultless(options):
    count = 10 if options.sizes.mean > 100_000 else 3000
    found = hear(options, published(options, count), count)

    assert found.faultless
    assert count == found.received == found.checked


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_a_stream_may_be_cut_anywhere(options):
    count = 4 if options.sizes.mean > 100_000 else 100
    octets = b"".join(delivered(published(options, count)))
    step = 9973 if options.sizes.mean > 100_000 else 41
    audience = Audience(options)
    for start in range(0, len(octets), step):
        audience.listener.hear(octets[start : start + step])

    found = audience.verdict(count)

    assert found.faultless
    assert count == found.received


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_lost_messages_are_found(options):
    count = 10 if options.sizes.mean > 100_000 else 1000
    messages = published(options, count)

    found = hear(options, messages[:3] + messages[5:-1], count)

    assert (3, 0, 0, 0) == (found.lost, found.duplicated, found.reordered, found.damaged)


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_duplicated_messages_are_found(options):
    count = 10 if options.sizes.mean > 100_000 else 1000
    messages = published(options, count)

    found = hear(options, [*messages[:5], *messages[3:], messages[-1]], count)

    assert (0, 3, 0, 0) == (found.lost, found.duplicated, found.reordered, found.damaged)


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_reordered_messages_are_found(options):
    count = 10 if options.sizes.mean > 100_000 else 1000
    messages = published(options, count)
    messages[4], messages[5] = messages[5], messages[4]

    found = hear(options, messages, count)

    assert (0, 0, 1, 0) == (found.lost, found.duplicated, found.reordered, found.damaged)


@pytest.mark.parametrize("options", list(SHAPES.values())[1:], ids=list(SHAPES)[1:])
def test_damaged_bodies_are_found(options):
    count = 10 if options.sizes.mean > 100_000 else 1000
    messages = published(options, count)
    for index in (0, count - 3):
        messages[index] = _damage(messages[index], -3)

    found = hear(options, messages, count)

    assert (0, 0, 0, 2) == (found.lost, found.duplicated, found.reordered, found.damaged)


@pytest.mark.parametrize("count", [3, 500])
def test_a_producer_that_does_not_exist_is_damage(count):
    messages = published(Options(), count)
    messages[1] = _damage(messages[1], -17)

    found = hear(Options(), messages, count)

    assert (1, 1) == (found.damaged, found.lost)


@pytest.mark.parametrize("skipped", [2, 300])
def test_a_gap_in_the_delivery_tags_is_damage(skipped):
    octets = delivered(published(Options(), 500))
    octets[skipped:] = delivered(published(Options(), 500), 2)[skipped:]
    audience = Audience(Options())
    audience.listener.hear(b"".join(octets))

    assert 1 == audience.verdict(500).damaged


def test_a_sample_compares_some_bodies():
    options = Options(sizes=Sizes((64,)))

    found = hear(options, published(options, 1600), 1600, verify="sample")

    assert (1600, 100) == (found.received, found.checked)


def test_two_producers_are_told_apart():
    options = Options(producers=2)
    both = zip(published(options, 300), published(options, 300, producer=1), strict=True)

    found = hear(options, [message for pair in both for message in pair], 300, 300)

    assert found.faultless
    assert 600 == found.received


def test_other_frames_between_deliveries_do_no_harm():
    octets = delivered(published(Options(), 400))
    heartbeat = b"\x08\0\0\0\0\0\0\xce"
    audience = Audience(Options())
    audience.listener.hear(heartbeat.join([b"".join(octets[:100]), *octets[100:]]) + heartbeat)

    assert audience.verdict(400).faultless


def test_a_frame_without_its_end_ends_the_run():
    octets = delivered(published(Options(), 20))
    octets[1] = octets[1][:-1] + b"\0"

    with pytest.raises(LinkLost):
        Audience(Options()).listener.hear(b"".join(octets))


@pytest.mark.parametrize("count", [1, 255, 256, 700, 70_000])
def test_every_message_is_acknowledged_once(count):
    audience = Audience(Options(), ack_every=1)
    audience.listener.hear(b"".join(delivered(published(Options(), count))))
    tags = [_tag(audience.listener.sent, at) for at in range(0, 21 * count, 21)]

    assert list(range(1, count + 1)) == tags
    assert 21 * count == len(audience.listener.sent)


def test_messages_are_acknowledged_in_groups_and_the_rest_at_the_end():
    audience = Audience(Options(), ack_every=50)
    audience.listener.hear(b"".join(delivered(published(Options(), 120))))
    audience.verdict(120)

    assert [50, 100, 120] == [_tag(audience.listener.sent, at) for at in (0, 21, 42)]
    assert 63 == len(audience.listener.sent)


def test_ledgers_of_processes_are_merged():
    first = Ledger(next=6, missing={1, 3})
    second = Ledger(next=5, missing={0, 2, 4})

    whole = merge([first, second])

    assert 0 == whole.duplicated
    assert 6 == whole.next
    assert set() == whole.missing
    assert 2 == whole.lost(8)
    assert 1 == merge([Ledger(next=2), Ledger(next=1)]).duplicated
    assert 4 == merge([]).lost(4)


# confirms


@pytest.fixture
def wire() -> Iterator[tuple[Producer, socket.socket]]:
    """A producer, and the broker's end of its connection."""
    ours, theirs = socket.socketpair()
    link = Link.__new__(Link)
    link.socket, link.received = ours, b""
    pool = templates(Options(), range(1), FRAME_MAX)[0]
    producer = Producer(
        link,
        Encoder(pool, 0, 0),
        message_size=pool.mean,
        window=5,
        rate=0.0,
        limit=NEVER,
        room=None,
    )
    with ours, theirs:
        yield producer, theirs


def test_a_window_limits_what_is_unconfirmed(wire):
    producer, _ = wire
    producer.publish()

    assert 5 == producer.encoder.sequence == producer.unconfirmed


def test_confirms_in_any_order_are_counted_once(wire):
    producer, _ = wire
    producer.publish()
    for method in (BasicAck(2), BasicAck(3, True), BasicNack(5), BasicAck(4)):
        producer.notice(method)

    assert (5, 1, 0) == (producer.confirmed, producer.refused, producer.wrong_confirms)
    assert 0 == producer.unconfirmed


def test_confirms_that_are_not_due_are_found(wire):
    producer, _ = wire
    producer.publish()
    for method in (BasicAck(2), BasicAck(2), BasicAck(6), BasicAck(2, True), BasicAck(1)):
        producer.notice(method)

    assert (2, 3) == (producer.confirmed, producer.wrong_confirms)


def test_a_confirm_makes_room_for_the_next_message(wire):
    producer, theirs = wire
    producer.publish()
    theirs.sendall(b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x50" + (2).to_bytes(8, "big") + b"\x01\xce\x01")
    producer.readable()

    assert 7 == producer.encoder.sequence
    assert 2 == producer.latency.total


def test_a_blocked_producer_waits(wire):
    producer, theirs = wire
    theirs.sendall(b"\x01\0\0\0\0\0\x05\0\x0a\0\x3c\0\xce")
    producer.readable()
    producer.publish()

    assert 0 == producer.encoder.sequence


# who was the limit


@pytest.mark.parametrize(
    ("broker", "generator", "busiest", "limit"),
    [
        (0.4, 1.0, 0.95, "the generator"),
        (0.97, 0.5, 0.4, "the broker"),
        (1.6, 0.35, 0.2, "the machine"),
        (0.2, 0.2, 0.2, "waiting for each other"),
    ],
)
def test_the_limit_is_who_has_no_time_left(monkeypatch, broker, generator, busiest, limit):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)

    assert limit == limit_of(broker, generator, busiest)


def test_a_rate_that_was_reached_is_the_limit():
    report = Report(
        Options(rate=100.0), 1.0, 99.5, 0.0, 99.5, {}, {}, None, 1.0, 1.0, 0.0, Verdict()
    )

    assert "the rate asked for" == report.limit


def test_a_process_is_measured_with_its_children():
    with Popen([sys.executable, "-c", "input()"], stdin=PIPE) as child:
        assert child.pid in process.tree(os.getpid())
        assert process.rss_bytes(os.getpid()) > process.rss_bytes(child.pid) > 0
        child.communicate(b"\n")
    assert process.cpu_seconds(os.getpid()) > 0


# against a broker that goes away


def test_a_broker_that_is_not_there_is_told_in_one_line():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "leveret.clients.perf", "--uri", f"amqp://127.0.0.1:{port}"]

    done = run(command, capture_output=True, text=True, check=False, timeout=20)

    assert 1 == done.returncode
    assert 1 == len(done.stderr.splitlines())
    assert str(port) in done.stderr


# against a live broker


@pytest.fixture(scope="module")
def broker() -> Iterator[tuple[str, int]]:
    """A broker of our own: its URI and its pid."""
    command = [sys.executable, "-m", "leveret.broker", "serve", "--in-memory"]
    command += ["--listen", "127.0.0.1:0", "--log-level", "error"]
    with Popen(command, stdout=PIPE, text=True) as child:
        try:
            ready = child.stdout.readline().split()
            address = next(word for word in ready if word.startswith("amqp="))
            yield f"amqp://{address.removeprefix('amqp=')}", child.pid
        finally:
            child.terminate()


def perf(broker: tuple[str, int], arguments: str) -> dict:
    """Run the generator as its users do, and return its report."""
    uri, pid = broker
    command = [sys.executable, "-m", "leveret.clients.perf", "--uri", uri, "--json", "-"]
    command += ["--broker-pid", str(pid), *arguments.split()]
    done = run(command, capture_output=True, text=True, check=False, timeout=50)
    assert 0 == done.returncode, done.stderr or done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ("--count 3000 --processes 1", 3000),
        ("--count 3000 -s 100-4k --message-ids --headers 3 -t direct --keys 20 --confirm 500 "
         "--ack 1 --prefetch 250", 3000),
        ("--count 500 -x 2 -t fanout -q 3 -y 3 -s 256", 3000),
        ("--count 750 -x 4 -y 4 -q 2 -s 64 --ack 50 --prefetch 100 --processes 4", 3000),
        ("--count 3000 -t topic -q 3 -y 3 --bindings 30 --keys 300 --max-backlog 500", 3000),
        ("--count 3000 -t headers -q 3 -y 3 --bindings 9 --ack 7", 3000),
        ("--count 10 -s 300k --confirm 2 --ack 1", 10),
        ("--count 100 -r 1000 --confirm 1 --persistent --durable --mandatory", 100),
    ],
)  # fmt: skip
def test_a_load_on_a_live_broker_is_faultless(broker, arguments, received):
    report = perf(broker, arguments)

    assert report["verification"]["faultless"]
    assert received == report["verification"]["received"]


def test_a_load_for_a_time_measures_broker_and_generator(broker):
    report = perf(broker, "--time 0.5 --warmup 0.1 --confirm 100 --ack 1 -s 64")

    assert report["delivered_per_s"] > 100
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert 0 < report["confirm_latency_ms"]["p50"] <= report["confirm_latency_ms"]["max"]
    assert report["broker"]["cpu_us"] > 0
    assert report["generator"]["cores"] > 0


def test_a_load_may_begin_with_a_backlog(broker):
    report = perf(broker, "--time 0.3 --warmup 0.1 --backlog 20000 --max-backlog 30000")

    assert report["verification"]["faultless"]
    assert report["verification"]["received"] > 20_000


def test_connections_are_counted_and_timed(broker):
    report = perf(broker, "--connect-rate --time 0.3 --warmup 0.1 --processes 2")

    assert report["rate"] > 20
    assert report["latency_ms"]["p50"] > 0


@pytest.mark.long
def test_idle_connections_and_queued_messages_are_weighed(broker):
    assert 0 < perf(broker, "--idle 500")["rss_kib_each"] < 100
    assert 1 < perf(broker, "--fill 50000 -s 1k")["rss_kib_each"] < 3


def test_a_refusal_of_the_broker_is_told_in_its_words(broker):
    uri, _ = broker
    command = [sys.executable, "-m", "leveret.clients.perf", "--uri", f"{uri}/nowhere"]

    done = run(command, capture_output=True, text=True, check=False, timeout=20)

    assert 1 == done.returncode
    assert "nowhere" in done.stderr


def _damage(message: bytes, place: int) -> bytes:
    changed = bytearray(message)
    changed[place] ^= 1
    return bytes(changed)


def _tag(octets: bytes, at: int) -> int:
    return int.from_bytes(octets[at + 11 : at + 19], "big")
