"""URIs: where and how to connect, as one string.

    amqp[s]://user:password@host:port/vhost?heartbeat=30&channel_max=100

Law: RabbitMQ's URI specification, with its query parameters. Every part is percent-encoded; no
path is the default virtual host, an empty path ("amqp://host/") the virtual host with the empty
name. What is not understood is an error, so that a misspelt parameter is noticed.

Called by: clients.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

PORTS: Mapping[str, int] = {"amqp": 5672, "amqps": 5671}
VERIFY = ("verify_peer", "verify_none")


class InvalidURI(ValueError):
    """The string is no AMQP URI."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a client needs to connect. `None` leaves a limit to the negotiation.

    Attributes:
      heartbeat: Seconds; 0 switches heartbeats off.
      connection_timeout: Seconds for all of the handshake (milliseconds in the URI).
      verify: Whether the server's certificate is checked.
      server_name: The name it is checked against, and sent as SNI; the host if empty.
    """

    host: str = "localhost"
    port: int = 5672
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"
    tls: bool = False
    heartbeat: int | None = None
    channel_max: int | None = None
    frame_max: int | None = None
    connection_timeout: float | None = None
    auth_mechanism: tuple[str, ...] = ()
    name: str = ""
    cacertfile: str = ""
    certfile: str = ""
    keyfile: str = ""
    verify: bool = True
    server_name: str = ""

    def __repr__(self) -> str:
        return f"<Parameters {to_uri(self, password=False)}>"


def parse(uri: str) -> Parameters:
    """Return the parameters in an amqp or amqps URI.

    Raises:
      InvalidURI: It is malformed, or has a parameter that is not known.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        if parts.scheme not in PORTS:
            raise ValueError(f"scheme {parts.scheme!r}")
        if parts.fragment or parts.path.count("/") > 1:
            raise ValueError("path: percent-encode what a vhost's name contains")
        default = Parameters()
        return Parameters(
            host=_decode(parts.hostname or default.host),
            port=PORTS[parts.scheme] if port is None else port,
            user=default.user if parts.username is None else _decode(parts.username),
            password=default.password if parts.password is None else _decode(parts.password),
            vhost=_decode(parts.path[1:]) if parts.path else default.vhost,
            tls=parts.scheme == "amqps",
            **_parse_query(query),  # type: ignore[arg-type]
        )
    except ValueError as problem:
        raise InvalidURI(f"not an AMQP URI: {problem}") from None


def to_uri(parameters: Parameters, *, password: bool = True) -> str:
    """Return the URI of parameters, shortest form first: defaults are left out.

    Args:
      parameters: What to write.
      password: False for a URI that may be shown.
    """
    p, default = parameters, Parameters()
    scheme = "amqps" if p.tls else "amqp"
    user = ""
    if (p.user, p.password) != (default.user, default.password):
        user = _encode(p.user) + (f":{_encode(p.password)}" if password else "") + "@"
    host = f"[{p.host}]" if ":" in p.host else _encode(p.host)
    port = "" if p.port == PORTS[scheme] else f":{p.port}"
    path = "" if p.vhost == default.vhost else f"/{_encode(p.vhost)}"
    query = urlencode(_query(p), quote_via=quote)
    return f"{scheme}://{user}{host}{port}{path}" + (f"?{query}" if query else "")


def _decode(text: str) -> str:
    return unquote(text, errors="strict")


def _encode(text: str) -> str:
    return quote(text, safe="")


def _integer(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{name}={text!r} is no number")
    return int(text)


TEXTS: Mapping[str, str] = {
    "name": "name",
    "cacertfile": "cacertfile",
    "certfile": "certfile",
    "keyfile": "keyfile",
    "server_name_indication": "server_name",
}
INTEGERS = ("heartbeat", "channel_max", "frame_max")


def _parse_query(query: list[tuple[str, str]]) -> dict[str, object]:
    values: dict[str, object] = {}
    mechanisms: list[str] = []
    for name, text in query:
        if name in INTEGERS:
            values[name] = _integer(name, text)
        elif name in TEXTS:
            values[TEXTS[name]] = text
        elif name == "connection_timeout":
            values[name] = _integer(name, text) / 1000
        elif name == "auth_mechanism":
            mechanisms.append(text.upper())
        elif name == "verify" and text in VERIFY:
            values[name] = text == "verify_peer"
        else:
            raise ValueError(f"parameter {name}={text}")
    values["auth_mechanism"] = tuple(mechanisms)
    return values


def _query(p: Parameters) -> list[tuple[str, str]]:
    query = [(name, str(value)) for name in INTEGERS if (value := getattr(p, name)) is not None]
    if p.connection_timeout is not None:
        query.append(("connection_timeout", str(round(p.connection_timeout * 1000))))
    query += [("auth_mechanism", mechanism.lower()) for mechanism in p.auth_mechanism]
    query += [(name, value) for name, field in TEXTS.items() if (value := getattr(p, field))]
    if not p.verify:
        query.append(("verify", "verify_none"))
    return query
