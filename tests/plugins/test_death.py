"""Dead letters: their headers, keys and address.

What is expected of single deaths, of copies and of repeated deaths was seen on the wire with
RabbitMQ 3.10.8, apart from `x-last-death-*`, which came later, and from the order of headers,
which it sorts. What becomes of a publisher's own x-death is 4.x's rule.
"""

import pytest

from leveret.broker.core.message import Message
from leveret.broker.plugins.death import Deaths, cycle
from leveret.protocol.content import FRAME_HEAD
from leveret.protocol.properties import Properties, split_headers
from leveret.protocol.table import Int64, LongString, Timestamp, encode_value

NOW = 1795692354
NAMES = ("reason", "queue", "exchange")


def published(key="q", exchange="", body=b"b", **properties) -> Message:
    return Message.make(exchange, key, Properties(**properties), body)


def in_one_piece(message: Message, channel: int = 3) -> Message:
    """The same message as a reader makes it."""
    frames = b"\x02" + channel.to_bytes(2) + len(message.header).to_bytes(4) + message.header
    frames += b"\xce\x03" + channel.to_bytes(2) + message.size.to_bytes(4) + message.body + b"\xce"
    made = Message.make(
        message.envelope.method.exchange,
        message.envelope.method.routing_key,
        message.properties,
        message.body,
        channel=channel,
    )
    return Message(made.envelope, frames, message.header_size, message.size, message.flags)


def die(message, queue="q", reason="expired", *, time=NOW, exchange="dlx", key=None) -> Message:
    deaths = Deaths(queue=queue, reason=reason, time_s=time, exchange=exchange, routing_key=key)
    return deaths.letter(message)[0]


def keys_of(message, key=None):
    deaths = Deaths(queue="q", reason="expired", time_s=NOW, exchange="dlx", routing_key=key)
    return deaths.letter(message)[1]


def death(queue="q", reason="expired", exchange="", keys=("q",), count=1, time=NOW, **more):
    """A table of x-death with the tags that RabbitMQ sends."""
    return {
        "count": Int64(count),
        "reason": reason,
        "queue": queue,
        "time": Timestamp(time),
        "exchange": exchange,
        "routing-keys": list(keys),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


def summary(which, queue="q", reason="expired", exchange=""):
    values = (reason, queue, exchange)
    return {f"x-{which}-death-{n}": value for n, value in zip(NAMES, values, strict=True)}


def history(*deaths, first, last):
    return {"x-death": list(deaths), **summary("first", **first), **summary("last", **last)}


def of_one(queue="q", reason="expired", exchange="", **more):
    what = {"queue": queue, "reason": reason, "exchange": exchange}
    return history(death(**what, **more), first=what, last=what)


FIRST_DEATHS = [
    pytest.param({}, of_one(), {}, id="no headers"),
    pytest.param({"headers": {}}, of_one(), {}, id="empty headers"),
    pytest.param(
        {"headers": {"z": 1, "a": "b"}, "content_type": "text/plain", "delivery_mode": 2},
        {"z": 1, "a": "b", **of_one()},
        {"content_type": "text/plain", "delivery_mode": 2},
        id="headers and properties",
    ),
    pytest.param(
        {"expiration": "10", "message_id": "m", "correlation_id": "c"},
        of_one(original_expiration="10"),
        {"message_id": "m", "correlation_id": "c"},
        id="expiration between others",
    ),
    pytest.param(
        {"expiration": "00100000", "headers": {"h": 1}},
        {"h": 1, **of_one(original_expiration="00100000")},
        {},
        id="expiration as it was written",
    ),
]


@pytest.mark.parametrize(("properties", "headers", "others"), FIRST_DEATHS)
@pytest.mark.parametrize("form", [lambda message: message, in_one_piece])
def test_first_death(properties, headers, others, form):
    dead = die(form(published(**properties)))

    assert Properties(**others, headers=headers) == dead.properties
    octets = split_headers(dead.header)
    assert encode_value(headers["x-death"]) == octets[b"x-death"]  # order and tags
    assert b"b" == dead.body


def test_octets_of_the_first_death_are_those_of_rabbitmq():
    seen = bytes.fromhex(  # x-death of a message without headers, rejected in the queue q1
        "410000006a460000006505636f756e746c000000000000000106726561736f6e5300000008"
        "72656a6563746564057175657565530000000271310474696d6554000000006b081742"
        "0865786368616e676553000000000c726f7574696e672d6b6579734100000007530000"
        "00027131"
    )

    dead = die(published("q1"), "q1", "rejected")

    assert seen == split_headers(dead.header)[b"x-death"]


@pytest.mark.parametrize("reason", ["rejected", "expired", "maxlen", "delivery_limit"])
def test_every_reason_is_named(reason):
    assert of_one(reason=reason) == die(published(), reason=reason).headers


def test_a_dead_letter_has_the_address_of_its_republication_and_the_channel_of_its_octets():
    message = in_one_piece(published("kk", "ex"), channel=3)

    deaths = Deaths(queue="q", reason="expired", time_s=NOW, exchange="dlx", routing_key="other")
    dead, keys, is_first = deaths.letter(message)

    assert ("dlx", "other") == dead.envelope.method[:2]
    assert ("other",) == keys
    assert is_first
    assert message.envelope.channel == dead.envelope.channel
    assert ["kk"] == dead.headers["x-death"][0]["routing-keys"]
    assert "ex" == dead.headers["x-death"][0]["exchange"]


def test_a_message_in_one_piece_stays_in_one_piece():
    dead = die(in_one_piece(published(body=b"body")))

    head = b"\x02\x00\x03" + dead.header_size.to_bytes(4)
    assert head + dead.header + b"\xce\x03\x00\x03\x00\x00\x00\x04body\xce" == dead.frames
    assert dead.header_size == len(dead.frames) - 2 * FRAME_HEAD - 4 - 2


def test_without_a_dead_letter_key_all_keys_stay():
    message = published("q9", headers={"CC": ["c1", 5, "c2", b"x"], "u": 5})

    dead = die(message, "q9", "rejected")

    assert ("q9", "c1", "c2") == keys_of(message)
    assert "q9" == dead.envelope.method.routing_key
    assert {
        "CC": ["c1", 5, "c2", b"x"],
        "u": 5,
        **of_one("q9", "rejected", keys=("q9", "c1", "c2")),
    } == dead.headers


def test_a_dead_letter_key_replaces_all_keys_and_takes_cc_away():
    message = published("q8", headers={"CC": ["c1", "c2"], "u": 5})

    dead = die(message, "q8", "rejected", key="other")

    assert ("other",) == keys_of(message, "other")
    assert {"u": 5, **of_one("q8", "rejected", keys=("q8", "c1", "c2"))} == dead.headers


def test_a_death_elsewhere_comes_first_and_the_first_death_stays_what_it_was():
    first = {"queue": "la", "reason": "rejected", "exchange": ""}
    last = {"queue": "lb", "reason": "expired", "exchange": "loopx"}
    message = published("la", expiration="50000", headers={"u": 1, "CC": ["nowhere"]})

    dead = die(message, "la", "rejected", exchange="loopx", key="lb")
    dead = die(dead, "lb", "expired", time=NOW + 1, exchange="loopx", key="la")

    old = death(**first, keys=("la", "nowhere"), original_expiration="50000")
    new = death(**last, keys=("lb",), time=NOW + 1)
    assert {"u": 1, **history(new, old, first=first, last=last)} == dead.headers
    assert dead.properties.expiration is None


def test_a_repeated_death_is_counted_comes_first_and_keeps_time_keys_and_exchange():
    first = {"queue": "la", "reason": "rejected", "exchange": ""}
    message = published("la", expiration="50000", headers={"CC": ["nowhere"]})

    for lap in range(3):
        message = die(message, "la", "rejected", time=NOW + lap, exchange="loopx", key="lb")
        [la, *_] = message.headers["x-death"]
        message = die(message, "lb", "expired", time=NOW + lap, exchange="loopx", key="la")
        [lb, other] = message.headers["x-death"]

    assert death(**first, count=3, keys=("la", "nowhere"), original_expiration="50000") == la
    assert death("lb", "expired", "loopx", ("lb",), 3) == lb
    assert la == other
    assert summary("first", **first).items() <= message.headers.items()
    assert summary("last", "lb", "expired", "loopx").items() <= message.headers.items()


def test_last_death_names_the_exchange_of_the_last_publication():
    message = published("q", "ex")

    message = die(die(message, key="q"), key="q")

    assert summary("last", exchange="dlx").items() <= message.headers.items()
    assert summary("first", exchange="ex").items() <= message.headers.items()
    assert [death(exchange="ex", count=2)] == message.headers["x-death"]


def test_the_same_queue_with_another_reason_is_another_death():
    message = die(die(published(), reason="expired", key="q"), reason="maxlen", key="q")

    assert ["maxlen", "expired"] == [one["reason"] for one in message.headers["x-death"]]


def test_a_queue_whose_name_begins_like_another_is_another_queue():
    message = die(die(published(), "queue", key="q"), "que", key="q")

    assert ["que", "queue"] == [one["queue"] for one in message.headers["x-death"]]


FORGED = [
    {"x-death": [death(count=7)]},
    {"x-death": "no table"},
    {"x-death": []},
    {"x-first-death-queue": "zz", "x-last-death-reason": 5},
    {"x-death": [{"count": 7}], "x-first-death-queue": "zz", "x-last-death-queue": "zz"},
]


@pytest.mark.parametrize("forged", FORGED)
def test_what_a_publisher_says_of_deaths_is_replaced(forged):
    dead = die(published(headers={**forged, "own": 1}))

    assert {"own": 1, **of_one()} == dead.headers


def test_a_dead_letter_that_a_client_publishes_again_begins_anew():
    consumed = die(die(published(), key="q"), key="q")

    dead = die(published(headers=consumed.headers))

    assert of_one() == dead.headers


def test_headers_that_mention_death_or_cc_do_not_matter():
    headers = {"CCC": [], "death": "x-death", "note": "CC", "o": LongString(b"\xff")}

    dead = die(published(headers=headers, app_id="death"))

    assert {**headers, **of_one()} == dead.headers
    assert ("q",) == keys_of(published(headers=headers))


def unreadable(*extra: bytes) -> Message:
    """A message whose table of headers has an unknown tag in it."""
    octets = b"\x03bad?" + b"".join(extra)
    message = published(headers={"a": 1}, message_id="m")
    table = len(octets).to_bytes(4) + octets
    header = message.header
    return message.with_header(header[:14] + table + header[14 + 4 + 7 :])


def test_unreadable_headers_outlive_no_second_death_and_break_nothing():
    first = die(unreadable(), key="q")

    second = die(first, key="q")

    assert not cycle(first, "q", "expired")
    assert of_one(exchange="dlx") == second.headers
    assert "m" == second.properties.message_id
    assert cycle(second, "q", "expired")


def test_unreadable_headers_that_seem_to_hold_a_death_go_at_once():
    assert of_one() == die(unreadable(b"x-death CC")).headers


def test_unreadable_copies_are_none():
    message = unreadable()
    octets = b"\x02CCA\x00\x00\x00\x01?"
    header = message.header
    table = len(octets).to_bytes(4) + octets
    message = message.with_header(header[:14] + table + header[-2:])

    assert ("q",) == keys_of(message)


def test_a_queue_the_message_died_in_without_a_rejection_since_is_a_cycle():
    message = die(published())

    assert cycle(message, "q", "expired")
    assert not cycle(message, "other", "expired")


def test_a_death_by_rejection_is_no_cycle():
    message = die(published(), reason="rejected")

    assert not cycle(message, "q", "rejected")


def test_a_rejection_since_then_breaks_the_cycle():
    through = die(die(published(), "a", "expired", key="b"), "b", "rejected", key="c")
    message = die(through, "c", "expired", key="a")

    assert cycle(message, "c", "expired")
    assert not cycle(message, "b", "expired")
    assert not cycle(message, "a", "expired")


def test_a_rejection_before_does_not_break_the_cycle():
    message = die(die(published(), "a", "rejected", key="b"), "b", "maxlen", key="b")

    assert cycle(message, "b", "maxlen")


def test_a_rejection_in_the_same_queue_counts_by_which_was_later():
    rejected_first = die(die(published(), "a", "rejected", key="a"), "a", "expired", key="a")
    again = die(rejected_first, "a", "rejected", key="b")
    rejected_last = die(again, "b", "expired", key="a")

    assert cycle(rejected_first, "a", "expired")
    assert not cycle(rejected_last, "a", "expired")


def test_a_name_within_other_headers_is_no_cycle():
    queue = "\x05queueS\x00\x00\x00\x05other"  # the octets of another queue's entry
    message = die(published(headers={"CC": [queue]}))

    assert not cycle(message, "other", "expired")


def test_what_a_publisher_says_of_deaths_makes_no_cycle():
    assert not cycle(published(headers={"x-death": [death("q")]}), "q", "expired")
