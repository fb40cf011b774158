"""Frames that are wrong, too large, out of order or interleaved, and those that only look so."""

from leveret.protocol import properties as contents
from leveret.protocol.codec import encode_method
from leveret.protocol.methods import (
    BasicGet,
    BasicPublish,
    BasicQos,
    ChannelClose,
    ChannelOpen,
    ConfirmSelect,
    QueueDeclare,
)
from leveret.protocol.properties import Properties

from .conversation import conversation, differs, reworded
from .talk import BODY, FRAME, HEADER, HEARTBEAT, METHOD, frame, method_frame

ERLANG = "the words of RabbitMQ are Erlang terms"
CLOSED = "a0 | closed"
PUBLISH = encode_method(BasicPublish("", "nowhere"))


def _header(size: int, class_id: int = 60) -> bytes:
    payload = contents.encode(Properties(), size)
    return class_id.to_bytes(2, "big") + payload[2:]


@conversation(
    each={"method": METHOD, "heartbeat": HEARTBEAT},
    unless={
        label: differs(
            ERLANG,
            f"a0 < connection.close 501 'FRAME_ERROR - type {kind},"
            " frame end octet 205 is not 206' at (0, 0)",
            CLOSED,
        )
        for label, kind in {"method": METHOD, "heartbeat": HEARTBEAT}.items()
    },
)
def frame_with_a_bad_end(talk, kind):
    a = talk.channel()
    payload = encode_method(BasicQos()) if kind == METHOD else b""
    channel = 1 if kind == METHOD else 0
    a.peer.say_bytes(frame(kind, channel, payload, b"\xcd"), "a frame that ends in 0xCD")
    a.peer.end()


@conversation
def frame_above_frame_max(talk):
    a = talk.channel(frame_max=4096)
    a.peer.say_bytes(FRAME.pack(METHOD, 1, 4097), "the head of a frame of 4097 octets")
    a.peer.end()


@conversation
def frame_with_a_payload_of_frame_max(talk):
    a = talk.channel(frame_max=4096)
    a(ConfirmSelect())
    a.peer.write(method_frame(1, BasicPublish("", "nowhere")))
    a.peer.write(frame(HEADER, 1, _header(4096)))
    a.peer.say_bytes(frame(BODY, 1, bytes(4096)), "a body frame with 4096 octets of payload")
    a.hear_confirms(1)


UNKNOWN_TYPES = {
    str(kind): reworded(
        ERLANG,
        (f'type {kind}, all octets = <<"abc">>: unknown_frame', f"unknown frame type {kind}"),
    )
    for kind in (0, 4, 5, 7, 9, 65, 255)
}


@conversation(each={kind: int(kind) for kind in UNKNOWN_TYPES}, unless=UNKNOWN_TYPES)
def frame_of_unknown_type(talk, kind):
    a = talk.channel()
    a.peer.say_bytes(frame(kind, 1, b"abc"), f"a frame of type {kind}")
    a.peer.end()


@conversation(each={"0": 0, "9": 9}, unless={kind: UNKNOWN_TYPES[kind] for kind in ("0", "9")})
def frame_of_unknown_type_on_channel_0(talk, kind):
    a = talk.channel()
    a.peer.say_bytes(frame(kind, 0, b"abc"), f"a frame of type {kind}")
    a.peer.end()


@conversation(unless=reworded(ERLANG, ("type 8, all octets = <<>>", "heartbeat on channel 1")))
def heartbeat_on_a_channel(talk):
    a = talk.channel()
    a.peer.say_bytes(frame(HEARTBEAT, 1, b""), "a heartbeat on channel 1")
    a.peer.end()


@conversation(
    unless=reworded(
        ERLANG,
        ('type 8, all octets = <<"abc">>: unknown_frame', "heartbeat with a payload"),
    )
)
def heartbeat_with_a_payload(talk):
    a = talk.channel()
    a.peer.say_bytes(frame(HEARTBEAT, 0, b"abc"), "a heartbeat with a payload")
    a.quiet()


@conversation(
    each={"header": (HEADER, _header(1)), "body": (BODY, b"x")},
    unless={
        "header": reworded(
            ERLANG,
            (
                "type 2, all octets = <<0,60,0,0,0,0,0,0,0,0,0,1,0,0>>",
                "content on channel 0",
            ),
        ),
        "body": reworded(
            ERLANG,
            ('type 3, all octets = <<"x">>', "content on channel 0"),
        ),
    },
)
def content_frame_on_channel_0(talk, kind, payload):
    a = talk.channel()
    a.peer.say_bytes(frame(kind, 0, payload), "a content frame on channel 0")
    a.peer.end()


@conversation(each={"header": (HEADER, _header(1)), "body": (BODY, b"x")})
def content_frame_on_an_unopened_channel(talk, kind, payload):
    a = talk.channel()
    a.peer.say_bytes(frame(kind, 7, payload), "a content frame on channel 7")
    a.peer.end()


@conversation(each={"header": (HEADER, _header(1)), "body": (BODY, b"x")})
def content_frame_without_a_method(talk, kind, payload):
    a = talk.channel()
    a.peer.say_bytes(frame(kind, 1, payload), "a content frame")
    a.peer.end()


@conversation
def method_where_a_header_is_due(talk):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, PUBLISH), "basic.publish")
    a(BasicQos())


@conversation
def method_where_a_body_is_due(talk):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, PUBLISH), "basic.publish")
    a.peer.say_bytes(frame(HEADER, 1, _header(1)), "a header")
    a(BasicQos())


@conversation
def channel_close_where_a_body_is_due(talk):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, PUBLISH), "basic.publish")
    a.peer.say_bytes(frame(HEADER, 1, _header(1)), "a header")
    a(ChannelClose())


@conversation
def second_publish_where_a_header_is_due(talk):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, PUBLISH) * 2, "basic.publish twice")
    a.peer.end()


@conversation
def header_where_a_body_is_due(talk):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, PUBLISH), "basic.publish")
    a.peer.say_bytes(frame(HEADER, 1, _header(1)) * 2, "two headers")
    a.peer.end()


@conversation
def body_where_a_header_is_due(talk):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, PUBLISH), "basic.publish")
    a.peer.say_bytes(frame(BODY, 1, b"x"), "a body")
    a.peer.end()


@conversation
def body_after_an_empty_content(talk):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, PUBLISH), "basic.publish")
    a.peer.say_bytes(frame(HEADER, 1, _header(0)), "a header of an empty body")
    a.peer.say_bytes(frame(BODY, 1, b""), "an empty body")
    a.peer.end()


@conversation(each={"queue": 50, "zero": 0, "unknown": 999})
def header_of_another_class(talk, class_id):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, PUBLISH), "basic.publish")
    a.peer.say_bytes(frame(HEADER, 1, _header(1, class_id)), f"a header of class {class_id}")
    a.peer.end()


@conversation(
    unless=differs(
        "told at once, not at the next frame",
        "a1 < confirm.select-ok",
        "a0 < connection.close 501"
        " 'FRAME_ERROR - body is longer than the announced 3 octets' at basic.publish",
        CLOSED,
    )
)
def body_longer_than_declared(talk):
    a = talk.channel()
    a(ConfirmSelect())
    a.peer.say_bytes(frame(METHOD, 1, PUBLISH), "basic.publish")
    a.peer.say_bytes(frame(HEADER, 1, _header(3)), "a header of a body of 3")
    a.peer.say_bytes(frame(BODY, 1, b"four"), "a body of 4")
    a(BasicQos())


SIZES = {"512_mib_and_one": (512 << 20) + 1, "all_ones": (1 << 64) - 1}


@conversation(
    each=SIZES,
    unless={
        label: differs(
            "told at the header",
            f"a0 < connection.close 501 'FRAME_ERROR - body size {size}"
            " is larger than 536870912' at basic.publish",
            CLOSED,
        )
        for label, size in SIZES.items()
    },
)
def body_size_out_of_reason(talk, size):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, PUBLISH), "basic.publish")
    a.peer.say_bytes(frame(HEADER, 1, _header(size)), f"a header of a body of {size}")
    a(BasicQos())


@conversation
def body_in_frames_of_any_size(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a.peer.write(method_frame(1, BasicPublish("", talk.q)))
    a.peer.write(frame(HEADER, 1, _header(6)))
    for part in (b"a", b"", b"bcd", b"", b"ef"):
        a.peer.say_bytes(frame(BODY, 1, part), f"a body frame {part!r}")
    a(BasicGet(talk.q, no_ack=True))


@conversation
def frames_split_into_single_octets(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    for octet in b"".join(a.publish_frames(BasicPublish("", talk.q), b"body")):
        a.peer.write(bytes((octet,)))
    a(BasicGet(talk.q, no_ack=True))


@conversation
def contents_of_two_channels_interleave(talk):
    a = talk.channel()
    b = a.peer.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    method = BasicPublish("", talk.q)
    one, two = a.publish_frames(method, b"one"), b.publish_frames(method, b"two")
    a.peer.say_bytes(one[0] + two[0] + two[1] + one[1] + two[2], "interleaved, the second done")
    b.quiet()
    b(BasicGet(talk.q, no_ack=True))
    a.peer.say_bytes(one[2], "the first done")
    a(BasicGet(talk.q, no_ack=True))


@conversation
def delivered_body_is_cut_to_frame_max(talk):
    a = talk.channel()
    b = talk.channel(frame_max=4096)
    a(QueueDeclare(talk.q))
    a(ConfirmSelect())
    a.publish("", talk.q, bytes(10_000))
    a.hear_confirms(1)
    b.send(BasicGet(talk.q, no_ack=True))
    (event,) = b.hear()
    b.note(f"< body frames of {event.frames}")


@conversation
def body_of_many_frames(talk):
    a = talk.channel(frame_max=4096)
    b = talk.channel()
    body = bytes(range(256)) * 1000
    a(QueueDeclare(talk.q))
    a(ConfirmSelect())
    a.publish("", talk.q, body)
    a.hear_confirms(1)
    b.send(BasicGet(talk.q, no_ack=True))
    (event,) = b.hear()
    b.note(f"< the same body: {event.body == body}, in frames of any size")


@conversation
def empty_body_has_no_body_frame(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a.publish("", talk.q)
    a.send(BasicGet(talk.q, no_ack=True))
    (event,) = a.hear()
    a.note(f"< body frames of {event.frames}")


UNDECODABLE = {
    "cut_short": encode_method(QueueDeclare("queue"))[:-3],
    "left_over": encode_method(BasicQos()) + b"\0",
    "no_arguments": encode_method(QueueDeclare("queue"))[:4],
    "string_longer_than_frame": b"\0\x32\0\x0a\0\0\xffabc\0\0\0\0\0",
    "table_longer_than_frame": encode_method(QueueDeclare("q"))[:-4] + b"\0\0\xff\xff",
    "table_tag_unknown": encode_method(QueueDeclare("q"))[:-4] + b"\0\0\0\x05\x01kZ\0\0",
    "table_value_cut_short": encode_method(QueueDeclare("q"))[:-4] + b"\0\0\0\x05\x01kI\0\0",
    "string_not_utf8": b"\0\x32\0\x0a\0\0\x02\xff\xfe\0\0\0\0\0",
    "string_with_surrogate": b"\0\x32\0\x0a\0\0\x03\xed\xa0\x80\0\0\0\0\0",
}


def _undecodable(explanation: str, culprit: str = "queue.declare"):
    return differs(
        "say what is wrong instead of hanging up, or of showing the octets",
        f"a0 < connection.close 501 'FRAME_ERROR - {explanation}' at {culprit}",
        CLOSED,
    )


@conversation(
    each=UNDECODABLE,
    unless={
        "cut_short": _undecodable("cannot decode table: cut short"),
        "table_longer_than_frame": _undecodable("cannot decode table: cut short"),
        "table_tag_unknown": _undecodable("cannot decode table: unknown type tag 90"),
        "table_value_cut_short": _undecodable("cannot decode table: cut short"),
        "string_with_surrogate": _undecodable("Malformed UTF-8 in shortstr", "(0, 0)"),
    },
)
def arguments_that_cannot_be_decoded(talk, payload):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, payload), repr(payload))
    a.peer.end()


UNKNOWN = {
    "class": (999, 10),
    "method": (50, 99),
    "zeros": (0, 0),
    "class_file": (70, 10),
    "basic_publish_ok": (60, 41),
}


@conversation(
    each=UNKNOWN,
    unless={
        label: differs(
            "503 instead of hanging up",
            f"a0 < connection.close 503 'COMMAND_INVALID - unknown method {class_id},{method_id}'"
            f" at ({class_id}, {method_id})",
            CLOSED,
        )
        for label, (class_id, method_id) in UNKNOWN.items()
    },
)
def unknown_method(talk, class_id, method_id):
    a = talk.channel()
    payload = class_id.to_bytes(2, "big") + method_id.to_bytes(2, "big")
    a.peer.say_bytes(frame(METHOD, 1, payload), f"method {class_id}, {method_id}")
    a.peer.end()


@conversation(
    each={"nothing": b"", "three_octets": b"\0\x3c\0"},
    unless={
        "nothing": reworded(
            ERLANG,
            ("type 1, all octets = <<>>: unknown_frame", "cannot decode <<>>"),
        ),
        "three_octets": reworded(
            ERLANG,
            ("type 1, all octets = <<0,60,0>>: unknown_frame", "cannot decode <<0,60,0>>"),
        ),
    },
)
def method_frame_without_a_method(talk, payload):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, payload), f"method frame with {payload!r}")
    a.peer.end()


BAD_HEADERS = {
    "cut_short": _header(1)[:-2],
    "value_missing": contents.encode(Properties(content_type="text/plain"), 1)[:-4],
    "left_over": _header(1) + b"\0",
    "weight": _header(1)[:2] + b"\0\x01" + _header(1)[4:],
    "unknown_flags": _header(1)[:12] + b"\0\x02",
    "more_flags": _header(1)[:12] + b"\0\x01\0\0",
}


DECLARED = "a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0"


def _bad_header(what: str):
    return differs(
        "what cannot be decoded is a frame error, not a fault of the server",
        DECLARED,
        f"a0 < connection.close 501 'FRAME_ERROR - cannot decode {what}' at basic.publish",
        CLOSED,
    )


@conversation(
    each=BAD_HEADERS,
    unless={
        "cut_short": _bad_header("content header"),
        "value_missing": _bad_header("properties"),
        "left_over": _bad_header("properties"),
        "unknown_flags": differs(
            "a flag without a meaning announces a value of unknown size: no consumer could read on",
            DECLARED,
            "a0 < connection.close 501 'FRAME_ERROR - cannot decode properties' at basic.publish",
            CLOSED,
        ),
        "more_flags": differs(
            "a second word of flags is legal (specification 4.2.6.1)",
            DECLARED,
            "a1 < basic.qos-ok",
        ),
        "weight": reworded(
            "say what is wrong",
            (
                "expected content header for class 60, got non content header frame instead",
                "weight of content header is not 0",
            ),
        ),
    },
)
def header_that_cannot_be_decoded(talk, payload):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a.peer.write(method_frame(1, BasicPublish("", talk.q)))
    a.peer.say_bytes(frame(HEADER, 1, payload) + frame(BODY, 1, b"x"), f"a header {payload!r}")
    a(BasicQos())


SERVER_METHODS = {
    "queue.declare-ok": b"\0\x32\0\x0b\x01q\0\0\0\0\0\0\0\0",
    "basic.cancel-ok": b"\0\x3c\0\x1f\x01t",
    "basic.consume-ok": b"\0\x3c\0\x15\x01t",
    "basic.get-empty": b"\0\x3c\0\x48\0",
    "channel.open-ok": b"\0\x14\0\x0b\0\0\0\0",
    "channel.flow-ok": b"\0\x14\0\x15\x01",
    "exchange.unbind-ok": b"\0\x28\0\x33",
}


@conversation(each=SERVER_METHODS)
def method_that_only_servers_send(talk, payload):
    a = talk.channel()
    a.peer.say_bytes(frame(METHOD, 1, payload), "a server's method")
    a(BasicQos())


@conversation
def opened_twice(talk):
    a = talk.channel()
    a(ChannelOpen())
