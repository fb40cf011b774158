"""Plugins: features that only some users need, behind one door.

Law: a plugin is a module with `register(registry)`. The built-in ones are named here; others are
found by their entry points in the group `leveret.plugins`. One that cannot be loaded is told of and
left out; it never keeps the broker from starting.

Called by: app, cli, testing.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leveret.broker.core.lookups import ROUTES
from leveret.broker.core.registry import Registered, Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

GROUP: Final = "leveret.plugins"

BUILT_IN: Final = (
    "celery_eta",
    "consistent_hash",
    "consumer_timeout",
    "dead_letter",
    "deduplication",
    "delayed",
    "event_exchange",
    "fair_key",
    "max_length",
    "modulus_hash",
    "moving",
    "pause",
    "priority",
    "random_exchange",
    "recent_history",
    "redelivery",
    "redrive",
    "single_active_consumer",
    "steering",
    "trace",
    "ttl",
)


def load(disabled: Collection[str] = (), *, are_others_wanted: bool = True) -> Registry:
    """Return a registry with all plugins that there are.

    Args:
      disabled: Names of those that are not to be loaded.
      are_others_wanted: Whether to look for others than the built-in ones.
    """
    from leveret.broker import __version__

    registry = Registry()
    for route in ROUTES:
        registry.resource(route)
    for name in BUILT_IN:
        plugin = Registered(name, __version__)
        _register(registry, plugin, disabled, partial(import_module, f"{__name__}.{name}"))
    if are_others_wanted:
        for name, version, find in _others():
            plugin = Registered(name, version)
            if name in registry.plugins:
                plugin = Registered(f"{name} {version}", version, is_enabled=False)
                plugin.problem = f"there is another plugin with the name {name}"
                registry.begin(plugin)
            else:
                _register(registry, plugin, disabled, find)
    return registry


def _register(
    registry: Registry, plugin: Registered, disabled: Collection[str], find: Callable[[], Any]
) -> None:
    registry.begin(plugin)
    if plugin.name in disabled:
        plugin.is_enabled = False
        return
    try:
        find().register(registry)
    except Exception as problem:
        plugin.is_enabled = False
        plugin.problem = f"{type(problem).__name__}: {problem}"
        registry.undo()


def _others() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Return name, version and a way to the module of each plugin that is installed."""
    if not _are_there_others():
        return
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP):
        version = "" if entry.dist is None else entry.dist.version
        yield entry.name, version, entry.load


def _are_there_others() -> bool:
    """Look for the group where entry points are: to load what reads them takes its time."""
    for folder in map(Path, sys.path):
        for file in folder.glob("*.dist-info/entry_points.txt"):
            if GROUP in file.read_text("utf-8", "replace"):
                return True
    return False
