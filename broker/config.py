"""Configuration: what can be set, from four sources in rising order.

Law: defaults < the file of ``--config`` < environment ``LEVERET_*`` < flags. The dataclasses
below are the table of all keys: a key's path in the file is its path in them, its environment
variable the same path in capitals with ``_``. A value is read by the function beside its
default, wherever it comes from. An unknown key is an error. TLS has no keys until it exists.

Called by: cli (load), app (the values).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from leveret.broker.document import DocumentError, Node, nearest, read
from leveret.broker.logs import FORMATS, LEVELS
from leveret.broker.values import (
    Address,
    address_or_off,
    addresses,
    boolean,
    integer,
    one_of,
    path,
    path_or_none,
    seconds,
    share,
    share_or_size,
    size,
    text,
    texts,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
PREFIX = "LEVERET_"
MOST_FREE = 1 << 30  # what is to be free on a large file system
LEAST_OF_QUEUE = 1 << 20  # bytes of a queue that stay in memory, however little there is

# What Kubernetes puts into the environment of every pod beside a service named "leveret".
FOREIGN = re.compile(r"LEVERET_(SERVICE_(HOST|PORT)|PORT$|PORT_\d)")


class ConfigError(ValueError):
    """A setting that cannot be used, on one line that says where it was made."""


def read_by(convert: Callable[[object], object]) -> dict[str, Callable[[object], object]]:
    """Name the function that reads the value of a key."""
    return {"convert": convert}


def free_space(value: object) -> float | None:
    """Read bytes (from 1 KiB), a share of a file system, ``auto`` (None) or 0."""
    if value in ("auto", None):
        return None
    if value in (0, "0") and not isinstance(value, bool):
        return 0.0
    with suppress(ValueError):
        return float(size(1 << 10, 1 << 60)(value))
    try:
        return share(value)
    except ValueError:
        raise ValueError(
            "expected auto, 0, a share of the file system (0.05, 5%) or bytes from 1KiB (2GiB), "
            f"found {value!r}"
        ) from None


# All keys.


@dataclass(frozen=True)
class Listeners:
    """Where to listen."""

    amqp: tuple[Address, ...] = field(
        default=(Address("0.0.0.0", 5672),), metadata=read_by(addresses)
    )
    management: Address | None = field(default=None, metadata=read_by(address_or_off))


@dataclass(frozen=True)
class Log:
    """What the log on stderr looks like."""

    format: str = field(default="console", metadata=read_by(one_of(*FORMATS)))
    level: str = field(default="info", metadata=read_by(one_of(*LEVELS)))


@dataclass(frozen=True)
class Memory:
    """When publishers are blocked, and when they may go on."""

    limit: float = field(default=0.6, metadata=read_by(share_or_size))
    resume: float = field(default=0.9, metadata=read_by(share))

    def limit_bytes(self) -> int:
        """Return the memory at which the alarm begins."""
        return int(self.limit if self.limit > 1 else self.limit * available_memory())


@dataclass(frozen=True)
class Disk:
    """When publishers are blocked because the file system of the data directory is full."""

    free: float | None = field(default=None, metadata=read_by(free_space))

    def free_bytes(self, total: int) -> int:
        """Return the free bytes below which the alarm begins, on a file system of some size."""
        if self.free is None:
            return min(MOST_FREE, total // 20)
        return int(self.free * total if self.free <= 1 else self.free)


@dataclass(frozen=True)
class Limits:
    """What one connection may ask for, and how many there may be."""

    frame_max: int = field(default=131_072, metadata=read_by(size(4096, 1 << 27)))
    channel_max: int = field(default=2047, metadata=read_by(integer(1, 65_535)))
    max_message_size: int = field(default=128 << 20, metadata=read_by(size(1, 512 << 20)))
    heartbeat: int = field(default=60, metadata=read_by(integer(0, 65_535)))
    handshake_timeout: float = field(default=10.0, metadata=read_by(seconds))
    connections: int = field(default=0, metadata=read_by(integer(0, 1 << 24)))


@dataclass(frozen=True)
class Announce:
    """What clients are told they talk to."""

    product: str = field(default="RabbitMQ", metadata=read_by(text))
    version: str = field(default="3.13.7", metadata=read_by(text))


@dataclass(frozen=True)
class OutboxMarks:
    """How much may wait for one peer."""

    high: int = field(default=1 << 20, metadata=read_by(size(4096, 1 << 30)))
    low: int = field(default=256 << 10, metadata=read_by(size(0, 1 << 30)))


@dataclass(frozen=True)
class Queue:
    """How much of a queue is kept in memory when it is on the disk as well."""

    memory: float = field(default=0.01, metadata=read_by(share_or_size))

    def memory_bytes(self, budget: int) -> int:
        """Return the bytes of a queue that stay in memory, of those the process may have."""
        return int(self.memory if self.memory > 1 else max(self.memory * budget, LEAST_OF_QUEUE))


@dataclass(frozen=True)
class Plugins:
    """Which features there are."""

    disabled: tuple[str, ...] = field(default=(), metadata=read_by(texts))


@dataclass(frozen=True)
class Config:
    """Everything that can be set."""

    listeners: Listeners = Listeners()
    data_dir: Path = field(default=Path("leveret-data"), metadata=read_by(path))
    in_memory: bool = field(default=False, metadata=read_by(boolean))
    topology: Path | None = field(default=None, metadata=read_by(path_or_none))
    log: Log = Log()
    memory: Memory = Memory()
    disk: Disk = Disk()
    queue: Queue = Queue()
    limits: Limits = Limits()
    announce: Announce = Announce()
    outbox: OutboxMarks = OutboxMarks()
    plugins: Plugins = Plugins()
    default_user: str = field(default="guest", metadata=read_by(text))
    default_password: str = field(default="guest", metadata=read_by(text))
    default_vhost: str = field(default="/", metadata=read_by(text))
    loopback_users: tuple[str, ...] = field(default=("guest",), metadata=read_by(texts))


def settings(group: object = None, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the path and value of every key of a Config, of the defaults without one."""
    group = Config() if group is None else group
    for one in fields(cast("DataclassInstance", group)):
        value = getattr(group, one.name)
        if is_dataclass(value):
            yield from settings(value, f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}", value


def variable(key: str) -> str:
    """Return the environment variable of a key."""
    return PREFIX + key.upper().replace(".", "_")


def load(
    file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, tuple[str, object]] | None = None,
) -> Config:
    """Return the configuration that the sources give together.

    Args:
      file: A YAML file.
      environment: Variables; those that begin with ``LEVERET_`` count.
      flags: By key path, the name of the flag for errors and its value.

    Raises:
      ConfigError: With the place of what cannot be used.
    """
    config = Config()
    try:
        if file is not None:
            config = _from_node(config, read(file))
    except DocumentError as error:
        raise ConfigError(str(error)) from None
    known = {variable(key): key for key, _ in settings()}
    for name, value in sorted((environment or {}).items()):
        if name.startswith(PREFIX) and not FOREIGN.match(name):
            if name not in known:
                hint = nearest(name, known)
                raise ConfigError(f"environment: {name}: unknown variable; {hint}")
            config = _with(config, known[name], value, f"environment: {name}")
    for key, (flag, given) in (flags or {}).items():
        config = _with(config, key, given, flag)
    if config.outbox.low >= config.outbox.high:
        raise ConfigError(
            f"outbox.low ({config.outbox.low}) must be below outbox.high ({config.outbox.high})"
        )
    return config


def _from_node(group: T, node: Node) -> T:
    if node.content is None:
        return group  # an empty file, or a group of which every key is commented out
    known = {one.name: one for one in fields(cast("DataclassInstance", group))}
    changes: dict[str, object] = {}
    for name, entry in node.mapping(known).items():
        value = getattr(group, name)
        if is_dataclass(value):
            changes[name] = _from_node(value, entry)
        else:
            changes[name] = entry.converted(known[name].metadata["convert"])
    return replace(group, **changes)  # type: ignore[type-var]


def _with(group: T, key: str, value: object, place: str) -> T:
    name, _, rest = key.partition(".")
    changed: object
    if rest:
        changed = _with(getattr(group, name), rest, value, place)
    else:
        one = next(f for f in fields(cast("DataclassInstance", group)) if f.name == name)
        try:
            changed = one.metadata["convert"](value)
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from None
    return replace(group, **{name: changed})  # type: ignore[type-var]


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes this process may use: the machine's, or its control group's if fewer."""
    found = [_meminfo(root / "proc/meminfo")]
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # a limit further up counts too; in a container the own group is the root of the mount
        folder = mount / group.lstrip("/")
        while True:
            found.append(_limit(folder / name))
            if folder == mount or mount not in folder.parents:
                break
            folder = folder.parent
        found.append(_limit(mount / name))
    return min((one for one in found if one), default=1 << 30)


def _meminfo(file: Path) -> int:
    try:
        match = re.search(r"^MemTotal:\s*(\d+) kB", file.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0


def _limit(file: Path) -> int:
    try:
        content = file.read_text().strip()
    except OSError:
        return 0
    return int(content) if content.isdigit() and int(content) < 1 << 60 else 0
