"""Sessions: the broker's side of one client connection.

Law: commands come in, handlers run, octets pile up in the outbox; nothing awaits. Errors are
caught here and nowhere else: a soft one ends its channel, a hard one (or any on channel 0) the
connection, anything unforeseen the connection with 541.

Called by: server.turns (receive, run), core.batch (flush, release), server.connection,
server.timers; amqp.ending and app (its end).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from leveret.broker.amqp import basic_methods, connection_methods
from leveret.broker.amqp.channel import Channel
from leveret.broker.amqp.dispatch import HANDLERS, handle_rare
from leveret.broker.amqp.ending import fail, give_back
from leveret.broker.amqp.held import Held
from leveret.broker.amqp.outbox import Outbox
from leveret.broker.amqp.publish import publish
from leveret.broker.amqp.transaction import Unfinished
from leveret.broker.core.message import Message
from leveret.broker.core.queue import NotLoaded
from leveret.protocol.connection import Connection
from leveret.protocol.errors import AccessRefused, AMQPError, InternalError
from leveret.protocol.handshake import Role
from leveret.protocol.methods import (
    ConnectionBlocked,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionTune,
    ConnectionUnblocked,
    Method,
)
from leveret.protocol.reader import Acks, Command, Contents, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from leveret.broker.core.broker import Broker
    from leveret.broker.core.routes import Routes
    from leveret.broker.core.users import Permission, User
    from leveret.broker.core.vhost import VirtualHost
    from leveret.protocol.content import Buffer


class Writer(Protocol):
    """What a session asks of its socket."""

    def write_now(self, parts: list[Buffer]) -> list[Buffer]:
        """Send what the peer takes without waiting; return the rest."""

    def start_writing(self) -> None:
        """Have the outbox emptied as the peer reads, calling `written` after each piece."""

    def close(self) -> None:
        """Close the socket at once."""

    def unblock(self) -> None:
        """Go on with what waits for the end of an alarm."""


class Session:
    """One client connection.

    Attributes:
      number: Tells it from all others this broker has had; it grows.
      user: Who logged in.
      vhost: Where; None until connection.open.
      routes: The memo of routes of its user in its virtual host.
      channels: Those that are open, by number.
      closing_channels: Numbers of those that we closed and the client has not confirmed yet.
      capabilities: What the client told it understands.
      is_running: Whether deliveries may be sent.
      is_ended: Whether the socket is to be closed once the outbox is empty.
      is_hung_up: Whether it is to be closed without a word, after a pause that slows guessing.
      is_blocked: Whether its publishes wait for an alarm to end.
      is_waiting: Whether a command waits for messages that are being read, or what comes back.
      is_leaving: Whether its exclusive queues are so many that they are deleted some at a time.
      has_published: Whether it has ever published.
      is_writing: Whether a writer empties the outbox because the peer is slow.
      closing_since: When the connection began to close, in `broker.now`; None before.
    """

    # there are more names than a dict of attributes can share with those of other sessions
    __slots__ = (
        "_commands",
        "_index",
        "_is_greeted",
        "_is_left",
        "_routes",
        "_start",
        "broker",
        "capabilities",
        "channels",
        "client_properties",
        "closing_channels",
        "closing_since",
        "connection",
        "has_published",
        "held",
        "is_blocked",
        "is_ended",
        "is_hung_up",
        "is_leaving",
        "is_loopback",
        "is_running",
        "is_waiting",
        "is_writing",
        "number",
        "octets_in",
        "octets_out",
        "opened_at",
        "outbox",
        "outbox_high",
        "peer",
        "reason",
        "user",
        "vhost",
        "writer",
    )

    def __init__(
        self, broker: Broker, writer: Writer, *, peer: str = "", is_loopback: bool = True
    ) -> None:
        limits = broker.limits
        self.broker = broker
        self.writer = writer
        self.peer = peer
        self.is_loopback = is_loopback
        self.outbox = Outbox()
        self.held = Held()
        self.outbox_high = limits.outbox_high
        self.connection = Connection(
            Role.SERVER,
            offer=ConnectionTune(limits.channel_max, limits.frame_max, limits.heartbeat),
            max_message_size=limits.max_message_size,
            reader=Reader(Message, broker.envelopes),
        )
        self.user: User | None = None
        self.vhost: VirtualHost = None  # type: ignore[assignment]
        self.channels: dict[int, Channel] = {}
        self.closing_channels: dict[int, None] = {}
        self.client_properties: Mapping[str, object] = {}
        self.capabilities: frozenset[str] = frozenset()
        self.opened_at = broker.now
        self.closing_since: int | None = None
        self.is_running = False
        self.is_ended = False
        self.is_hung_up = False
        self.is_blocked = False
        self.is_writing = False
        self.is_waiting = False
        self.is_leaving = False
        self.has_published = False
        self.octets_in = 0
        self.octets_out = 0
        self.reason = "the client closed the socket"
        self._routes: Routes | None = None
        self._commands: list[tuple[int, Command]] = []
        self._index = 0
        self._start = 0
        self._is_greeted = False
        self._is_left = False  # the client has sent close
        broker.sessions[self] = None
        broker.sessions_begun += 1
        self.number = broker.sessions_begun

    def __repr__(self) -> str:
        name = self.user.name if self.user is not None else "?"
        return f"<Session {name}@{self.peer or '?'}>"

    @property
    def name(self) -> str:
        """The name a client gives its connection, for people."""
        name = self.client_properties.get("connection_name")
        return name if isinstance(name, str) else ""

    @property
    def memory(self) -> int:
        """Octets it holds besides those in queues: unsent, half received, held for commits."""
        held = self.outbox.size + self.held.octets + self.connection.reader.unfinished_size
        for channel in self.channels.values():
            if channel.transaction is not None:
                held += channel.transaction.octets
        return held

    @property
    def frame_max(self) -> int:
        """The negotiated limit of frames."""
        return self.connection.frame_max or 0xFFFFFFFF

    @property
    def routes(self) -> Routes:
        """The memo of routes, shared by all sessions of this user in this virtual host."""
        if self._routes is None:
            assert self.user is not None
            self._routes = self.broker.routes(self.vhost, self.user.name)
        return self._routes

    # In

    def open_channel(self, number: int) -> Channel:
        """Add a channel."""
        channel = self.channels[number] = Channel(self, number)
        self.broker.events.emit("channel.opened", channel=channel)
        return channel

    def receive(self, chunk: bytes) -> None:
        """Take in octets; `run` handles what they say."""
        self.octets_in += len(chunk)
        commands = self.connection.receive_data(chunk)
        if not self._is_greeted:
            commands = self._greet()
        self._commands = self._commands[self._index :] + commands if self._commands else commands
        self._index = 0

    def _greet(self) -> list[tuple[int, Command]]:
        connection = self.connection
        if connection.reply:
            self.outbox.append(connection.reply)
            self.reason = connection.hint or "wrong protocol header"
            self.broker.events.emit("handshake.failed", session=self, reason=self.reason)
            self.end()
        elif connection.is_greeted:
            self._is_greeted = True
            connection_methods.start(self)
            return connection.receive_early()
        return []

    def run(self, out_of_time: Callable[[], bool]) -> bool:
        """Handle what came in; return False if some of it is left for the next slice.

        What is left may also wait for the end of an alarm: then `is_blocked` is set.
        """
        commands = self._commands
        self.is_waiting = False
        while self._index < len(commands):
            number, command = commands[self._index]
            try:
                done = self._handle(number, command, out_of_time)
            except Unfinished:
                done = False
            except NotLoaded:
                done = False
                self.is_waiting = True
            except AMQPError as problem:
                done = True
                self._start = 0
                fail(self, number, problem, command)
            except Exception as problem:  # a fault of ours must not end the process
                done = True
                self._start = 0
                self.broker.events.emit("session.crashed", session=self, error=problem)
                fail(self, 0, InternalError(""), command)
            if not done:
                return False
            self._index += 1
            if self._index < len(commands) and out_of_time():
                return False
        self._commands = []
        self._index = 0
        return True

    def _handle(self, number: int, command: Command, out_of_time: Callable[[], bool]) -> bool:
        """Handle a command; return False if it is not done yet."""
        channel = self.channels.get(number)
        kind = type(command)
        if channel is not None:
            if kind is Contents:
                return self._publish(channel, command, out_of_time)  # type: ignore[arg-type]
            if kind is Acks:
                basic_methods.acknowledge_row(channel, command)  # type: ignore[arg-type]
                return True
            handler = HANDLERS.get(kind)
            if handler is not None:
                handler(channel, command)
                return True
        handle_rare(self, number, command)
        return True

    def _publish(
        self, channel: Channel, contents: Contents, out_of_time: Callable[[], bool]
    ) -> bool:
        if self.broker.blocked:
            self._block()
            return False
        self.has_published = True
        self._start = publish(channel, contents, self._start, out_of_time)
        if self._start < len(contents):
            return False
        self._start = 0
        return True

    # Alarms

    def _block(self) -> None:
        """Hold back at the first publish during an alarm (RabbitMQ's rule)."""
        if not self.is_blocked:
            self.is_blocked = True
            self.connection.is_reading = False
            if "connection.blocked" in self.capabilities:
                self.reply(ConnectionBlocked(self.broker.blocked))

    def unblock(self) -> None:
        """Let publishes go on: the alarm is over."""
        if self.is_blocked:
            self.is_blocked = False
            self.connection.is_reading = True
            self.writer.unblock()
            if "connection.blocked" in self.capabilities and self.is_running:
                self.reply(ConnectionUnblocked())

    # Out

    def touch(self) -> None:
        """Have the outbox flushed at the end of the slice."""
        self.broker.batch.flushing[self] = None

    def reply(self, method: Method) -> None:
        """Send a method on channel 0; a close, or close-ok, goes after what waits for a commit."""
        self._is_left = self._is_left or isinstance(method, ConnectionCloseOk)
        if self.held and isinstance(method, ConnectionClose | ConnectionCloseOk):
            self.held.follow(0, partial(self._reply, method))
        else:
            self._reply(method)

    def _reply(self, method: Method) -> None:
        if isinstance(method, ConnectionClose) and self._is_left:
            return  # what comes next is close-ok, which ends it as well
        self.outbox.append(self.connection.send(0, method))
        if isinstance(method, ConnectionCloseOk):
            self.end()
        self.touch()

    def send(self, number: int, method: Method) -> None:
        """Send a method on a channel that is closed, after what waits for a commit."""
        if number in self.held:
            self.held.follow(number, partial(self._send_now, number, method))
        else:
            self._send_now(number, method)

    def _send_now(self, number: int, method: Method) -> None:
        self.outbox.append(self.connection.send(number, method))
        self.touch()

    def hold(self, number: int, commit: int, action: Callable[[], None]) -> None:
        """Do something on a channel when a commit is done."""
        self.held.hold(number, commit, action)
        self.broker.batch.hold(self, commit)

    def hold_confirms(self, channel: Channel, commit: int) -> None:
        """Confirm what was published on a channel when a commit is done."""
        self.held.confirm(channel, commit)
        self.broker.batch.hold(self, commit)

    def release(self, committed: int) -> bool:
        """Send what waited for commits up to one; return whether more waits."""
        for action in self.held.take(committed):
            action()
        return bool(self.held)

    def flush(self) -> None:
        """Write what waits, as far as the peer takes it now."""
        if self.is_writing or not self.outbox.parts:
            return
        self.octets_out += self.outbox.size
        self.connection.has_sent = True
        unsent = self.writer.write_now(self.outbox.take())
        if unsent:
            self.outbox.put_back(unsent)
            self.is_writing = True
            self.writer.start_writing()
        else:
            self.written()

    def written(self) -> None:
        """Give consumers their turns back if the peer has read enough."""
        if self.outbox.size <= self.broker.limits.outbox_low:
            for channel in self.channels.values():
                if channel.parked:
                    channel.unpark()

    # Permissions

    def check_permission(self, permission: Permission, kind: str, name: str) -> None:
        """Raise `AccessRefused` if the user lacks a permission on a queue or exchange."""
        user, vhost = self.user, self.vhost
        assert user is not None
        if not self.broker.users.check(user.name, vhost.name, permission, name):
            shown = name or "amq.default"
            raise AccessRefused(
                f"{permission} access to {kind} '{shown}' in vhost '{vhost.name}' "
                f"refused for user '{user.name}'"
            )

    def check_topic_permission(
        self, permission: Permission, exchange: str, routing_key: str
    ) -> None:
        """Raise `AccessRefused` if the user may not use a routing key on a topic exchange."""
        user, vhost = self.user, self.vhost
        assert user is not None
        users = self.broker.users
        if not users.check_topic(user.name, vhost.name, exchange, permission, routing_key):  # type: ignore[arg-type]
            raise AccessRefused(
                f"{permission} access to topic '{routing_key}' in exchange '{exchange}' "
                f"in vhost '{vhost.name}' refused for user '{user.name}'"
            )

    # The end; how one comes to it is in `ending`

    def give_up(self) -> None:
        """End without what waits for a commit: there are none any more."""
        self.held.clear()
        self.end()

    def hang_up(self, reason: str) -> None:
        """Close the socket without a word, after a pause."""
        self.reason = reason
        self.is_hung_up = True
        self.closing_since = self.broker.now

    def end(self) -> None:
        """Have the socket closed once the outbox is empty."""
        self.is_ended = True
        self.touch()

    def lose(self) -> None:
        """Deal nothing more: the socket is broken. What the peer said before may still be read."""
        self.is_running = False

    def close(self, reason: str = "") -> None:
        """End the session; what was written before is still sent."""
        if reason:
            self.reason = reason
        give_back(self)
        self.end()

    def abort(self, reason: str) -> None:
        """Close the socket without a word."""
        self.reason = reason
        self.is_ended = True
        self.writer.close()

    def forget(self) -> None:
        """Leave the broker: the socket is closed."""
        self.close()
        if self.broker.sessions.pop(self, self) is None:
            self.broker.events.emit("connection.closed", session=self, reason=self.reason)
        self.broker.batch.flushing.pop(self, None)
        self.broker.batch.held.pop(self, None)
        self.unblock()
