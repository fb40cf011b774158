"""Handshake: the states of a connection, for both roles, as one table.

Law: everything that affects the state of a connection stands in `TRANSITIONS`. A connection
method that is not listed for a state is illegal in it; so is any other method before `RUNNING`.
States carry RabbitMQ's names, which appear in reply texts.

    server                              client
    pre_init  -- start -->              pre_init  <-- start --
    starting  <-- start-ok --           starting  -- start-ok -->
    tuning    -- secure -->             tuning    <-- secure --
    securing  <-- secure-ok --          securing  -- secure-ok -->
    tuning    -- tune -->               tuning    <-- tune --
    tuning    <-- tune-ok --            tuning    -- tune-ok -->
    opening   <-- open --               opening   -- open -->
    running   -- open-ok -->            opening   <-- open-ok --
                                        running

A peer need not wait where the answer is known: a server's state changes with what it receives,
so that tune-ok, open and channel.open may come in one piece, as clients send them.

Called by: connection.
"""

from collections.abc import Mapping
from enum import Enum

from leveret.protocol.constants import FRAME_MIN
from leveret.protocol.errors import ChannelNotOpen, NotAllowed
from leveret.protocol.methods import (
    ConnectionBlocked,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionSecure,
    ConnectionSecureOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    ConnectionUnblocked,
    ConnectionUpdateSecret,
    ConnectionUpdateSecretOk,
    Method,
)


class _Key(Enum):
    """Members are told apart by identity: Enum's own hash is Python code, and is asked often."""

    __hash__ = object.__hash__


class Role(_Key):
    """Which end of the connection we are."""

    CLIENT = "client"
    SERVER = "server"


class State(_Key):
    """How far a connection is."""

    PRE_INIT = "pre_init"  # the protocol header is due
    STARTING = "starting"
    SECURING = "securing"
    TUNING = "tuning"
    OPENING = "opening"
    RUNNING = "running"
    CLOSING = "closing"  # we sent close
    LEAVING = "leaving"  # the peer sent close, and waits for close-ok
    CLOSED = "closed"


class By(_Key):
    """Who sends a method: we, or the peer."""

    US = "us"
    PEER = "peer"


Moves = Mapping[tuple[By, type[Method]], State]

# The end is the same for both roles, from every state but the first and the last.
_CLOSING: Moves = {
    (By.US, ConnectionClose): State.CLOSING,
    (By.PEER, ConnectionClose): State.LEAVING,
}
_ENDS: Mapping[State, Moves] = {
    State.CLOSING: {
        (By.PEER, ConnectionCloseOk): State.CLOSED,
        (By.PEER, ConnectionClose): State.LEAVING,  # they crossed
    },
    State.LEAVING: {(By.US, ConnectionCloseOk): State.CLOSED},
    State.CLOSED: {},
}

TRANSITIONS: Mapping[Role, Mapping[State, Moves]] = {
    Role.SERVER: {
        State.PRE_INIT: {(By.US, ConnectionStart): State.STARTING},
        State.STARTING: {(By.PEER, ConnectionStartOk): State.TUNING, **_CLOSING},
        State.SECURING: {(By.PEER, ConnectionSecureOk): State.TUNING, **_CLOSING},
        State.TUNING: {
            (By.US, ConnectionSecure): State.SECURING,
            (By.US, ConnectionTune): State.TUNING,
            (By.PEER, ConnectionTuneOk): State.OPENING,
            **_CLOSING,
        },
        State.OPENING: {
            # a peer that did not wait for tune has answered it already
            (By.US, ConnectionTune): State.OPENING,
            (By.PEER, ConnectionOpen): State.RUNNING,
            **_CLOSING,
        },
        State.RUNNING: {
            (By.US, ConnectionTune): State.RUNNING,
            (By.US, ConnectionOpenOk): State.RUNNING,
            (By.US, ConnectionBlocked): State.RUNNING,
            (By.US, ConnectionUnblocked): State.RUNNING,
            (By.PEER, ConnectionUpdateSecret): State.RUNNING,
            (By.US, ConnectionUpdateSecretOk): State.RUNNING,
            (By.US, ConnectionCloseOk): State.CLOSED,
            **_CLOSING,
        },
        **_ENDS,
    },
    Role.CLIENT: {
        State.PRE_INIT: {(By.PEER, ConnectionStart): State.STARTING},
        State.STARTING: {(By.US, ConnectionStartOk): State.TUNING, **_CLOSING},
        State.SECURING: {(By.US, ConnectionSecureOk): State.TUNING, **_CLOSING},
        State.TUNING: {
            (By.PEER, ConnectionSecure): State.SECURING,
            (By.PEER, ConnectionTune): State.TUNING,
            (By.US, ConnectionTuneOk): State.OPENING,
            **_CLOSING,
        },
        State.OPENING: {
            (By.US, ConnectionOpen): State.OPENING,
            (By.PEER, ConnectionOpenOk): State.RUNNING,
            **_CLOSING,
        },
        State.RUNNING: {
            (By.PEER, ConnectionBlocked): State.RUNNING,
            (By.PEER, ConnectionUnblocked): State.RUNNING,
            (By.US, ConnectionUpdateSecret): State.RUNNING,
            (By.PEER, ConnectionUpdateSecretOk): State.RUNNING,
            (By.US, ConnectionCloseOk): State.CLOSED,
            **_CLOSING,
        },
        **_ENDS,
    },
}


def advance(role: Role, state: State, by: By, method: type[Method]) -> State:
    """Return the state after a method of the class connection.

    Raises:
      ChannelNotOpen: The method is illegal in this state.
    """
    following = TRANSITIONS[role][state].get((by, method))
    if following is None:
        raise unexpected(state, method)
    return following


def unexpected(state: State, method: type[Method]) -> ChannelNotOpen:
    """Return the error for a method on channel 0 that is illegal in a state."""
    return ChannelNotOpen(
        f"unexpected method in connection state {state.value}", method.class_id, method.method_id
    )


def check_limits(offer: ConnectionTune, answer: ConnectionTuneOk) -> None:
    """Check the limits a client settled on; the heartbeat is the client's to choose.

    Raises:
      NotAllowed: A limit is above the offer, none where the offer has one, or too small.
    """
    _check_limit("frame_max", answer.frame_max, FRAME_MIN, offer.frame_max)
    _check_limit("channel_max", answer.channel_max, 1, offer.channel_max)


def _check_limit(name: str, value: int, minimum: int, maximum: int) -> None:
    if value and value < minimum:
        problem, limit = "lower than the minimum", minimum
    elif maximum and (not value or value > maximum):
        problem, limit = "higher than the maximum", maximum
    else:
        return
    raise NotAllowed(
        f"negotiated {name} = {value} is {problem} allowed value ({limit})",
        ConnectionTuneOk.class_id,
        ConnectionTuneOk.method_id,
    )


def settle(offer: ConnectionTune, wish: ConnectionTuneOk) -> ConnectionTuneOk:
    """Return the answer of a client to an offer: the smaller limit where there are two."""
    return ConnectionTuneOk(
        _smaller(offer.channel_max, wish.channel_max),
        _smaller(offer.frame_max, wish.frame_max),
        wish.heartbeat,
    )


def _smaller(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other
