"""What plugins there are, for people and machines.

Law: nothing is started; a plugin is imported and asked what it registers, as at the start.

Called by: cli (`leveret plugins`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leveret.broker.core.registry import Registered, Registry

INDENT = "    "


def lines(registry: Registry) -> list[str]:
    """Return what to show: a line for each plugin, and one for each thing it has registered."""
    plugins = list(registry.plugins.values())
    names = max((len(plugin.name) for plugin in plugins), default=0)
    versions = max((len(plugin.version) for plugin in plugins), default=0)
    shown: list[str] = []
    for plugin in plugins:
        shown.append(f"{plugin.name:{names}}  {plugin.version:{versions}}  {_state(plugin)}")
        shown += [INDENT + what for what in plugin.what]
    return shown


def facts(registry: Registry) -> list[dict[str, object]]:
    """Return the same for machines."""
    return [
        {
            "name": plugin.name,
            "version": plugin.version,
            "enabled": plugin.is_enabled,
            "problem": plugin.problem,
            "registered": plugin.what,
        }
        for plugin in registry.plugins.values()
    ]


def has_failed(registry: Registry) -> bool:
    """Whether a plugin that is wanted cannot be used."""
    return any(plugin.problem for plugin in registry.plugins.values())


def _state(plugin: Registered) -> str:
    if plugin.problem:
        return f"failed: {plugin.problem}"
    return "enabled" if plugin.is_enabled else "disabled"
