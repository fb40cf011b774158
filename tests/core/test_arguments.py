"""x-arguments: what is accepted, and the texts of RabbitMQ 3.10 for what is not."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from leveret.broker.core.arguments import (
    CONSUMER_ARGUMENTS,
    QUEUE_ARGUMENTS,
    check_consumer_arguments,
    check_equivalence,
    check_exchange_name,
    check_field,
    check_queue_arguments,
    check_queue_equivalence,
    ineffective,
    refused,
    type_name,
)
from leveret.protocol.errors import PreconditionFailed
from leveret.protocol.table import (
    Float32,
    Int8,
    Int16,
    Int64,
    LongInt64,
    LongString,
    Timestamp,
    UInt8,
    UInt16,
    UInt32,
)

SUBJECT = "queue 'q' in vhost '/'"


def refusal(check, *args, **kwargs):
    with pytest.raises(PreconditionFailed) as caught:
        check(*args, **kwargs)
    return caught.value.text


def check(arguments, *, durable=True, auto_delete=False, exclusive=False):
    check_queue_arguments(
        arguments, SUBJECT, durable=durable, auto_delete=auto_delete, exclusive=exclusive
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, "signedint"),
        (1 << 31, "long"),
        (Int64(1), "long"),
        (LongInt64(1), "long"),
        (Int8(1), "byte"),
        (UInt8(1), "unsignedbyte"),
        (Int16(1), "short"),
        (UInt16(1), "unsignedshort"),
        (UInt32(1), "unsignedint"),
        (True, "bool"),
        (1.5, "double"),
        (Float32(1.5), "float"),
        (Decimal(1), "decimal"),
        ("s", "longstr"),
        (LongString(b"\xff"), "longstr"),
        (b"b", "binary"),
        (datetime(2024, 1, 1, tzinfo=UTC), "timestamp"),
        (Timestamp(1), "timestamp"),
        ([], "array"),
        ({}, "table"),
        (None, "void"),
    ],
)
def test_types_have_rabbitmqs_names(value, expected):
    assert expected == type_name(value)


INTEGERS = [
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-consumer-timeout",
]


@pytest.mark.parametrize("argument", INTEGERS)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("s", '"expected integer, got longstr"'),
        (b"b", '"expected integer, got binary"'),
        (True, '"expected integer, got bool"'),
        (None, '"expected integer, got void"'),
        ([1], '"expected integer, got array"'),
        ({"a": 1}, '"expected integer, got table"'),
        (Decimal("1.5"), '"expected integer, got decimal"'),
        (Timestamp(1), '"expected integer, got timestamp"'),
        (1.0, '"expected integer, got double"'),
        (-1, "{value_negative,-1}"),
    ],
)
def test_numbers_must_be_integers_and_not_negative(argument, value, reason):
    expected = f"invalid arg '{argument}' for {SUBJECT}: {reason}"
    assert expected == refusal(check, {argument: value})


@pytest.mark.parametrize("argument", INTEGERS)
@pytest.mark.parametrize("kind", [int, Int8, UInt8, Int16, UInt16, UInt32, Int64, LongInt64])
def test_integers_of_every_width_are_accepted(argument, kind):
    check({argument: kind(5)})


ACCEPTED = [
    ("x-message-ttl", 0),
    ("x-message-ttl", 315_360_000_000),
    ("x-expires", 1),
    ("x-max-length", 0),
    ("x-max-length", 1 << 40),
    ("x-max-priority", 0),
    ("x-max-priority", 255),
    ("x-overflow", "drop-head"),
    ("x-overflow", "reject-publish"),
    ("x-overflow", "reject-publish-dlx"),
    ("x-dead-letter-exchange", ""),
    ("x-single-active-consumer", False),
    ("x-queue-type", "classic"),
    ("x-queue-type", "quorum"),
    ("x-queue-type", "rabbit_classic_queue"),
    ("x-queue-type", "rabbit_quorum_queue"),
    ("x-queue-mode", "default"),
    ("x-queue-mode", "lazy"),
    ("x-queue-version", 1),
    ("x-queue-version", 2),
    ("x-dead-letter-strategy", "at-most-once"),
    ("x-dead-letter-strategy", "at-least-once"),
    ("x-delivery-limit", 20),
    ("x-delivery-limit", -1),
    ("x-queue-leader-locator", "balanced"),
    ("x-quorum-initial-group-size", 3),
    ("x-max-in-memory-length", 10),
    ("x-max-in-memory-bytes", 10),
    ("x-unknown", [1, None]),
]


@pytest.mark.parametrize(("argument", "value"), ACCEPTED)
def test_values_that_are_accepted(argument, value):
    """Arguments of quorum queues are accepted on every queue."""
    check({argument: value})


REFUSED = [
    ("x-message-ttl", 315_360_000_001, "{value_too_large,315360000001}"),
    ("x-expires", 0, "{value_zero,0}"),
    ("x-expires", 315_360_000_001, "{value_too_large,315360000001}"),
    ("x-max-priority", 256, "{max_value_exceeded,256}"),
    ("x-overflow", "s", "invalid_overflow"),
    ("x-overflow", 1, "{unacceptable_type,signedint}"),
    ("x-single-active-consumer", 1, "{unacceptable_type,signedint}"),
    ("x-single-active-consumer", "true", "{unacceptable_type,longstr}"),
    ("x-queue-type", "s", "\"unsupported queue type 's'\""),
    ("x-queue-type", "stream", "\"unsupported queue type 'stream'\""),
    ("x-queue-mode", "s", "\"unsupported queue mode 's'\""),
    ("x-queue-version", 3, "\"unsupported queue version '3'\""),
    ("x-queue-version", "2", '"expected integer, got longstr"'),
    ("x-dead-letter-routing-key", "k", "routing_key_but_no_dlx_defined"),
    ("x-dead-letter-routing-key", 1, "{unacceptable_type,signedint}"),
]


@pytest.mark.parametrize(("argument", "value", "reason"), REFUSED)
def test_values_that_are_refused(argument, value, reason):
    expected = f"invalid arg '{argument}' for {SUBJECT}: {reason}"
    assert expected == refusal(check, {argument: value})


def test_dead_letter_routing_key_needs_the_exchange():
    check({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "k"})


def test_dead_letter_exchange_of_a_wrong_type_has_a_text_of_its_own_and_comes_first():
    expected = f"invalid type 'signedint' for arg 'x-dead-letter-exchange' in {SUBJECT}"
    assert expected == refusal(check, {"x-expires": "s", "x-dead-letter-exchange": 1})


def test_of_several_mistakes_the_first_of_the_table_is_reported():
    text = refusal(check, {"x-max-priority": -1, "x-overflow": 1, "x-max-length": -1})
    assert f"invalid arg 'x-max-length' for {SUBJECT}: {{value_negative,-1}}" == text


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({"durable": False}, "non-durable"),
        ({"exclusive": True}, "exclusive-owner"),
        ({"exclusive": True, "durable": False}, "exclusive-owner"),
        ({"auto_delete": True}, "auto-delete"),
        ({"auto_delete": True, "exclusive": True}, "auto-delete"),
    ],
)
def test_quorum_queues_are_durable_shared_and_stay(properties, named):
    expected = f"invalid property '{named}' for {SUBJECT}"
    assert expected == refusal(check, {"x-queue-type": "quorum"}, **properties)


# consumers


@pytest.mark.parametrize("value", [0, -5, 1 << 40, Int8(3)])
def test_consumer_priority_is_any_integer(value):
    check_consumer_arguments({"x-priority": value, "x-other": "ignored"}, SUBJECT)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"x-priority": "s"},
            f"invalid arg 'x-priority' for {SUBJECT}: \"expected integer, got longstr\"",
        ),
        (
            {"x-priority": True},
            f"invalid arg 'x-priority' for {SUBJECT}: \"expected integer, got bool\"",
        ),
        (
            {"x-cancel-on-ha-failover": 1},
            f"invalid arg 'x-cancel-on-ha-failover' for {SUBJECT}: {{unacceptable_type,signedint}}",
        ),
        (
            {"x-stream-offset": "first"},
            f"invalid arg 'x-stream-offset' for {SUBJECT} of queue type rabbit_classic_queue",
        ),
    ],
)
def test_consumer_arguments_that_are_refused(arguments, text):
    assert text == refusal(check_consumer_arguments, arguments, SUBJECT)


# redeclaration


@pytest.mark.parametrize(
    ("received", "current"),
    [
        ({}, {}),
        ({"x-message-ttl": 5}, {"x-message-ttl": Int8(5)}),
        ({"x-queue-type": "classic"}, {}),
        ({}, {"x-queue-type": "rabbit_classic_queue"}),
        ({"x-queue-type": "quorum"}, {"x-queue-type": "rabbit_quorum_queue"}),
        ({"x-unknown": 1}, {}),
        ({"x-unknown": 1}, {"x-unknown": 2}),
        ({"x-queue-leader-locator": "balanced"}, {}),
    ],
)
def test_arguments_that_are_equivalent(received, current):
    check_queue_equivalence(received, current, SUBJECT)


@pytest.mark.parametrize(
    ("received", "current", "text"),
    [
        (
            {"x-message-ttl": 6},
            {"x-message-ttl": 5},
            "arg 'x-message-ttl' for {}: received '6' but current is '5'",
        ),
        (
            {"x-message-ttl": 5},
            {},
            "arg 'x-message-ttl' for {}: "
            "received the value '5' of type 'signedint' but current is none",
        ),
        (
            {},
            {"x-message-ttl": 1 << 40},
            "arg 'x-message-ttl' for {}: "
            "received none but current is the value '1099511627776' of type 'long'",
        ),
        (
            {"x-single-active-consumer": True},
            {"x-single-active-consumer": False},
            "arg 'x-single-active-consumer' for {}: received 'true' but current is 'false'",
        ),
        (
            {"x-dead-letter-exchange": "a"},
            {"x-dead-letter-exchange": "b"},
            "arg 'x-dead-letter-exchange' for {}: received 'a' but current is 'b'",
        ),
        (
            {"x-queue-type": "quorum"},
            {},
            "arg 'x-queue-type' for {}: "
            "received the value 'quorum' of type 'longstr' but current is none",
        ),
        (
            {"x-queue-type": 1},
            {"x-queue-type": "quorum"},
            "arg 'x-queue-type' for {}: received '1' but current is 'quorum'",
        ),
        (
            {"x-max-length": 1, "x-expires": 2},
            {"x-max-length": 2, "x-expires": 1},
            "arg 'x-expires' for {}: received '2' but current is '1'",
        ),
    ],
)
def test_arguments_that_differ(received, current, text):
    expected = "inequivalent " + text.format(SUBJECT)
    assert expected == refusal(check_queue_equivalence, received, current, SUBJECT)


def test_fields_that_differ_are_printed_as_words():
    text = refusal(check_field, "durable", True, False, SUBJECT)
    assert (
        f"inequivalent arg 'durable' for {SUBJECT}: received 'true' but current is 'false'" == text
    )
    check_field("durable", True, True, SUBJECT)


def test_an_argument_set_to_void_is_not_an_absent_one():
    text = refusal(check_equivalence, ["x"], {"x": None}, {}, SUBJECT)
    assert (
        f"inequivalent arg 'x' for {SUBJECT}: "
        "received the value 'undefined' of type 'void' but current is none"
    ) == text


def test_an_argument_names_an_exchange():
    assert None is check_exchange_name({}, "alternate-exchange", "exchange 'x' in vhost '/'")
    assert "a" == check_exchange_name({"alternate-exchange": "a"}, "alternate-exchange", "")
    assert (
        "invalid type 'bool' for arg 'alternate-exchange' in exchange 'x' in vhost '/'"
        == refusal(
            check_exchange_name,
            {"alternate-exchange": True},
            "alternate-exchange",
            "exchange 'x' in vhost '/'",
        )
    )


def test_arguments_without_effect_are_told(monkeypatch):
    monkeypatch.setitem(
        QUEUE_ARGUMENTS, "x-expires", QUEUE_ARGUMENTS["x-expires"]._replace(effective=False)
    )
    monkeypatch.setitem(
        QUEUE_ARGUMENTS, "x-max-length", QUEUE_ARGUMENTS["x-max-length"]._replace(effective=True)
    )

    found = ineffective({"x-max-length": 1, "x-unknown": 1, "x-expires": 1})
    assert ["x-expires"] == found


def test_priority_is_known_to_consumers():
    assert "x-priority" in CONSUMER_ARGUMENTS


def test_without_arguments_no_row_of_the_table_is_looked_at():
    names = iter(["x-expires"])
    check_equivalence(names, {}, {}, "queue 'q'")

    assert "x-expires" == next(names)
    assert [] == list(refused(Unread(), {}))


class Unread(dict):
    """A table that nobody may go through."""

    def items(self):
        raise AssertionError("it was read")
