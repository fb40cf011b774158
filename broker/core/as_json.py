"""JSON of what the broker knows: dataclasses, tables of the wire, policies.

Law: whatever a client has sent has a form here. It is for people and programs that look: what
JSON has no word for becomes text, and nothing reads it back.

Called by: core.explanation, core.sighting, core.resources, plugins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from math import isfinite
from typing import Any, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


DEEPEST = 64  # levels that are shown; nothing that makes sense has so many


def _number(value: float) -> Json:
    return float(value) if isfinite(value) else str(value)


# Of subclasses that tell types of the wire apart, the value stays. The first that fits counts.
FORMS: tuple[tuple[type, Callable[[Any], Json]], ...] = (
    (bool, bool),
    (int, int),
    (float, _number),
    (str, str),
    (bytes, lambda value: value.decode("utf-8", "backslashreplace")),
    (datetime, datetime.isoformat),
)


def as_json(value: object, levels: int = DEEPEST) -> Json:
    """Return a value as `json.dumps` takes it; dataclasses become objects of their fields.

    Args:
      value: Anything.
      levels: How deep it may be nested; what is deeper becomes an ellipsis.
    """
    if value is None:
        return None
    for kind, form in FORMS:
        if isinstance(value, kind):
            return form(value)
    if not levels:
        return "..."
    levels -= 1
    if isinstance(value, Mapping):
        return {str(name): as_json(entry, levels) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry, levels) for entry in value]
    if is_dataclass(value):
        return {each.name: as_json(getattr(value, each.name), levels) for each in fields(value)}
    return str(value)
