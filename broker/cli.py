"""The ``leveret`` command: serve, check, plugins, store, perf.

Law: what is wrong with a command line or a file is one line on stderr and exit status 2. Only
the parts a verb needs are imported.

Called by: the console script, ``python -m leveret.broker``.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from leveret.broker import __version__
from leveret.broker.config import ConfigError, load
from leveret.broker.document import DocumentError
from leveret.broker.logs import FORMATS, LEVELS

if TYPE_CHECKING:
    from leveret.broker.storage.tools import Answer

USAGE_ERROR = 2
INTERRUPTED = 130  # what a shell says of a process that SIGINT has ended

DESCRIPTION = """\
A message broker that speaks RabbitMQ's AMQP 0-9-1.

Each verb has its own help: leveret serve --help"""

SERVE = """\
Run the broker until SIGTERM or SIGINT.

When every listener accepts, one line goes to stdout:

  leveret ready amqp=HOST:PORT[,...] management=HOST:PORT|off

Logs go to stderr. Every setting can also stand in a YAML file (--config) or in the environment:
log.level is LEVERET_LOG_LEVEL. Flags win over the environment, the environment over the file.
deploy/leveret.yaml lists all of them."""

SERVE_EXAMPLES = """\
examples:
  leveret serve --in-memory
      AMQP on port 5672, nothing on disk; user guest, password guest, from this machine only
  leveret serve --topology topology.yaml
      declare users, exchanges, queues and bindings before the first client comes
  leveret serve --listen 127.0.0.1:0 --listen unix:/run/leveret/amqp.sock
      a free port, and a Unix socket
  leveret serve --config /etc/leveret.yaml --log-format json
      as a service"""

CHECK = """\
Read a topology file (YAML, or RabbitMQ's definitions in a .json file), try it on an empty
broker in memory, and say what it holds. Nothing is started. Exit status 0: it can be used."""

PLUGINS = """\
List the plugins: name, version, whether it is used, and what it adds to the broker. One that
plugins.disabled of the configuration names is not used, nor is one that fails. Nothing is started.
Exit status 0: all is well; 1: a plugin has failed."""

STORE = """\
Look at what a broker keeps in its data directory, mend it, make it smaller, copy it.

All but backup need a broker that is stopped. Exit status 0: done, or all is well; 1: something is
damaged; 2: it cannot be done."""

INFO = "Say what a data directory holds: format, sizes, messages by queue, dead space."

STORE_CHECK = """\
Read all of a data directory and say what is damaged: rows, messages, definitions, the database.
Exit status 0: nothing is; 1: something is."""

REPAIR = """\
Drop what cannot be read, and only that, and say what is lost by it. Where the checksum of a body
does not match and it is not known in which message, all of them stay, as they are. A copy of all
as it was is made first, beside it: leveret.db.before-repair-1, and -wal and -bodies-N behind that
name. There has to be room for it, and for a second leveret.db if that itself is damaged."""

COMPACT = """\
Write anew what lives in rows that are mostly dead, then leveret.db without gaps; give back what is
dead in leveret.db-bodies-N. There has to be room meanwhile for as much again as there is. A
running broker does most of this by itself."""

BACKUP = """\
Copy the store into one file, which is there as a whole or not at all. If a broker runs on the data
directory it makes the copy itself, while it goes on; all that was confirmed before is in it.

To go back to a copy, put it into an empty directory under the name leveret.db. Whoever copies a
data directory by other means has to stop the broker, and to take all files in it."""

PERF = "Measure a broker: producers, consumers, rates, latencies. See leveret perf --help."


class _Parser(argparse.ArgumentParser):
    """Says what is wrong on one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message} (try {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    shape = argparse.RawDescriptionHelpFormatter
    top = _Parser(prog="leveret", description=DESCRIPTION, formatter_class=shape)
    top.add_argument("--version", action="version", version=f"leveret {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)

    serve = verbs.add_parser(
        "serve",
        help="run the broker",
        description=SERVE,
        epilog=SERVE_EXAMPLES,
        formatter_class=shape,
        allow_abbrev=False,
    )
    _add_serve_arguments(serve)

    check = verbs.add_parser(
        "check",
        help="validate a topology file",
        description=CHECK,
        formatter_class=shape,
        allow_abbrev=False,
    )
    check.add_argument("file", metavar="FILE", help="topology to read")

    listed = verbs.add_parser(
        "plugins",
        help="list the plugins",
        description=PLUGINS,
        formatter_class=shape,
        allow_abbrev=False,
    )
    listed.add_argument("--config", metavar="FILE", help="settings (YAML)")
    listed.add_argument("--json", action="store_true", help="for machines")

    _add_store(verbs)

    verbs.add_parser("perf", help="measure a broker", description=PERF, add_help=False)
    return top


def _add_store(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    shape = argparse.RawDescriptionHelpFormatter
    store = verbs.add_parser(
        "store",
        help="look at, mend or copy what is kept on disk",
        description=STORE,
        formatter_class=shape,
        allow_abbrev=False,
    )
    commands = store.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text, description in (
        ("info", "what it holds", INFO),
        ("check", "whether it is whole", STORE_CHECK),
        ("repair", "drop what is damaged", REPAIR),
        ("compact", "make it smaller", COMPACT),
        ("backup", "copy it, also while a broker runs", BACKUP),
    ):
        command = commands.add_parser(
            name, help=text, description=description, formatter_class=shape, allow_abbrev=False
        )
        command.add_argument("dir", metavar="DIR", type=Path, help="data directory")
        if name == "backup":
            command.add_argument("file", metavar="FILE", type=Path, help="where to; a new file")
        if name in ("info", "check"):
            command.add_argument("--json", action="store_true", help="for machines")


def _add_serve_arguments(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--config", metavar="FILE", help="settings (YAML)")
    serve.add_argument(
        "--listen",
        metavar="HOST:PORT",
        action="append",
        help="where AMQP clients connect; may be given several times; [::1]:5672 for IPv6,"
        " unix:PATH for a Unix socket, port 0 for a free port (default: 0.0.0.0:5672)",
    )
    serve.add_argument(
        "--management",
        metavar="HOST:PORT|off",
        help="where the management interface listens (it does not exist yet: off)",
    )
    where = serve.add_mutually_exclusive_group()
    where.add_argument(
        "--data-dir",
        metavar="DIR",
        help="where queues, messages and definitions are kept (default: leveret-data)",
    )
    where.add_argument(
        "--in-memory", action="store_true", help="keep nothing: messages do not survive"
    )
    serve.add_argument(
        "--topology",
        metavar="FILE",
        help="declare what this file holds before listening (YAML, or RabbitMQ's definitions"
        " if its name ends in .json)",
    )
    serve.add_argument("--log-format", metavar="|".join(FORMATS), help="log for people or machines")
    serve.add_argument("--log-level", metavar="LEVEL", help=f"{', '.join(LEVELS)} (default: info)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["perf"]:
        from leveret.clients import perf

        return perf.main(arguments[1:])
    options = parser().parse_args(arguments)
    try:
        if options.verb == "serve":
            return _serve(options, os.environ)
        if options.verb == "check":
            return _check(options.file)
        if options.verb == "plugins":
            return _plugins(options, os.environ)
        if options.verb == "store":
            return _store(options)
    except (ConfigError, DocumentError) as error:
        print(f"leveret {options.verb}: {error}", file=sys.stderr)
        return USAGE_ERROR
    parser().print_help(sys.stderr)
    return USAGE_ERROR


def flags(options: argparse.Namespace) -> dict[str, tuple[str, object]]:
    """Return the settings that flags make, by key path, with the flag for errors."""
    given = {
        "listeners.amqp": ("--listen", options.listen),
        "listeners.management": ("--management", options.management),
        "data_dir": ("--data-dir", options.data_dir),
        "topology": ("--topology", options.topology),
        "log.format": ("--log-format", options.log_format),
        "log.level": ("--log-level", options.log_level),
    }
    chosen: dict[str, tuple[str, object]] = {
        key: (flag, value) for key, (flag, value) in given.items() if value is not None
    }
    if options.in_memory or options.data_dir is not None:
        chosen["in_memory"] = ("--in-memory", options.in_memory)
    return chosen


def _serve(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    config = load(options.config, environment, flags(options))
    from leveret.broker.app import run  # what `--help` and mistakes need not wait for

    return run(config)


def _check(file: str) -> int:
    from leveret.broker import plugins
    from leveret.broker.definitions import load as load_definitions

    definitions = load_definitions(file, registry=plugins.load())
    for note in definitions.notes:
        print(f"leveret check: {note}", file=sys.stderr)
    print(f"{file}: good ({definitions.summary()})")
    return 0


def _plugins(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    config = load(options.config, environment, {})
    from leveret.broker import plugins
    from leveret.broker.plugins import listing

    registry = plugins.load(config.plugins.disabled)
    if options.json:
        print(json.dumps(listing.facts(registry)))
    else:
        print("\n".join(listing.lines(registry)))
    for name in sorted({*config.plugins.disabled} - registry.plugins.keys()):
        print(f"leveret plugins: there is no {name!r}: plugins.disabled", file=sys.stderr)
    return 1 if listing.has_failed(registry) else 0


def _store(options: argparse.Namespace) -> int:
    from leveret.broker.storage.base import Damaged, StoreError

    try:
        answer = _tool(options)
    except StoreError as problem:
        print(f"leveret store {options.command}: {problem}", file=sys.stderr)
        return 1 if isinstance(problem, Damaged) else USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    if getattr(options, "json", False):
        print(json.dumps(answer.facts))
    else:
        print("\n".join(answer.lines))
    return 0 if answer.is_good else 1


def _tool(options: argparse.Namespace) -> "Answer":
    from leveret.broker import plugins
    from leveret.broker.storage import repair, tools

    if options.command == "backup":
        try:
            return tools.backup(options.dir, options.file)
        except tools.InUse:
            from leveret.broker.server.control import ask

            file = str(options.file.absolute())
            told = ask(options.dir, {"command": "backup", "file": file})
            return tools.copied(options.file, told["octets"])
    tool = {
        "info": tools.info,
        "check": tools.check,
        "compact": tools.compact,
        "repair": repair.repair,
    }[options.command]
    return tool(options.dir, plugins.load())
