"""Notes: small octet strings that plugins keep of virtual hosts, exchanges and queues.

Law: a note belongs to an owner and goes with it. What it says is the plugin's matter. Those of
durable owners survive a restart: what a slice changes is in one commit with all else that it
causes, and after a restart they are there before their owners are.

Called by: plugins, storage.catalog_restorer; storage.catalog (through events).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leveret.broker.core.events import Events
    from leveret.broker.core.exchange import Exchange
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost

# Virtual host, kind ("vhost", "exchange" or "queue") and name.
Owner: TypeAlias = tuple[str, str, str]

_NONE: Final[Mapping[bytes, bytes]] = {}


class Notes:
    """All notes of a broker.

    Args:
      vhosts: Those of the broker, by name.
    """

    __slots__ = ("_emit", "_notes", "_vhosts")

    def __init__(self, vhosts: Mapping[str, VirtualHost], events: Events) -> None:
        self._vhosts = vhosts
        self._emit = events.emit
        self._notes: dict[str, dict[Owner, dict[bytes, bytes]]] = {}  # by plugin
        events.subscribe("queue.deleted", self._queue_deleted)
        events.subscribe("exchange.deleted", self._exchange_deleted)
        events.subscribe("vhost.deleted", self._vhost_deleted)

    def put(self, owner: Owner, plugin: str, key: bytes, value: bytes | None) -> None:
        """Keep a note instead of any that is there; None takes it away.

        Emits `note.changed` with these four, and whether the owner is durable.

        Raises:
          LookupError: There is no such owner.
        """
        durable = self._is_durable(owner)
        if self.get(owner, plugin).get(key) == value:
            return
        if value is None:
            notes = self._notes[plugin][owner]
            del notes[key]
            if not notes:
                del self._notes[plugin][owner]
        else:
            self.restore(owner, plugin, key, value)
        self._changed(owner, plugin, key, value, durable)

    def get(self, owner: Owner, plugin: str) -> Mapping[bytes, bytes]:
        """Return a plugin's notes of an owner as they are now, in the order they were first put."""
        return self._notes.get(plugin, {}).get(owner, _NONE)

    def owners(self, plugin: str) -> list[Owner]:
        """Return those of whom a plugin has notes."""
        return list(self._notes.get(plugin, ()))

    def _changed(
        self, owner: Owner, plugin: str, key: bytes, value: bytes | None, durable: bool
    ) -> None:
        self._emit(
            "note.changed", owner=owner, plugin=plugin, key=key, value=value, durable=durable
        )

    # After a restart

    def restore(self, owner: Owner, plugin: str, key: bytes, value: bytes) -> None:
        """Take in a note that was kept; its owner may come later."""
        self._notes.setdefault(plugin, {}).setdefault(owner, {})[key] = value

    def give_up(self, owner: Owner) -> bool:
        """Let go of what was kept for an owner unless that is there; return whether it is not."""
        try:
            self._is_durable(owner)
        except LookupError:
            for notes in self._notes.values():
                notes.pop(owner, None)
            return True
        return False

    # Owners

    def _is_durable(self, owner: Owner) -> bool:
        """Return whether an owner survives a restart; raise `LookupError` if it is not there."""
        vhost_name, kind, name = owner
        vhost = self._vhosts[vhost_name]
        if kind == "queue":
            return vhost.queues[name].durable
        if kind == "exchange":
            return vhost.exchanges[name].durable
        if (kind, name) != ("vhost", vhost_name):
            raise LookupError(f"there is no {kind} {name!r}")
        return True

    def _queue_deleted(self, vhost: VirtualHost, queue: Queue) -> None:
        if not queue.is_hidden:  # another one may have its name
            self._drop((vhost.name, "queue", queue.name), queue.durable)

    def _exchange_deleted(self, vhost: VirtualHost, exchange: Exchange) -> None:
        self._drop((vhost.name, "exchange", exchange.name), exchange.durable)

    def _vhost_deleted(self, vhost: VirtualHost) -> None:
        """Drop its own, and those of the default exchange, which goes without a word."""
        self._drop((vhost.name, "vhost", vhost.name), True)
        self._drop((vhost.name, "exchange", ""), True)

    def _drop(self, owner: Owner, durable: bool) -> None:
        for plugin, notes in self._notes.items():
            for key in notes.pop(owner, ()):
                self._changed(owner, plugin, key, None, durable)
