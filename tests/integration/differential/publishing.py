"""What is published: properties kept, messages returned, confirmed or refused."""

from decimal import Decimal

from leveret.protocol.methods import (
    BasicConsume,
    BasicGet,
    ChannelOpen,
    ConfirmSelect,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    TxSelect,
)
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

from .conversation import conversation, differs, reworded

ALL = {
    "content_type": "text/plain",
    "content_encoding": "utf-8",
    "headers": {"key": "value"},
    "delivery_mode": 2,
    "priority": 9,
    "correlation_id": "correlation",
    "reply_to": "reply",
    "expiration": "60000",
    "message_id": "message",
    "timestamp": 1_700_000_000,
    "type": "type",
    "user_id": "guest",
    "app_id": "app",
    "cluster_id": "cluster",
}
PROPERTIES = {
    "all": ALL,
    "none": {},
    **{name: {name: value} for name, value in ALL.items()},
    "empty_strings": {"content_type": "", "message_id": "", "correlation_id": ""},
    "zeros": {"priority": 0, "delivery_mode": 0, "timestamp": 0},
    "largest": {"priority": 255, "delivery_mode": 255, "timestamp": (1 << 64) - 1},
    "empty_headers": {"headers": {}},
    "unicode": {"message_id": "\u00fc\u6f22", "app_id": "x" * 255},
}


def _transient(shown: str):
    return differs(
        "every delivery mode but 2 is transient, as in 3.13",
        "a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0",
        "a1 < basic.get-ok delivery_tag=1 redelivered=False exchange='' routing_key='~q'"
        f" message_count=0 {shown} b'body'",
    )


@conversation(
    each=PROPERTIES,
    unless={
        "zeros": _transient("delivery_mode=0 priority=0 timestamp=0"),
        "largest": _transient("delivery_mode=255 priority=255 timestamp=18446744073709551615"),
    },
)
def properties_arrive_as_published(talk, properties):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a.publish("", talk.q, b"body", **properties)
    a(BasicGet(talk.q, no_ack=True))


HEADERS = {
    "bool": True,
    "int8": Int8(-8),
    "uint8": UInt8(200),
    "int16": Int16(-300),
    "uint16": UInt16(60_000),
    "int32": -70_000,
    "uint32": UInt32(4_000_000_000),
    "int64": Int64(-1),
    "long_int64": LongInt64(1 << 40),
    "float32": Float32(0.5),
    "float64": 0.1,
    "decimal": Decimal("3.14"),
    "string": "text",
    "octets": LongString(b"\xff\xfe"),
    "bytes": b"\0\1",
    "array": [1, "two", [3.0, None], {"four": 4}],
    "table": {"a": {"b": {"c": [True]}}},
    "timestamp": Timestamp(1_700_000_000),
    "void": None,
    "long_name": "n",
}


@conversation(each=HEADERS)
def header_value_arrives_as_published(talk, value):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    name = "n" * 255 if value == "n" else "name"
    a.publish("", talk.q, b"body", headers={name: value, "after": "it"})
    a(BasicGet(talk.q, no_ack=True))


@conversation
def publishing_to_a_missing_exchange(talk):
    a = talk.channel()
    a.publish(talk.x, "key", b"x")
    a.quiet()


@conversation
def publishing_to_a_missing_exchange_gives_no_confirm(talk):
    a = talk.channel()
    a(ConfirmSelect())
    a.publish(talk.x, "key", b"x", mandatory=True)
    a.quiet()


@conversation
def second_content_after_a_failed_publish_is_dropped(talk):
    a = talk.channel()
    a.polite = False
    a(QueueDeclare(talk.q))
    a.publish(talk.x, "key", b"fails")
    a.publish("", talk.q, b"dropped")
    a.hear()
    b = a.peer.channel()
    b(QueueDeclare(talk.q, passive=True))


@conversation
def mandatory_message_without_queue_is_returned(talk):
    a = talk.channel()
    a.publish("amq.direct", talk.q, b"back", mandatory=True, **ALL)
    a.hear()


@conversation
def mandatory_message_with_a_large_body_is_returned(talk):
    a = talk.channel(frame_max=4096)
    a.publish("amq.direct", talk.q, bytes(10_000), mandatory=True)
    (event,) = a.hear()
    a.note(f"< body frames of {event.frames}")


@conversation
def message_without_queue_is_dropped(talk):
    a = talk.channel()
    a.publish("amq.direct", talk.q, b"gone")
    a.quiet()


@conversation
def mandatory_message_with_queue_is_not_returned(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a.publish("", talk.q, b"stays", mandatory=True)
    a.drain(talk.q)


@conversation(each={"routed": True, "unrouted": False})
def immediate_is_not_implemented(talk, routed):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a.publish("", talk.q if routed else "nowhere", b"x", immediate=True)
    a.quiet()


@conversation
def return_precedes_the_confirm(talk):
    a = talk.channel()
    a(ConfirmSelect())
    a.publish("amq.direct", talk.q, b"back", mandatory=True)
    a.hear(2)


@conversation
def returns_come_in_the_order_of_publishing(talk):
    a = talk.channel()
    a(ConfirmSelect())
    a(QueueDeclare(talk.q, exclusive=True))
    for number in range(6):
        key = talk.q if number % 2 else "nowhere"
        a.publish("", key, str(number).encode(), mandatory=True)
    a.hear_confirms(6)


@conversation
def confirms_of_transient_messages(talk):
    a = talk.channel()
    a(ConfirmSelect())
    a(QueueDeclare(talk.q, exclusive=True))
    for number in range(5):
        a.publish("", talk.q, str(number).encode())
    a.hear_confirms(5)


@conversation
def confirms_of_persistent_messages(talk):
    a = talk.channel()
    a(ConfirmSelect())
    a(QueueDeclare(talk.q, durable=True))
    for number in range(5):
        a.publish("", talk.q, str(number).encode(), delivery_mode=2)
    a.hear_confirms(5)
    a(QueueDelete(talk.q))


@conversation
def confirms_count_from_select(talk):
    a = talk.channel()
    a.publish("", "nowhere", b"before")
    a(ConfirmSelect())
    a.publish("", "nowhere", b"first")
    a.hear(1)


@conversation
def confirm_select_twice_goes_on_counting(talk):
    a = talk.channel()
    a(ConfirmSelect())
    a.publish("", "nowhere", b"first")
    a.hear(1)
    a(ConfirmSelect())
    a.publish("", "nowhere", b"second")
    a.hear(1)


@conversation
def confirm_select_without_answer(talk):
    a = talk.channel()
    a(ConfirmSelect(no_wait=True))
    a.publish("", "nowhere", b"first")
    a.hear_confirms(1)


@conversation
def confirms_of_each_channel_count_alone(talk):
    a = talk.channel()
    b = a.peer.channel()
    a(ConfirmSelect())
    b(ConfirmSelect())
    a.publish("", "nowhere", b"a")
    b.publish("", "nowhere", b"b")
    a.hear(1)
    b.hear(1)


@conversation
def confirms_start_again_on_a_reopened_channel(talk):
    a = talk.channel()
    a(ConfirmSelect())
    a.publish("", "nowhere", b"x")
    a.hear(1)
    a.publish(talk.x, "", b"fails")
    a.quiet()
    a(ChannelOpen())
    a.publish("", "nowhere", b"not confirmed")
    a.quiet()


@conversation
def confirm_of_a_fanned_out_message_is_one(talk):
    a = talk.channel()
    a(ConfirmSelect())
    for queue in talk.names("one two three"):
        a(QueueDeclare(queue, exclusive=True))
        a(QueueBind(queue, "amq.direct", talk.title))
    a.publish("amq.direct", talk.title, b"x", mandatory=True)
    a.hear_confirms(1)


@conversation
def message_is_confirmed_when_a_consumer_has_it(talk):
    a = talk.channel()
    b = a.peer.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    b(BasicConsume(talk.q, "tag"))
    a(ConfirmSelect())
    a.publish("", talk.q, b"x")
    a.hear_confirms(1)
    b.hear()


@conversation(
    each={
        "tx_then_confirm": (TxSelect(), ConfirmSelect()),
        "confirm_then_tx": (ConfirmSelect(), TxSelect()),
    }
)
def transactions_and_confirms_exclude_each_other(talk, first, second):
    a = talk.channel()
    a(first)
    a(second)


EXPIRATIONS = {
    "word": "soon",
    "negative": "-1",
    "float": "1.5",
    "empty": "",
    "space": " 5",
    "space_after": "5 ",
    "hex": "0x10",
    "too_large": "315360000001",
    "huge": "9" * 40,
    "trailing": "100ms",
    "two_signs": "--5",
    "both_signs": "+-5",
    "plus": "+",
}


@conversation(
    each=EXPIRATIONS,
    unless={
        "huge": reworded(
            "Erlang breaks lines", (r"value_too_large,\n" + " " * 64, "value_too_large,")
        )
    },
)
def expiration_that_is_refused(talk, expiration):
    a = talk.channel()
    a.publish("", "nowhere", b"x", expiration=expiration)
    a.quiet()


@conversation(
    each={"zero": "0", "ten_years": "315360000000", "leading_zeros": "0060000", "plus": "+60000"}
)
def expiration_that_is_accepted(talk, expiration):
    a = talk.channel()
    a.publish("", "nowhere", b"x", expiration=expiration, mandatory=True)
    a.hear()


@conversation(each={"own": "guest", "other": "clerk", "missing": "nobody", "empty": ""})
def user_id_must_be_the_own(talk, user):
    a = talk.channel()
    a.publish("", "nowhere", b"x", user_id=user, mandatory=True)
    a.hear()


@conversation
def impersonator_may_use_another_user_id(talk):
    a = talk.channel(user="herald", password="herald")
    a.publish("", "nowhere", b"x", user_id="clerk", mandatory=True)
    a.hear()


ORDER = {
    "missing_exchange_before_expiration": {"exchange": "missing", "expiration": "bad"},
    "expiration_before_cc": {"expiration": "bad", "headers": {"CC": 1}},
    "cc_before_user_id": {"headers": {"CC": 1}, "user_id": "other"},
    "expiration_before_user_id": {"expiration": "bad", "user_id": "other"},
    "missing_exchange_before_user_id": {"exchange": "missing", "user_id": "other"},
}


def _told_first(text: str):
    return differs(
        "the order of 3.13, in which the user comes last",
        f"a1 < channel.close 406 {text} at basic.publish",
    )


@conversation(
    each=ORDER,
    unless={
        "cc_before_user_id": _told_first(
            """'PRECONDITION_FAILED - invalid message: """
            """{unacceptable_type_in_header,"CC",signedint}'"""
        ),
        "expiration_before_user_id": _told_first(
            """"PRECONDITION_FAILED - invalid expiration 'bad': no_integer\""""
        ),
    },
)
def first_of_two_mistakes_is_told(talk, options):
    a = talk.channel()
    exchange = options.get("exchange", "amq.direct")
    a.publish(exchange, "x", **{key: options[key] for key in options if key != "exchange"})
    a.quiet()


@conversation
def priority_does_not_matter_on_a_plain_queue(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    for number in (1, 9, 5):
        a.publish("", talk.q, str(number).encode(), priority=number)
    a.drain(talk.q)


@conversation
def long_routing_key(talk):
    a = talk.channel()
    a.publish("amq.direct", "k" * 255, b"x", mandatory=True)
    a.hear()
