"""Background tasks of plugins: they run as long as the broker serves, and harm nobody."""

import structlog
import trio

from leveret.broker import app

from ..support.edge import edge


async def test_a_task_of_a_plugin_runs_while_the_broker_serves(monkeypatch, autojump_clock):
    seen = []

    async def run(broker):
        try:
            seen.append(broker)
            await trio.sleep_forever()
        finally:
            seen.append("ended")

    monkeypatch.setattr(app.plugins, "load", _loading(run, app.plugins.load))
    async with edge() as served:
        await trio.testing.wait_all_tasks_blocked()
        assert [served.broker] == seen

    assert [served.broker, "ended"] == seen


async def test_a_task_that_fails_is_told_and_the_broker_serves_on(monkeypatch, autojump_clock):
    async def run(broker):
        raise ValueError("no such place")

    monkeypatch.setattr(app.plugins, "load", _loading(run, app.plugins.load))
    with structlog.testing.capture_logs() as logs:
        async with edge() as served:
            await trio.testing.wait_all_tasks_blocked()
            stream = await served.connect()
            await stream.aclose()

    failed = [each["plugin"] for each in logs if each["event"] == "plugin.failed"]
    assert [__name__] == failed


def _loading(run, load):
    def loading(*arguments, **options):
        registry = load(*arguments, **options)
        registry.background(run)
        return registry

    return loading
