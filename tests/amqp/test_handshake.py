"""A client and a session, byte for byte: the handshake, and how connections and channels end."""

import pytest

from leveret.broker.amqp.session import Session
from leveret.broker.core.broker import Broker
from leveret.protocol import methods as m
from leveret.protocol.connection import Connection
from leveret.protocol.constants import PROTOCOL_HEADER
from leveret.protocol.handshake import Role, State, settle
from leveret.protocol.sasl import Credentials, plain_response
from leveret.protocol.writer import method_frame

CAPABLE = {"capabilities": {"authentication_failure_close": True}}


class Client:
    """A client whose socket is a session; `write_now` is the way back."""

    def __init__(self):
        self.broker = Broker()
        self.broker.add_defaults()
        self.connection = Connection(Role.CLIENT)
        self.received = []
        self.session = Session(self.broker, self)

    def write_now(self, parts):
        self.received += self.connection.receive_data(b"".join(parts))
        return []

    def start_writing(self):
        raise AssertionError("the client takes everything")

    def send(self, data):
        """Hand octets to the session; return the commands it answers with."""
        self.received = []
        self.session.receive(data)
        while not self.session.run(lambda: False):
            pass
        self.session.flush()
        return self.received

    def call(self, method, channel=0):
        return self.send(self.connection.send(channel, method))

    def raw(self, method, channel=0):
        """Send a method past the client's own checks."""
        return self.send(method_frame(channel, method))

    def start(self, password="guest", properties=CAPABLE):
        self.send(self.connection.start())
        response = plain_response(Credentials("guest", password))
        return self.call(m.ConnectionStartOk(properties, "PLAIN", response))

    def open(self):
        self.start()
        self.call(settle(self.connection.offer, m.ConnectionTuneOk(0, 0, 60)))
        assert self.call(m.ConnectionOpen("/")) == [(0, m.ConnectionOpenOk())]
        assert self.call(m.ChannelOpen(), 1) == [(1, m.ChannelOpenOk())]
        return self


@pytest.fixture
def client():
    return Client()


def close_of(received):
    [(_, close)] = received
    return close.reply_code, close.reply_text, close.class_id_, close.method_id_


def test_a_handshake_opens_the_session(client):
    client.open()

    assert client.connection.state is State.RUNNING
    assert client.session.is_running
    assert client.session.vhost.name == "/"


def test_a_handshake_without_waiting_opens_the_session(client):
    response = plain_response(Credentials("guest", "guest"))
    methods = [
        (0, m.ConnectionStartOk({}, "PLAIN", response)),
        (0, m.ConnectionTuneOk(2047, 131072, 0)),
        (0, m.ConnectionOpen("/")),
        (1, m.ChannelOpen()),
    ]

    client.session.receive(PROTOCOL_HEADER)
    client.session.receive(b"".join(method_frame(*pair) for pair in methods))
    client.session.run(lambda: False)

    assert client.session.is_running
    assert set(client.session.channels) == {1}


def test_a_stranger_gets_our_header(client):
    client.session.receive(b"GET / HTTP/1.1\r\n")

    assert client.session.outbox.parts == [PROTOCOL_HEADER]
    assert client.session.is_ended


def test_a_refused_login_is_said_once_and_everything_behind_it_dropped(client):
    client.send(client.connection.start())
    response = plain_response(Credentials("guest", "wrong"))
    start_ok = m.ConnectionStartOk(CAPABLE, "PLAIN", response)

    data = client.connection.send(0, start_ok)
    data += method_frame(0, m.ConnectionTuneOk(2047, 131072, 0))
    data += method_frame(0, m.ConnectionOpen("/"))
    received = client.send(data)

    assert close_of(received) == (
        403,
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
        "For details see the broker logfile.",
        0,
        0,
    )
    assert not client.session.is_running


def test_a_client_that_would_not_understand_is_hung_up_on(client):
    assert client.start("wrong", {}) == []
    assert client.session.is_hung_up


def test_limits_above_the_offer_are_a_530(client):
    client.start()

    received = client.raw(m.ConnectionTuneOk(2048, 131072, 0))

    text = "NOT_ALLOWED - negotiated channel_max = 2048 is higher than the maximum allowed value"
    assert close_of(received) == (530, f"{text} (2047)", 10, 31)


def test_a_method_too_early_is_a_504_on_channel_0_and_a_505_on_others(client):
    client.start()
    code, text, *ids = close_of(client.raw(m.ConnectionOpen("/")))
    assert (code, ids) == (504, [10, 40])
    assert text == "CHANNEL_ERROR - unexpected method in connection state tuning"

    client = Client()
    client.start()
    assert close_of(client.raw(m.ChannelOpen(), 1))[0] == 505


@pytest.mark.parametrize(
    "method",
    [
        m.ConnectionStartOk({}, "PLAIN", plain_response(Credentials("guest", "guest"))),
        m.ConnectionSecureOk(b""),
        m.ConnectionTuneOk(2047, 131072, 0),
        m.ConnectionOpen("/"),
        m.ConnectionCloseOk(),
        m.ConnectionBlocked(),
        m.QueueDeclare("q"),
    ],
)
def test_a_method_of_the_handshake_is_a_504_once_the_connection_runs(client, method):
    client.open()

    received = client.raw(method)

    text = "CHANNEL_ERROR - unexpected method in connection state running"
    assert close_of(received) == (504, text, method.class_id, method.method_id)


def test_a_channel_is_opened_closed_and_opened_again(client):
    client.open()

    assert client.raw(m.ChannelClose(), 1) == [(1, m.ChannelCloseOk())]
    assert client.raw(m.ChannelOpen(), 1) == [(1, m.ChannelOpenOk())]


def test_a_second_open_is_a_504(client):
    client.open()

    text = "CHANNEL_ERROR - second 'channel.open' seen"
    assert close_of(client.raw(m.ChannelOpen(), 1)) == (504, text, 20, 10)


def test_a_method_on_a_channel_that_is_not_open_is_a_504(client):
    client.open()

    text = "CHANNEL_ERROR - expected 'channel.open'"
    assert close_of(client.raw(m.BasicQos(), 2)) == (504, text, 60, 10)


def test_after_a_channel_error_everything_is_dropped_until_close_ok(client):
    client.open()

    text = "NOT_FOUND - no queue 'q' in vhost '/'"
    missing = m.QueueDeclare("q", passive=True)
    assert close_of(client.raw(missing, 1)) == (404, text, 50, 10)
    assert client.raw(m.QueueDeclare("q"), 1) == []
    assert client.raw(m.ChannelClose(), 1) == [(1, m.ChannelCloseOk())]
    assert client.raw(m.ChannelCloseOk(), 1) == []
    assert client.raw(m.ChannelOpen(), 1) == [(1, m.ChannelOpenOk())]
    assert client.raw(missing, 1)[0][1].reply_code == 404


def test_exclusive_queues_are_gone_when_a_close_is_confirmed(client):
    client.open()
    client.raw(m.QueueDeclare("mine", exclusive=True), 1)
    assert "mine" in client.session.vhost.queues

    assert client.call(m.ConnectionClose(200, "bye")) == [(0, m.ConnectionCloseOk())]

    assert "mine" not in client.session.vhost.queues
    assert client.session.is_ended
    assert client.connection.state is State.CLOSED


def test_closes_that_cross_end_both_sides(client):
    client.open()
    client.raw(m.ChannelOpen(), 1)  # the server closes: 504

    assert client.session.closing_since is not None
    assert client.raw(m.ConnectionClose()) == [(0, m.ConnectionCloseOk())]
    assert client.session.is_ended


def test_a_frame_that_ends_wrongly_is_a_501(client):
    client.open()

    received = client.send(method_frame(1, m.BasicQos())[:-1] + b"\x00")

    assert close_of(received)[0] == 501


def test_an_unknown_method_is_a_503(client):
    client.open()

    received = client.send(b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\x63\xce")

    assert close_of(received) == (503, "COMMAND_INVALID - unknown method 60,99", 60, 99)
