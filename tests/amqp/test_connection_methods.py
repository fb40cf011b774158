"""Login, virtual host, channels: who may come in, and in which words others are refused."""

import pytest

from leveret.broker.amqp import connection_methods as handlers
from leveret.broker.core.broker import Broker, Limits
from leveret.protocol import methods as m
from leveret.protocol.connection import Connection
from leveret.protocol.errors import (
    AccessRefused,
    ChannelNotOpen,
    CommandInvalid,
    FieldError,
    NotAllowed,
    Unsupported,
)
from leveret.protocol.handshake import Role
from leveret.protocol.sasl import Credentials, amqplain_response, plain_response

GUEST = Credentials("guest", "guest")
CAPABLE = {"capabilities": {"authentication_failure_close": True}}


class FakeChannel:
    """What the handlers need of a channel."""

    def __init__(self, session, number):
        self.session = session
        self.number = number
        self.replies = []
        self.reply = self.replies.append

    def close(self):
        del self.session.channels[self.number]


class FakeSession:
    """What the handlers need of a session."""

    def __init__(self):
        self.broker = Broker()
        self.broker.add_defaults()
        self.connection = Connection(Role.SERVER)
        self.is_loopback = True
        self.user = None
        self.vhost = None
        self.client_properties = {}
        self.capabilities = frozenset()
        self.channels = {}
        self.replies = []
        self.reply = self.replies.append
        self.ended = self.reason = ""
        self.closing_since = None
        self.is_leaving = False

    def open_channel(self, number):
        self.channels[number] = FakeChannel(self, number)
        return self.channels[number]

    def hang_up(self, reason):
        self.ended = reason

    close = hang_up


@pytest.fixture
def session():
    return FakeSession()


def log_in(session, credentials=GUEST, properties=CAPABLE):
    handlers.connection_start_ok(
        session, m.ConnectionStartOk(properties, "PLAIN", plain_response(credentials))
    )


def test_the_server_introduces_itself_as_clients_expect(session):
    handlers.start(session)

    [start] = session.replies
    assert (start.version_major, start.version_minor) == (0, 9)
    assert start.mechanisms.split() == ["PLAIN", "AMQPLAIN"]
    assert start.locales == "en_US"
    assert start.server_properties["product"] == "RabbitMQ"
    assert start.server_properties["implementation"].startswith("Leveret ")
    assert set(start.server_properties["capabilities"]) == set(handlers.CAPABILITIES)
    assert all(value is True for value in start.server_properties["capabilities"].values())


def test_each_broker_introduces_itself_by_what_it_is_now():
    here, there = Broker(node="leveret@here"), Broker(node="leveret@there")

    assert "leveret@here" == handlers.server_properties(here)["cluster_name"]
    assert "leveret@there" == handlers.server_properties(there)["cluster_name"]
    here.product = "Leveret"
    assert "Leveret" == handlers.server_properties(here)["product"]
    assert handlers.server_properties(here) is handlers.server_properties(here)


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [("PLAIN", plain_response(GUEST)), ("AMQPLAIN", amqplain_response(GUEST))],
)
def test_a_login_is_answered_with_the_limits(session, mechanism, response):
    handlers.connection_start_ok(session, m.ConnectionStartOk({}, mechanism, response))

    assert session.user.name == "guest"
    assert session.replies == [m.ConnectionTune(2047, 131072, 60)]


REFUSED = (
    "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
    "For details see the broker logfile."
)


@pytest.mark.parametrize("credentials", [Credentials("guest", "x"), Credentials("x", "guest")])
def test_a_refused_login_is_a_403_for_clients_that_understand(session, credentials):
    with pytest.raises(AccessRefused) as caught:
        log_in(session, credentials)

    assert caught.value.reply_text == REFUSED
    assert session.user is None


def test_a_refused_login_ends_in_silence_for_other_clients(session):
    log_in(session, Credentials("guest", "x"), {"capabilities": {}})

    assert session.ended
    assert session.replies == []


def test_guest_may_only_come_from_here(session):
    session.is_loopback = False

    with pytest.raises(AccessRefused) as caught:
        log_in(session)
    assert caught.value.reply_text == REFUSED


def test_a_refused_login_is_told_as_an_event(session):
    told = []
    session.broker.events.subscribe("authentication.failed", lambda **fields: told.append(fields))

    log_in(session, Credentials("eve", "x"), {})

    assert told == [{"session": session, "user": "eve", "mechanism": "PLAIN"}]


@pytest.mark.parametrize("mechanism", ["EXTERNAL", "GSSAPI", ""])
def test_another_mechanism_is_a_503(session, mechanism):
    with pytest.raises(CommandInvalid, match="unknown authentication mechanism"):
        handlers.connection_start_ok(session, m.ConnectionStartOk({}, mechanism, b""))


def test_a_malformed_response_is_a_502(session):
    with pytest.raises(FieldError):
        handlers.connection_start_ok(session, m.ConnectionStartOk({}, "PLAIN", b"guest"))


def test_a_user_enters_a_virtual_host(session):
    log_in(session)

    handlers.connection_open(session, m.ConnectionOpen("/"))

    assert session.vhost is session.broker.vhosts["/"]
    assert session.replies[-1] == m.ConnectionOpenOk()


def test_a_virtual_host_that_is_not_there_is_a_530(session):
    log_in(session)

    with pytest.raises(NotAllowed) as caught:
        handlers.connection_open(session, m.ConnectionOpen("/nowhere"))
    assert caught.value.reply_text == "NOT_ALLOWED - vhost /nowhere not found"


def test_a_virtual_host_without_permissions_is_a_530(session):
    session.broker.add_vhost("private")
    log_in(session)

    with pytest.raises(NotAllowed) as caught:
        handlers.connection_open(session, m.ConnectionOpen("private"))
    text = "NOT_ALLOWED - access to vhost 'private' refused for user 'guest'"
    assert caught.value.reply_text == text


def test_a_full_broker_is_a_530(session):
    session.broker.limits = Limits(max_connections=0)
    session.broker.sessions[session] = None
    log_in(session)

    with pytest.raises(NotAllowed, match=r"connection limit \(0\) is reached"):
        handlers.connection_open(session, m.ConnectionOpen("/"))


def test_a_client_understands_what_it_says_is_true():
    capabilities = {"basic.nack": True, "connection.blocked": False, "x": 1, "unheard of": True}

    assert handlers.understood({"capabilities": capabilities}) == {"basic.nack"}
    assert handlers.understood({"capabilities": "all"}) == set()
    assert handlers.understood({}) == set()


def test_nobody_enters_behind_a_refused_login(session):
    log_in(session, Credentials("guest", "x"), {})

    with pytest.raises(ChannelNotOpen):
        handlers.connection_open(session, m.ConnectionOpen("/"))


def test_a_new_secret_is_accepted(session):
    handlers.connection_update_secret(session, m.ConnectionUpdateSecret(b"s", "r"))

    assert session.replies == [m.ConnectionUpdateSecretOk()]


def test_everything_of_a_client_ends_before_its_close_is_confirmed(session):
    handlers.channel_open(session, 7)
    session.reply = lambda method: session.replies.append(({**session.channels}, method))

    handlers.connection_close(session, m.ConnectionClose(200, "bye"))

    assert session.replies == [({}, m.ConnectionCloseOk())]
    assert session.reason == "bye"


def test_a_channel_is_opened_and_closed(session):
    handlers.channel_open(session, 7)
    channel = session.channels[7]
    handlers.channel_close(channel, m.ChannelClose())

    assert channel.replies == [m.ChannelOpenOk(), m.ChannelCloseOk()]
    assert session.channels == {}


def test_opening_a_channel_twice_is_a_504(session):
    handlers.channel_open(session, 7)

    with pytest.raises(ChannelNotOpen, match=r"second 'channel[.]open' seen"):
        handlers.channel_is_open(session.channels[7], m.ChannelOpen())


def test_the_limit_counts_open_channels_whatever_their_numbers(session):
    session.connection.channel_max = 2
    handlers.channel_open(session, 9)
    handlers.channel_open(session, 3)

    with pytest.raises(NotAllowed) as caught:
        handlers.channel_open(session, 1)
    text = "number of channels opened (2) has reached the negotiated channel_max (2)"
    assert caught.value.text == text


def test_a_method_before_the_channel_is_open_is_a_504_with_its_ids():
    problem = handlers.channel_not_open(m.QueueDeclare())

    assert problem.reply_text == "CHANNEL_ERROR - expected 'channel.open'"
    assert (problem.class_id, problem.method_id) == (50, 10)


def test_flow_is_confirmed_and_stopping_it_not_implemented(session):
    handlers.channel_open(session, 1)
    channel = session.channels[1]

    handlers.channel_flow(channel, m.ChannelFlow(True))

    assert channel.replies[-1] == m.ChannelFlowOk(True)
    with pytest.raises(Unsupported) as caught:
        handlers.channel_flow(channel, m.ChannelFlow(False))
    assert caught.value.reply_text == "NOT_IMPLEMENTED - active=false"
