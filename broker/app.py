"""The application: builds the objects in order, opens the one nursery, stops in reverse order.

Law: whatever cannot work (a bad file, a port in use) fails before the first listener accepts.

Called by: cli (run), tests (serve).
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, cast

import structlog
import trio

from leveret.broker import __version__, logs, plugins
from leveret.broker.amqp.ending import fail
from leveret.broker.core.broker import Broker, Limits
from leveret.broker.reports import subscribe
from leveret.broker.server import alarms, clock, disk, listener, timers
from leveret.broker.server.turns import Turns
from leveret.protocol.errors import AMQPError, ConnectionForced, InternalError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from leveret.broker.amqp.session import Session
    from leveret.broker.config import Config
    from leveret.broker.core.registry import Background, Registry
    from leveret.broker.entries import Definitions
    from leveret.broker.persistence import Persistence
    from leveret.broker.server.disk import Volume

NODE = f"leveret@{socket.gethostname()}"
# Seconds that peers have at shutdown to take what waits for them and to say close-ok.
STOP_TIMEOUT = 5
# Young objects before a collection. Messages hold no cycles, so collecting them is in vain, and
# older generations never run by themselves: with the defaults a message costs twice as much when
# many are queued. The young ones are looked at once each, whatever the number; with 5,000 that
# takes 0.3 ms at a time, with 50,000 5 ms, or 90 ms when each was put into 2,000 queues.
GC_THRESHOLD = (5_000, 1_000_000, 1_000_000)

SHUTDOWN = ConnectionForced("broker forced connection closure with reason 'shutdown'")
FAILED = InternalError("the store has failed")

log = structlog.get_logger()


class StartError(Exception):
    """The broker cannot start; the text is one line for its operator."""


def load_plugins(config: Config) -> Registry:
    """Return what plugins have registered; those that cannot be used are told of."""
    registry = plugins.load(config.plugins.disabled)
    for plugin in registry.plugins.values():
        if plugin.problem:
            log.error("plugin.failed", plugin=plugin.name, reason=plugin.problem)
    for name in config.plugins.disabled:
        if name not in registry.plugins:
            log.warning("plugin.unknown", plugin=name, setting="plugins.disabled")
    return registry


def build(config: Config, registry: Registry | None = None) -> Broker:
    """Return a broker with nothing in it, and with the time of the event loop."""
    broker = Broker(
        Limits(
            frame_max=config.limits.frame_max,
            channel_max=config.limits.channel_max,
            heartbeat=config.limits.heartbeat,
            max_message_size=config.limits.max_message_size,
            outbox_high=config.outbox.high,
            outbox_low=config.outbox.low,
            max_connections=config.limits.connections or None,
        ),
        loopback_users=config.loopback_users,
        product=config.announce.product,
        version=config.announce.version,
        node=NODE,
        registry=load_plugins(config) if registry is None else registry,
    )
    clock.set_clock(broker)
    subscribe(broker, config.log.level)
    return broker


def read_topology(config: Config, registry: Registry | None = None) -> Definitions | None:
    """Read the topology file; nothing is applied yet. None if there is none.

    Raises:
      StartError: It cannot be used.
    """
    if config.topology is None:
        return None
    from leveret.broker import definitions
    from leveret.broker.document import DocumentError

    try:
        return definitions.load(
            config.topology,
            default_vhost=config.default_vhost,
            default_user=config.default_user,
            registry=registry,
        )
    except (DocumentError, AMQPError) as problem:
        raise StartError(str(problem)) from None


def furnish(broker: Broker, config: Config, topology: Definitions | None, *, is_new: bool) -> None:
    """Define what an empty broker starts with, and what the topology file says.

    Raises:
      StartError: The topology does not fit what is there.
    """
    if is_new:
        broker.add_defaults(config.default_user, config.default_password, config.default_vhost)
    if topology is None:
        return
    from leveret.broker.document import DocumentError

    try:
        topology.apply(broker)
    except (DocumentError, AMQPError) as problem:
        raise StartError(str(problem)) from None
    for note in topology.notes:
        log.warning("topology.ignored", reason=note)


async def open_store(
    broker: Broker, config: Config, volume: Volume | None = None
) -> Persistence | None:
    """Open what the broker is kept in, and bring back what is there; None if it is in memory.

    Raises:
      StartError: It cannot be used.
    """
    if config.in_memory:
        return None
    from leveret.broker.persistence import Persistence
    from leveret.broker.server.control import Control
    from leveret.broker.storage.base import Damaged, StoreError
    from leveret.broker.storage.scratch import Scratch
    from leveret.broker.storage.sqlite import SQLiteStore

    store = SQLiteStore(config.data_dir, None if volume is None else partial(make_room, volume))
    spare = None if volume is None or not volume.has_alarm else lambda: volume.look().spare
    memory = config.memory.limit_bytes()
    persistence = Persistence(
        broker,
        store,
        limit=config.queue.memory_bytes(memory),
        memory=memory,
        scratch=Scratch(config.data_dir / "scratch", spare),
    )
    persistence.control = Control(config.data_dir, store)
    try:
        await persistence.open()
    except StoreError as problem:
        await persistence.close()
        hint = f"; try: leveret store repair {config.data_dir}"
        raise StartError(f"{problem}{hint * isinstance(problem, Damaged)}") from None
    return persistence


def measure(config: Config) -> Volume | None:
    """Look at the disk that the store is on; None if nothing is kept.

    Raises:
      StartError: The data directory cannot be used.
    """
    if config.in_memory:
        return None
    from leveret.broker.storage.database import FILE
    from leveret.broker.storage.journal import PENDING_OCTETS
    from leveret.broker.storage.wal import MOST, Wal

    folder = config.data_dir
    need = 2 * (MOST + PENDING_OCTETS + config.limits.max_message_size)
    try:
        return disk.Volume(
            folder,
            config.disk.free_bytes,
            pending=2 * PENDING_OCTETS,  # of the commit under way, and of the next
            need=need,
            log=Wal(folder / FILE).file,
        )
    except OSError as problem:
        reason = f"the data directory {folder} cannot be used: {problem.strerror}"
        raise StartError(reason) from None


def make_room(volume: Volume) -> None:
    """Give the reserve away if the disk is full, or none is wanted.

    Raises:
      OSError: The file system does not do as it should.
    """
    if volume.make_room():
        log.warning("reserve.released", file=str(volume.reserve.file))


def listen(config: Config) -> list[socket.socket]:
    """Bind all listeners.

    Raises:
      StartError: An address cannot be used.
    """
    bound: list[socket.socket] = []
    for address in config.listeners.amqp:
        try:
            if address.path is not None:
                bound.append(listener.listen_unix(address.path))
            else:
                bound += listener.listen_tcp(address.host, address.port)
        except (OSError, ValueError) as problem:  # a name that no host can have is a ValueError
            for one in bound:
                listener.close(one)
            reason = getattr(problem, "strerror", None) or str(problem)
            raise StartError(f"cannot listen on {address}: {reason}") from None
    return bound


def _shown(bound: socket.socket) -> str:
    name = bound.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


async def serve(
    broker: Broker,
    bound: list[socket.socket],
    config: Config,
    stop: trio.Event,
    persistence: Persistence | None = None,
    volume: Volume | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve clients until told to stop, then close the listeners, tell the clients and drain.

    `task_status` starts when all listeners accept. Cancelling ends everything at once.

    Raises:
      StartError: What was defined cannot be kept; in a group.
    """
    turns = Turns(broker, partial(clock.now, broker))
    raised = alarms.Alarms(broker)
    memory = alarms.MemoryAlarm(raised, config.memory.limit_bytes(), config.memory.resume)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.go_on)
            if volume is not None and volume.has_alarm:
                alarm = disk.DiskAlarm(raised, volume)
                await alarm.look()
                nursery.start_soon(disk.watch, alarm, turns)
            if persistence is not None:
                await _start(persistence, turns, nursery, stop)
            nursery.start_soon(turns.poller.run)
            nursery.start_soon(timers.watch, turns, config.limits.handshake_timeout)
            nursery.start_soon(clock.Clock(turns).run)
            nursery.start_soon(alarms.watch, memory, turns)
            for run in broker.registry.backgrounds:
                nursery.start_soon(_in_background, run, broker)
            broker.events.emit("broker.started")
            for one in bound:
                nursery.start_soon(listener.accept, one, turns, nursery)
            task_status.started()
            await stop.wait()
            for one in bound:
                listener.close(one)
            with trio.move_on_after(STOP_TIMEOUT):
                if persistence is not None:
                    await persistence.flush()
                has_failed = persistence is not None and persistence.failure
                await _say_goodbye(broker, turns, FAILED if has_failed else SHUTDOWN)
                if persistence is not None:
                    await persistence.flush()
            nursery.cancel_scope.cancel()
    finally:
        for one in bound:
            listener.close(one)


async def _in_background(run: Background, broker: Broker) -> None:
    """Run a task of a plugin; its fault is told, and ends nobody else."""
    try:
        await run(broker)
    except Exception as problem:
        log.error("plugin.failed", plugin=run.__module__, exc_info=problem)


async def _start(
    persistence: Persistence, turns: Turns, nursery: trio.Nursery, stop: trio.Event
) -> None:
    from leveret.broker.storage.base import StoreError

    try:
        await persistence.start(turns, nursery, stop)
    except StoreError as problem:
        raise StartError(str(problem)) from None


async def _say_goodbye(broker: Broker, turns: Turns, reason: AMQPError) -> None:
    """Close every connection and wait until the peers have taken it."""
    sessions = cast("dict[Session, None]", broker.sessions)
    is_empty = trio.Event()

    def closed(**fields: object) -> None:
        if not sessions:
            is_empty.set()

    broker.events.subscribe("connection.closed", closed)
    for count, session in enumerate(tuple(sessions)):
        if session.closing_since is None and not session.is_ended:
            fail(session, 0, reason)
        elif session.held and reason is FAILED:
            session.give_up()
        session.unblock()
        if count % timers.AT_ONCE == 0:
            turns.finish()
            await trio.lowlevel.checkpoint()
    turns.finish()
    for session in tuple(sessions):  # those that have nothing to take and nothing to say
        if session.is_hung_up or (session.is_ended and not session.is_writing):
            session.writer.close()
    if sessions:
        await is_empty.wait()


async def _run(config: Config) -> int:
    """Start, serve, stop; return the exit status.

    Raises:
      StartError: It cannot start.
    """
    registry = load_plugins(config)
    topology = read_topology(config, registry)
    broker = build(config, registry)
    volume = measure(config)
    persistence = await open_store(broker, config, volume)
    try:
        furnish(broker, config, topology, is_new=persistence is None or persistence.is_empty)
        await _serve_until_told(broker, listen(config), config, persistence, volume)
        return 0 if persistence is None or not persistence.failure else 1
    except ExceptionGroup as group:  # the one exception of a task has gone through nurseries
        problem, others = group.split(StartError)
        if others is not None or problem is None:
            raise
        raise StartError(str(_first(problem))) from None
    finally:
        if persistence is not None:
            await persistence.close()


def _first(problem: Exception) -> Exception:
    while isinstance(problem, ExceptionGroup):
        problem = problem.exceptions[0]
    return problem


async def _serve_until_told(
    broker: Broker,
    bound: list[socket.socket],
    config: Config,
    persistence: Persistence | None,
    volume: Volume | None,
) -> None:
    if config.listeners.management is not None:
        log.warning(
            "management.absent",
            address=str(config.listeners.management),
            reason="there is no management interface yet",
        )
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        # heard to the end: a signal nobody took would end the process when this is left
        async with trio.open_nursery() as listening:
            listening.start_soon(_stop_on_signal, signals, stop)
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, broker, bound, config, stop, persistence, volume)
                gc.collect()
                gc.freeze()
                shown = ",".join(map(_shown, bound))
                print(f"leveret ready amqp={shown} management=off", flush=True)
                _notify("READY=1")
                await stop.wait()
                _notify("STOPPING=1")
            listening.cancel_scope.cancel()


async def _stop_on_signal(signals: AsyncIterator[int], stop: trio.Event) -> None:
    async for number in signals:
        log.info("server.stopping", signal=signal.Signals(number).name)
        # from here on the system's way: a second signal ends the process at once
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        stop.set()


def _notify(state: str) -> None:
    """Tell systemd, if it asked (sd_notify)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        address = "\0" + path[1:] if path.startswith("@") else path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            try:
                notifier.sendto(state.encode(), address)
            except OSError as problem:
                log.warning("notify.failed", reason=problem.strerror)


def run(config: Config) -> int:
    """Run the broker until it is told to stop; return the exit status."""
    logs.configure(config.log.format, config.log.level, node=NODE, version=__version__)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.set_threshold(*GC_THRESHOLD)
    sys.setswitchinterval(0.0001)
    try:
        status: int = trio.run(_run, config)
    except StartError as problem:
        print(f"leveret serve: {problem}", file=sys.stderr)
        return 2
    log.info("server.stopped")
    return status
