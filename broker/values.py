"""Values: how a setting is read, from YAML's values and from the texts of flags alike.

Law: each function takes whatever was written and returns the value, or raises a ValueError that
says what is expected and what was found. Who knows the place puts it in front.

Called by: config (its table of keys names one for each).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


class Address(NamedTuple):
    """Where to listen: a host and port, or a Unix socket."""

    host: str
    port: int
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(value: object) -> Address:
    """Read ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``."""
    text = value if isinstance(value, str) else ""
    if text.startswith("unix:") and len(text) > 5:
        return Address("", 0, text[5:])
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]\s/]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"expected HOST:PORT, [IPV6]:PORT or unix:PATH, found {_shown(value)}")
    return Address(match[1] or match[2], int(match[3]))


def addresses(value: object) -> tuple[Address, ...]:
    """Read one address or several, in a list or separated by commas."""
    several = value.split(",") if isinstance(value, str) else value
    if not isinstance(several, list | tuple) or not several:
        raise ValueError(f"expected one address or a list of them, found {_shown(value)}")
    return tuple(address(one.strip() if isinstance(one, str) else one) for one in several)


def address_or_off(value: object) -> Address | None:
    """Read an address, or ``off`` (which YAML reads as false)."""
    return None if value in ("off", False) else address(value)


def text(value: object) -> str:
    """Read a text."""
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"expected a text, found {_shown(value)}")


def texts(value: object) -> tuple[str, ...]:
    """Read a list of texts, or texts separated by commas."""
    several = [one for one in value.split(",") if one] if isinstance(value, str) else value
    if not isinstance(several, list | tuple):
        raise ValueError(f"expected a list of names, found {_shown(value)}")
    return tuple(text(one) for one in several)


def path(value: object) -> Path:
    """Read the path of a file or folder."""
    return Path(text(value)).expanduser()


def path_or_none(value: object) -> Path | None:
    """Read a path, or nothing."""
    return None if value in (None, "") else path(value)


def boolean(value: object) -> bool:
    """Read true or false."""
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    key = value.lower() if isinstance(value, str) else value
    if isinstance(key, bool):
        return key
    if isinstance(key, str) and key in known:
        return known[key]
    raise ValueError(f"expected true or false, found {_shown(value)}")


def one_of(*words: str) -> Callable[[object], str]:
    """Read one of some words."""

    def convert(value: object) -> str:
        if isinstance(value, str) and value.lower() in words:
            return value.lower()
        raise ValueError(f"expected one of {', '.join(words)}, found {_shown(value)}")

    return convert


def integer(low: int, high: int) -> Callable[[object], int]:
    """Read an integer between two bounds."""

    def convert(value: object) -> int:
        number = _number(value, int)
        if number is None or number != int(number) or not low <= number <= high:
            raise ValueError(f"expected an integer from {low} to {high}, found {_shown(value)}")
        return int(number)

    return convert


def seconds(value: object) -> float:
    """Read a time in seconds above zero."""
    number = _number(value, float)
    if number is None or not 0 < number <= 86_400:
        raise ValueError(f"expected seconds, above 0 and at most 86400, found {_shown(value)}")
    return float(number)


def size(low: int, high: int) -> Callable[[object], int]:
    """Read a number of bytes between two bounds, with or without a unit (``128MiB``)."""

    def convert(value: object) -> int:
        number = _bytes(value)
        if number is None or not low <= number <= high:
            raise ValueError(
                f"expected bytes (65536, 2MiB) from {low} to {high}, found {_shown(value)}"
            )
        return number

    return convert


def share(value: object) -> float:
    """Read a share: ``0.6`` or ``60%``."""
    percent = isinstance(value, str) and value.endswith("%")
    number = _number(value.rstrip("% ") if isinstance(value, str) else value, float)
    number = number / 100 if number is not None and percent else number
    if number is None or not 0 < number <= 1:
        raise ValueError(f"expected a share above 0 and up to 1 or 100%, found {_shown(value)}")
    return float(number)


def share_or_size(value: object) -> float:
    """Read a share of the memory (up to 1) or bytes (from 1 MiB)."""
    number = _bytes(value)
    if number is not None and number >= 1 << 20:
        return float(number)
    try:
        return share(value)
    except ValueError:
        raise ValueError(
            "expected a share of the memory (0.6, 60%) or bytes from 1MiB (2GiB), "
            f"found {_shown(value)}"
        ) from None


def _number(value: object, kind: type[int] | type[float]) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = kind(value) if isinstance(value, str) else value
    except ValueError:
        return None
    return number if abs(number) < 1 << 62 else None


def _bytes(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).lower(), re.ASCII)
    if not isinstance(value, str) or match is None or match[2] not in UNITS or len(value) > 30:
        return None
    return int(float(match[1]) * UNITS[match[2]])


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    return f"'{value[:60]}'" if isinstance(value, str) else str(value)[:60]
