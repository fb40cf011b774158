"""From the protocol header to connection.open-ok."""

from leveret.protocol.methods import (
    BasicQos,
    ChannelOpen,
    ConnectionClose,
    ConnectionOpen,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTuneOk,
    ConnectionUpdateSecret,
    QueueDeclare,
)
from leveret.protocol.table import encode_entries

from .conversation import conversation, differs, reworded
from .talk import CAPABILITIES, FRAME, HEARTBEAT, METHOD, Talk, frame, method_frame

OTHER_HEADERS = {
    "0_10": b"AMQP\x01\x01\x00\x0a",
    "1_0": b"AMQP\x00\x01\x00\x00",
    "0_8": b"AMQP\x01\x01\x08\x00",
    "0_9_2": b"AMQP\x00\x00\x09\x02",
    "sasl": b"AMQP\x03\x01\x00\x00",
    "tls": b"AMQP\x02\x01\x00\x00",
    "garbage": b"GARBAGE!",
    "zeros": bytes(8),
}


STARTED = "a0 < connection.start"
TUNED = "a0 < connection.tune channel_max=2047 frame_max=131072 heartbeat=60"
CLOSED = "a0 | closed"
CLOSE_OK = "a0 < connection.close-ok"


def _start(talk: Talk):
    peer = talk.raw()
    peer.start()
    return peer


def _logged_in(talk: Talk):
    peer = _start(talk)
    peer.log_in()
    return peer


@conversation
def connection_start_offers_versions_mechanisms_and_capabilities(talk):
    peer = talk.raw()
    start = peer.start()
    assert isinstance(start, ConnectionStart)
    properties = start.server_properties
    peer.note(f"< {start.version_major}-{start.version_minor} {start.locales}")
    peer.note(f"< {sorted(start.mechanisms.split())}")
    peer.note(f"< {properties['product']}")
    for name in sorted(properties["capabilities"]):
        peer.note(f"< {name} {properties['capabilities'][name]}")


@conversation
def header_of_0_9_is_served_as_0_9_1(talk):
    peer = talk.raw()
    peer.say_bytes(b"AMQP\x01\x01\x00\x09", "AMQP 1 1 0 9")
    peer.hear_names_only()


@conversation(
    each=OTHER_HEADERS,
    unless={
        "0_8": differs(
            "0-8 is not served: its clients are gone", r"a0 < b'AMQP\x00\x00\t\x01'", CLOSED
        )
    },
)
def other_header_is_answered_with_ours(talk, header):
    peer = talk.raw()
    peer.say_bytes(header, repr(header))
    peer.hear_bytes(8)
    peer.end()


@conversation(unless=differs("the authorization identity is ignored", STARTED, TUNED))
def plain_login_ignores_the_authorization_identity(talk):
    peer = _start(talk)
    peer(ConnectionStartOk({}, "PLAIN", b"someone\0guest\0guest"), hears=True)


@conversation
def amqplain_login(talk):
    peer = _start(talk)
    response = encode_entries({"LOGIN": "guest", "PASSWORD": "guest"})
    peer(ConnectionStartOk({}, "AMQPLAIN", response), hears=True)
    peer(ConnectionTuneOk(2047, 131072, 0))
    peer(ConnectionOpen("/"))
    peer.close()


BAD_LOGINS = {
    "password": ("PLAIN", b"\0guest\0wrong"),
    "user": ("PLAIN", b"\0nobody\0guest"),
    "empty_password": ("PLAIN", b"\0guest\0"),
    "amqplain_password": ("AMQPLAIN", encode_entries({"LOGIN": "guest", "PASSWORD": "wrong"})),
    "amqplain_other_keys": ("AMQPLAIN", encode_entries({"USER": "guest", "PASS": "guest"})),
    "malformed_response": ("PLAIN", b"guest"),
}


NOT_CREDENTIALS = {
    label: differs(
        "what holds no credentials at all is a mistake of the program: say so",
        STARTED,
        f"a0 < connection.close 502 'SYNTAX_ERROR - malformed response of {explanation}'"
        " at connection.start-ok",
        CLOSED,
    )
    for label, explanation in {
        "amqplain_other_keys": "AMQPLAIN: LOGIN or PASSWORD missing",
        "malformed_response": "PLAIN",
    }.items()
}


@conversation(each=BAD_LOGINS, unless=NOT_CREDENTIALS)
def bad_login_is_refused_with_403(talk, mechanism, response):
    peer = _start(talk)
    peer(ConnectionStartOk({"capabilities": CAPABILITIES}, mechanism, response), hears=True)


@conversation(each=BAD_LOGINS, unless=NOT_CREDENTIALS)
def bad_login_of_an_old_client_just_ends(talk, mechanism, response):
    peer = _start(talk)
    peer(ConnectionStartOk({}, mechanism, response), hears=True)


@conversation(
    unless=differs(
        "say which mechanism is unknown",
        STARTED,
        "a0 < connection.close 503"
        """ "COMMAND_INVALID - unknown authentication mechanism 'CRAM-MD5'" """
        "at connection.start-ok",
        CLOSED,
    )
)
def unknown_mechanism(talk):
    peer = _start(talk)
    peer(ConnectionStartOk({"capabilities": CAPABILITIES}, "CRAM-MD5", b"x"), hears=True)


@conversation
def tune_offers_limits(talk):
    _logged_in(talk)


TUNES = {
    "frame_max_too_small": (2047, 4095, 60),
    "frame_max_too_large": (2047, 131073, 60),
    "frame_max_none": (2047, 0, 60),
    "channel_max_too_large": (2048, 131072, 60),
    "channel_max_none": (0, 131072, 60),
}


def _not_allowed(explanation: str):
    return differs(
        "say which limit does not hold",
        STARTED,
        TUNED,
        f"a0 < connection.close 530 'NOT_ALLOWED - negotiated {explanation}' at connection.tune-ok",
        CLOSED,
    )


@conversation(
    each=TUNES,
    unless={
        label: _not_allowed(explanation)
        for label, explanation in {
            "frame_max_too_small": (
                "frame_max = 4095 is lower than the minimum allowed value (4096)"
            ),
            "frame_max_too_large": (
                "frame_max = 131073 is higher than the maximum allowed value (131072)"
            ),
            "frame_max_none": "frame_max = 0 is higher than the maximum allowed value (131072)",
            "channel_max_too_large": (
                "channel_max = 2048 is higher than the maximum allowed value (2047)"
            ),
            "channel_max_none": "channel_max = 0 is higher than the maximum allowed value (2047)",
        }.items()
    },
)
def tune_out_of_limits(talk, channel_max, frame_max, heartbeat):
    peer = _logged_in(talk)
    peer.send(ConnectionTuneOk(channel_max, frame_max, heartbeat))
    peer(ConnectionOpen("/"))


@conversation(each={"least": (1, 4096, 1), "no_heartbeat": (9, 4096, 0), "long": (9, 9999, 65535)})
def tune_within_limits(talk, channel_max, frame_max, heartbeat):
    peer = _logged_in(talk)
    peer.tune(channel_max, frame_max, heartbeat)
    peer(ConnectionOpen("/"))
    a = peer.unopened(1)
    a(ChannelOpen())
    peer.close()


@conversation(each={"none": "nowhere", "empty": "", "without_permission": "annex"})
def opening_a_virtual_host_in_vain(talk, vhost):
    peer = _start(talk)
    user = "clerk" if vhost == "annex" else "guest"
    peer.log_in(user, user)
    peer.tune()
    peer(ConnectionOpen(vhost))


@conversation
def user_without_any_permission_may_not_open(talk):
    peer = _start(talk)
    peer.log_in("stranger", "stranger")
    peer.tune()
    peer(ConnectionOpen("/"))


@conversation
def virtual_hosts_do_not_share_names(talk):
    a = talk.channel()
    b = talk.channel(vhost="annex")
    a(QueueDeclare(talk.q, exclusive=True))
    b(QueueDeclare(talk.q, passive=True))


EARLY = {
    "queue_declare_on_0": (0, QueueDeclare("q")),
    "open_on_0": (0, ConnectionOpen("/")),
    "tune_ok_on_0": (0, ConnectionTuneOk(0, 0, 0)),
    "close_on_0": (0, ConnectionClose()),
    "channel_open_on_1": (1, ChannelOpen()),
    "basic_qos_on_1": (1, BasicQos()),
}


def _too_early(state: str, *heard: str, **methods: str):
    """What we say where RabbitMQ hangs up without a word."""
    reason = "say what is wrong in every state of the handshake, as RabbitMQ does in the last"
    unexpected = {
        label: f"504 'CHANNEL_ERROR - unexpected method in connection state {state}' at {method}"
        for label, method in {
            "queue_declare_on_0": "queue.declare",
            "open_on_0": "connection.open",
            "tune_ok_on_0": "connection.tune-ok",
            **methods,
        }.items()
    }
    frame = f"505 'UNEXPECTED_FRAME - frame on channel 1 in connection state {state}' at (0, 0)"
    closes = {**unexpected, "channel_open_on_1": frame, "basic_qos_on_1": frame}
    return {
        "close_on_0": differs(GIVING_UP, *heard, CLOSE_OK),
        **{
            label: differs(reason, *heard, f"a0 < connection.close {close}", CLOSED)
            for label, close in closes.items()
        },
    }


GIVING_UP = "who gives the handshake up deserves an answer"


@conversation(each=EARLY, unless=_too_early("starting", STARTED))
def method_before_start_ok(talk, channel, method):
    peer = _start(talk)
    peer.unopened(channel)(method, hears=True)
    peer.end()


@conversation(
    each=EARLY,
    unless=_too_early("tuning", STARTED, TUNED, tune_ok_on_0="connection.start-ok"),
)
def method_before_tune_ok(talk, channel, method):
    if isinstance(method, ConnectionTuneOk):
        method = ConnectionStartOk({}, "PLAIN", b"\0guest\0guest")
    peer = _logged_in(talk)
    peer.unopened(channel)(method, hears=True)
    peer.end()


ON_CHANNEL_1 = "frame on channel 1 in connection state opening"


@conversation(
    each={key: value for key, value in EARLY.items() if key != "open_on_0"},
    unless={
        "close_on_0": differs(GIVING_UP, STARTED, TUNED, CLOSE_OK),
        "channel_open_on_1": reworded(
            "octets help nobody", ("type 1, all octets = <<0,20,0,10,0>>", ON_CHANNEL_1)
        ),
        "basic_qos_on_1": reworded(
            "octets help nobody",
            ("type 1, all octets = <<0,60,0,10,0,0,0,0,0,0,0>>", ON_CHANNEL_1),
        ),
    },
)
def method_before_open(talk, channel, method):
    peer = _logged_in(talk)
    peer.tune()
    peer.unopened(channel)(method, hears=True)
    peer.end()


@conversation(
    each={
        "start_ok": ConnectionStartOk({}, "PLAIN", b"\0guest\0guest"),
        "tune_ok": ConnectionTuneOk(2047, 131072, 0),
        "open": ConnectionOpen("/"),
        "start": ConnectionStart(0, 9, {}),
    }
)
def handshake_method_on_an_open_connection(talk, method):
    peer = talk.connect()
    peer(method, hears=True)


@conversation
def connection_method_on_a_channel(talk):
    a = talk.channel()
    a(ConnectionClose())


@conversation
def method_on_channel_0(talk):
    peer = talk.connect()
    peer(QueueDeclare(talk.q))


@conversation
def channel_open_on_channel_0(talk):
    peer = talk.connect()
    peer(ChannelOpen())


@conversation
def update_secret(talk):
    peer = talk.connect()
    peer(ConnectionUpdateSecret(b"new", "rotation"))


@conversation
def methods_sent_without_waiting_for_the_answers(talk):
    peer = talk.raw()
    peer.write(b"AMQP\x00\x00\x09\x01")
    peer.write(
        b"".join(
            method_frame(0, method)
            for method in (
                ConnectionStartOk({}, "PLAIN", b"\0guest\0guest"),
                ConnectionTuneOk(2047, 131072, 0),
                ConnectionOpen("/"),
            )
        )
    )
    peer.hear_names_only(3)


@conversation
def heartbeat_before_open_is_harmless(talk):
    peer = _logged_in(talk)
    peer.say_bytes(frame(HEARTBEAT, 0, b""), "heartbeat")
    peer.tune()
    peer(ConnectionOpen("/"))


@conversation(
    unless=differs(
        "say what is wrong in every state of the handshake, as RabbitMQ does in the last",
        STARTED,
        "a0 < connection.close 501"
        " 'FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,1048576,131064}' at (0, 0)",
        CLOSED,
    )
)
def oversize_frame_before_tune(talk):
    peer = _start(talk)
    peer.say_bytes(FRAME.pack(METHOD, 0, 1 << 20), "the head of a method frame of 1 MiB")
    peer.end()


@conversation
def capabilities_that_are_no_table(talk):
    peer = _start(talk)
    peer(ConnectionStartOk({"capabilities": "all"}, "PLAIN", b"\0guest\0guest"), hears=True)


@conversation
def server_heartbeats_come_when_asked_for(talk):
    peer = talk.connect(heartbeat=1)
    kind, channel, payload = peer.read_frame()
    peer.note(f"< frame type {kind} channel {channel} {payload!r}")
