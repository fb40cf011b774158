"""SASL mechanisms and AMQP URIs."""

import pytest

from leveret.protocol import sasl, uri
from leveret.protocol.errors import FieldError
from leveret.protocol.sasl import Credentials
from leveret.protocol.uri import InvalidURI, Parameters

# SASL

USER = Credentials("joé", "se\tcret")
AMQPLAIN = b"\x05LOGINS\x00\x00\x00\x04jo\xc3\xa9\x08PASSWORDS\x00\x00\x00\x07se\tcret"


def test_plain_is_written_and_read():
    assert sasl.plain_response(USER) == b"\x00jo\xc3\xa9\x00se\tcret"
    assert sasl.parse_plain(sasl.plain_response(USER)) == USER
    assert sasl.parse_plain(b"someone" + sasl.plain_response(USER)) == USER


def test_amqplain_is_a_table_without_its_length():
    assert sasl.amqplain_response(USER) == AMQPLAIN
    assert sasl.parse_amqplain(AMQPLAIN) == USER


def test_external_leaves_the_identity_to_the_certificate():
    assert sasl.external_response() == b""
    assert sasl.parse_external(sasl.external_response("cn")) == "cn"


@pytest.mark.parametrize(
    "response", [b"", b"user", b"\x00user", b"\x00a\x00b\x00c", b"\x00\xff\x00b"]
)
def test_a_malformed_plain_response_is_a_502(response):
    with pytest.raises(FieldError, match="PLAIN"):
        sasl.parse_plain(response)


@pytest.mark.parametrize(
    "response", [b"", b"\x05LOGIN", AMQPLAIN[:-1], AMQPLAIN + b"\x01", b"\x05LOGINV\x08PASSWORDV"]
)
def test_a_malformed_amqplain_response_is_a_502(response):
    with pytest.raises(FieldError, match="AMQPLAIN"):
        sasl.parse_amqplain(response)


def test_an_identity_that_is_no_utf8_is_a_502():
    with pytest.raises(FieldError):
        sasl.parse_external(b"\xff")


def test_a_client_chooses_the_first_mechanism_it_shares():
    assert ("PLAIN", sasl.plain_response(USER)) == sasl.choose("EXTERNAL AMQPLAIN PLAIN", USER)
    assert sasl.choose("AMQPLAIN", USER) == ("AMQPLAIN", AMQPLAIN)
    assert sasl.choose("EXTERNAL GSSAPI", USER) is None


def test_credentials_do_not_show_the_password():
    assert "se\tcret" not in repr(USER)


# URIs

CASES = [
    ("amqp://", Parameters()),
    ("amqp://localhost", Parameters()),
    ("amqp://host", Parameters(host="host")),
    ("amqps://host", Parameters(host="host", port=5671, tls=True)),
    ("amqp://host:10000", Parameters(host="host", port=10000)),
    ("amqp://[::1]:7", Parameters(host="::1", port=7)),
    ("amqp://host/", Parameters(host="host", vhost="")),
    ("amqp://host/%2F", Parameters(host="host", vhost="/")),
    ("amqp://host/vhost", Parameters(host="host", vhost="vhost")),
    (
        "amqp://us%65r:p%40ss@ho%61st:10000/v%2fhost",
        Parameters(host="hoast", port=10000, user="user", password="p@ss", vhost="v/host"),
    ),
    ("amqp://:@/", Parameters(user="", password="", vhost="")),
    ("amqp://user@", Parameters(user="user")),
    (
        "amqp://h?heartbeat=5&channel_max=10&frame_max=4096&connection_timeout=2500",
        Parameters("h", heartbeat=5, channel_max=10, frame_max=4096, connection_timeout=2.5),
    ),
    (
        "amqp://h?auth_mechanism=plain&auth_mechanism=amqplain&name=a%20b",
        Parameters("h", auth_mechanism=("PLAIN", "AMQPLAIN"), name="a b"),
    ),
    (
        "amqps://h?cacertfile=/ca.pem&certfile=/c.pem&keyfile=/k.pem&verify=verify_none"
        "&server_name_indication=n",
        Parameters(
            "h",
            5671,
            tls=True,
            cacertfile="/ca.pem",
            certfile="/c.pem",
            keyfile="/k.pem",
            verify=False,
            server_name="n",
        ),
    ),
]


@pytest.mark.parametrize(("text", "parameters"), CASES)
def test_a_uri_is_read_and_written(text, parameters):
    assert parameters == uri.parse(text)
    assert parameters == uri.parse(uri.to_uri(parameters))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "http://host",
        "amqp://host:port",
        "amqp://host:99999",
        "amqp://host/a/b",
        "amqp://host/v#f",
        "amqp://host/%ff",
        "amqp://h?heartbeat=x",
        "amqp://h?heartbeat=-1",
        "amqp://h?heartbeat",
        "amqp://h?hartbeat=5",
        "amqp://h?verify=maybe",
        "amqp://[::1",
    ],
)
def test_what_is_no_amqp_uri_is_refused(text):
    with pytest.raises(InvalidURI, match="not an AMQP URI"):
        uri.parse(text)


def test_parameters_do_not_show_the_password():
    parameters = uri.parse("amqp://me:secret@host")

    assert uri.to_uri(parameters) == "amqp://me:secret@host"
    assert repr(parameters) == "<Parameters amqp://me@host>"
