"""SASL: the three mechanisms RabbitMQ serves, both sides, as functions.

Law: these functions only translate between credentials and octets. Whether credentials are
good is for `core.users`, whether a certificate is there for the edge.

Called by: amqp.connection_methods (reading), whoever writes a client.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from leveret.protocol.errors import FieldError, FrameError
from leveret.protocol.table import decode_table, encode_entries
from leveret.protocol.wire import encode_longstr


class Credentials(NamedTuple):
    """A name and its secret."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, password=...)"  # never into a log


def plain_response(credentials: Credentials) -> bytes:
    """Return the response of PLAIN (RFC 4616), without an authorization identity."""
    return f"\0{credentials.user}\0{credentials.password}".encode()


def parse_plain(response: bytes) -> Credentials:
    """Return the credentials in a response of PLAIN; the authorization identity is ignored.

    Raises:
      FieldError: The response is malformed.
    """
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise FieldError("malformed response of PLAIN")
    return Credentials(_text(parts[1], "PLAIN"), _text(parts[2], "PLAIN"))


def amqplain_response(credentials: Credentials) -> bytes:
    """Return the response of AMQPLAIN: the entries of a table, without its length."""
    return encode_entries({"LOGIN": credentials.user, "PASSWORD": credentials.password})


def parse_amqplain(response: bytes) -> Credentials:
    """Return the credentials in a response of AMQPLAIN.

    Raises:
      FieldError: The response is malformed.
    """
    try:
        table, _ = decode_table(encode_longstr(response))
    except FrameError:
        raise FieldError("malformed response of AMQPLAIN") from None
    user, password = table.get("LOGIN"), table.get("PASSWORD")
    if not isinstance(user, str) or not isinstance(password, str):
        raise FieldError("malformed response of AMQPLAIN: LOGIN or PASSWORD missing")
    return Credentials(user, password)


def external_response(identity: str = "") -> bytes:
    """Return the response of EXTERNAL (RFC 4422): usually empty, the certificate speaks."""
    return identity.encode()


def parse_external(response: bytes) -> str:
    """Return the identity a response of EXTERNAL asks for, "" if it leaves that to TLS."""
    return _text(response, "EXTERNAL")


def _text(octets: bytes, mechanism: str) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise FieldError(f"malformed response of {mechanism}: no UTF-8") from None


PARSERS: Mapping[str, Callable[[bytes], Credentials]] = MappingProxyType(
    {"PLAIN": parse_plain, "AMQPLAIN": parse_amqplain}
)
"""The mechanisms with a password, by name: how the server reads their response."""

RESPONSES: Mapping[str, Callable[[Credentials], bytes]] = MappingProxyType(
    {"PLAIN": plain_response, "AMQPLAIN": amqplain_response}
)
"""The same, as the client writes it."""


def choose(offered: str, credentials: Credentials) -> tuple[str, bytes] | None:
    """Return the first mechanism a client has in common with the server, and its response."""
    names = offered.split()
    return next(
        ((name, respond(credentials)) for name, respond in RESPONSES.items() if name in names),
        None,
    )
