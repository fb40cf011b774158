"""Options: what `leveret perf` is asked to do.

Law: everything a run depends on is in one frozen value, so that a run can be repeated from its
report. What contradicts itself is refused before anything is sent.

Called by: main; every other module of the package reads `Options`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from random import Random, SystemRandom
from typing import NoReturn

from leveret.protocol.uri import InvalidURI, Parameters, parse

STAMP_SIZE = 16  # producer, time and sequence stand in the first octets of every body
LARGEST_BODY = 128 << 20
EXCHANGE_TYPES = ("default", "direct", "topic", "fanout", "headers")
VERIFY = ("full", "sample", "off")
SAMPLE_EVERY = 16  # bodies, with --verify sample


@dataclass(frozen=True, slots=True)
class Sizes:
    """Body sizes: one of a few, or any from a range."""

    choices: tuple[int, ...]
    spread: bool = False

    def pick(self, random: Random) -> int:
        """Return the next size."""
        if self.spread:
            return random.randint(self.choices[0], self.choices[-1])
        return random.choice(self.choices)

    @property
    def mean(self) -> float:
        """The average size."""
        if self.spread:
            return (self.choices[0] + self.choices[-1]) / 2
        return sum(self.choices) / len(self.choices)

    def __str__(self) -> str:
        return ("-" if self.spread else ",").join(map(str, self.choices))


def parse_sizes(text: str) -> Sizes:
    """Return what "1024", "100,1k,4k" or "100-4k" says."""
    try:
        if "-" in text:
            low, high = (_parse_size(part) for part in text.split("-"))
            if low > high:
                raise ValueError
            return Sizes((low, high), spread=low != high)
        return Sizes(tuple(_parse_size(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give a size (1024, 4k), a list (100,1k) or a range (100-4k), "
            f"each from {STAMP_SIZE} bytes to 128m"
        ) from None


def _parse_size(text: str) -> int:
    units = {"k": 1 << 10, "m": 1 << 20}
    unit = units.get(text[-1:].lower(), 1)
    size = int(text[:-1] if unit > 1 else text) * unit
    if not STAMP_SIZE <= size <= LARGEST_BODY:
        raise ValueError(text)
    return size


@dataclass(frozen=True, slots=True)
class Options:
    """What one run does; the help texts of `parser` say what each means."""

    uri: str = "amqp://127.0.0.1"
    producers: int = 1
    consumers: int = 1
    queues: int = 1
    type: str = "default"
    keys: int = 1
    bindings: int = 0
    spare_bindings: int = 0
    sizes: Sizes = Sizes((STAMP_SIZE,))
    message_ids: bool = False
    headers: int = 0
    persistent: bool = False
    durable: bool = False
    mandatory: bool = False
    ack: int = 0
    prefetch: int = 0
    confirm: int = 0
    rate: float = 0.0
    max_backlog: int = 0
    backlog: int = 0
    time: float = 10.0
    warmup: float = 2.0
    count: int = 0
    processes: int = 2
    verify: str = "full"
    broker_pid: int = 0
    prefix: str = "perf"
    connect_rate: bool = False
    idle: int = 0
    fill: int = 0
    json: str = ""
    quiet: bool = False

    @property
    def parameters(self) -> Parameters:
        """Where to connect."""
        return parse(self.uri)

    @property
    def exchange(self) -> str:
        """The exchange published to; the default exchange has no name."""
        return "" if self.type == "default" else f"{self.prefix}-{self.type}"

    @property
    def copies(self) -> int:
        """How many queues a message reaches."""
        return self.queues if self.type == "fanout" else 1

    def queue(self, index: int) -> str:
        """Return the name of a queue."""
        return f"{self.prefix}-{index}"

    def as_dict(self) -> dict[str, object]:
        """Return the options for a report: no password, sizes as they were written."""
        values = asdict(self)
        values["uri"] = self.uri.rpartition("@")[2]
        values["sizes"] = str(self.sizes)
        return values


class _Parser(argparse.ArgumentParser):
    """Says what is wrong on one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (try {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """Return the command line of `leveret perf`."""
    made = _Parser(
        prog="leveret perf",
        description="Put load on an AMQP 0-9-1 broker, verify what comes back, report its price.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_shape(made.add_argument_group("who and where"))
    _add_messages(made.add_argument_group("messages"))
    _add_flow(made.add_argument_group("flow"))
    _add_run(made.add_argument_group("run and report"))
    _add_modes(made.add_argument_group("other measurements, instead of a load"))
    return made


def _add_shape(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--uri", default="amqp://127.0.0.1", help="the broker")
    group.add_argument("-x", "--producers", type=_count, default=1, help="a connection each")
    group.add_argument("-y", "--consumers", type=_count, default=1, help="a connection each")
    group.add_argument("-q", "--queues", type=_positive, default=1, help="consumers take turns")
    group.add_argument(
        "-t",
        "--type",
        choices=EXCHANGE_TYPES,
        default="default",
        help="exchange type; default: producer i publishes to queue i",
    )
    group.add_argument("--keys", type=_positive, default=1, help="distinct routing keys, at random")
    group.add_argument(
        "--bindings",
        type=_count,
        default=0,
        help="bindings of a topic or headers exchange, dealt to the queues; 0: one a queue",
    )
    group.add_argument(
        "--spare-bindings", type=_count, default=0, help="more bindings, that match nothing sent"
    )
    group.add_argument("--durable", action="store_true", help="durable queues")
    group.add_argument("--prefix", default="perf", help="of the names of queues and exchange")
    group.add_argument("--processes", type=_positive, default=2, help="of this generator")


def _add_messages(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-s",
        "--size",
        dest="sizes",
        type=parse_sizes,
        default=Sizes((STAMP_SIZE,)),
        help="bytes of a body: 1024, a list 100,1k or a range 100-4k",
    )
    group.add_argument("--message-ids", action="store_true", help="a distinct id each")
    group.add_argument("--headers", type=_count, default=0, help="headers each")
    group.add_argument("--persistent", action="store_true", help="delivery mode 2")
    group.add_argument("--mandatory", action="store_true", help="returns count as errors")


def _add_flow(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-a", "--ack", type=_count, default=0, help="every n messages; 0: no ack")
    group.add_argument("--prefetch", type=_count, default=0, help="a consumer; 0: no limit")
    group.add_argument("--confirm", type=_count, default=0, help="unconfirmed at most; 0: none")
    group.add_argument("-r", "--rate", type=float, default=0.0, help="a producer, per second")
    group.add_argument(
        "--max-backlog",
        type=_count,
        default=0,
        help="pause publishing while so many messages are on their way; 0: never",
    )
    group.add_argument(
        "--backlog", type=_count, default=0, help="messages queued before anything is consumed"
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-z", "--time", type=float, default=10.0, help="seconds measured")
    group.add_argument("--warmup", type=float, default=2.0, help="seconds before that")
    group.add_argument("--count", type=_count, default=0, help="messages a producer, not --time")
    group.add_argument("--verify", choices=VERIFY, default="full", help="comparing bodies")
    group.add_argument("--broker-pid", type=_count, default=0, help="measure this process")
    group.add_argument("--json", default="", metavar="FILE", help="write the report, - for stdout")
    group.add_argument("--quiet", action="store_true", help="no progress line")


def _add_modes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--connect-rate",
        action="store_true",
        help="connect, open a channel, close, for --time, in --processes at once",
    )
    group.add_argument("--idle", type=_count, default=0, help="connections that do nothing")
    group.add_argument("--fill", type=_count, default=0, help="messages queued, none consumed")


def parse_options(arguments: Sequence[str]) -> Options:
    """Return the options of a command line; a mistake ends the program with status 2."""
    made = parser()
    namespace = made.parse_args(arguments)
    options = Options(**{field.name: getattr(namespace, field.name) for field in fields(Options)})
    problem = _contradiction(options) or _not_there(options)
    if problem:
        made.error(problem)
    # names of its own: what a killed run left behind does not disturb this one
    return replace(options, prefix=f"{options.prefix}-{SystemRandom().getrandbits(32):08x}")


def _contradiction(options: Options) -> str:
    try:
        options.parameters  # noqa: B018  parsed for its errors
    except InvalidURI as problem:
        return str(problem)
    checks = (
        (options.producers + options.consumers, "neither producers nor consumers"),
        (options.keys == 1 or options.type in {"direct", "topic"}, "--keys needs direct or topic"),
        (
            not options.bindings or options.type in {"topic", "headers"},
            "--bindings needs topic or headers",
        ),
        (options.time > 0 or options.count, "--time must be above 0"),
        (options.warmup >= 0 and options.rate >= 0, "times and rates are not negative"),
        (options.prefetch <= 65535, "--prefetch is 65535 at most"),
        (
            not options.prefetch or not options.ack or options.ack <= options.prefetch,
            "--ack beyond --prefetch would wait for ever",
        ),
        (
            options.consumers or not options.max_backlog,
            "--max-backlog needs consumers",
        ),
        (
            not options.spare_bindings or options.type in {"direct", "topic", "headers"},
            "--spare-bindings needs direct, topic or headers",
        ),
        (
            not options.backlog
            or (options.processes > 1 and options.producers and options.consumers),
            "--backlog needs producers and consumers in processes of their own",
        ),
        (
            not options.backlog or not options.max_backlog or options.backlog < options.max_backlog,
            "--max-backlog must be above --backlog",
        ),
        (
            not options.backlog or not options.count,
            "--backlog goes with --time, not with --count",
        ),
        (
            sum(map(bool, (options.connect_rate, options.idle, options.fill))) <= 1,
            "choose one of --connect-rate, --idle and --fill",
        ),
    )
    return next((text for fine, text in checks if not fine), "")


def _not_there(options: Options) -> str:
    """Say what a run would miss at its end, or measure as nothing."""
    if options.broker_pid and not Path(f"/proc/{options.broker_pid}").exists():
        return f"--broker-pid: there is no process {options.broker_pid}"
    if options.json not in ("", "-"):
        try:
            Path(options.json).touch()
        except OSError as problem:
            return f"--json {options.json}: {problem.strerror}"
    return ""


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from None


def _count(text: str) -> int:
    if (number := _number(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _positive(text: str) -> int:
    if (number := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number
