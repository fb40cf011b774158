"""ConnectionPair: a client and a server back to back, without a network.

What one end sends is put on its way with `send` and arrives with `deliver`, so a test may look
at it, cut it or let it cross the other direction.
"""

from dataclasses import dataclass, field

from leveret.protocol.connection import Connection
from leveret.protocol.handshake import Role, settle
from leveret.protocol.methods import (
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTuneOk,
    Method,
)
from leveret.protocol.reader import Command


@dataclass
class ConnectionPair:
    """Two ends, and the bytes between them by the role of their sender."""

    client: Connection = field(default_factory=lambda: Connection(Role.CLIENT))
    server: Connection = field(default_factory=lambda: Connection(Role.SERVER))
    wire: dict[Role, bytearray] = field(
        default_factory=lambda: {role: bytearray() for role in Role}
    )

    def end(self, role: Role) -> Connection:
        return self.client if role is Role.CLIENT else self.server

    def send(self, role: Role, method: Method, channel: int = 0) -> None:
        self.wire[role] += self.end(role).send(channel, method)

    def deliver(self, sender: Role, size: int | None = None) -> list[tuple[int, Command]]:
        """Hand what is on its way, or its first octets, to the other end."""
        data = bytes(self.wire[sender][:size])
        del self.wire[sender][: len(data)]
        return self.end(Role.SERVER if sender is Role.CLIENT else Role.CLIENT).receive_data(data)

    def exchange(self, sender: Role, method: Method, channel: int = 0) -> list[tuple[int, Command]]:
        """Send a method and deliver it."""
        self.send(sender, method, channel)
        return self.deliver(sender)

    def greet(self) -> None:
        """Deliver the client's protocol header."""
        self.wire[Role.CLIENT] += self.client.start()
        self.deliver(Role.CLIENT)

    def start(self) -> None:
        """Get as far as the limits."""
        self.greet()
        self.exchange(Role.SERVER, ConnectionStart(0, 9, {"product": "test"}))
        self.exchange(Role.CLIENT, ConnectionStartOk({}, "PLAIN", b"\0guest\0guest"))

    def open(self, heartbeat: int = 60) -> "ConnectionPair":
        """Do the whole handshake."""
        self.start()
        self.exchange(Role.SERVER, self.server.offer)
        wish = ConnectionTuneOk(0, 0, heartbeat)
        self.exchange(Role.CLIENT, settle(self.client.offer, wish))
        self.exchange(Role.CLIENT, ConnectionOpen("/"))
        self.exchange(Role.SERVER, ConnectionOpenOk())
        return self
