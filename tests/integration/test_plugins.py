"""The example of broker/plugins/README.md, as a wheel of its own, and plugins that fail."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pika
import pytest
from pika.exceptions import AMQPError, ConnectionClosed, NackError

from ..support.leveret import ROOT, leveret

README = (ROOT / "broker/plugins/README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
[MODULE, TRIAL] = [text for language, text in BLOCKS if language == "python"]
[PROJECT] = [text for language, text in BLOCKS if language == "toml"]

# Files of further plugins, each wrong in a way of its own.
WRONG = {
    "no_import": "import there_is_no_such_module\n",
    "no_register": """
from leveret.broker.core.hooks import Phase

def register(registry):
    registry.argument("x-half", lambda value, arguments: None)
    registry.queue_hook(lambda queue: None, phase=Phase.REFUSE)
    raise RuntimeError("not today")
""",
    "shaky": """
from leveret.broker.core.hooks import Phase, QueueHook

class Shaky(QueueHook):
    def admit(self, message):
        raise RuntimeError("shaky before")

class Later(QueueHook):
    def dealt(self):
        raise RuntimeError("shaky later")

HOOKS = {"before": Shaky, "later": Later}

def register(registry):
    registry.argument("x-shaky", lambda value, arguments: None)
    registry.queue_hook(
        lambda queue: HOOKS.get(queue.settings.get("shaky")), phase=Phase.REFUSE
    )
""",
}


def project(name: str) -> str:
    return PROJECT.replace("leveret-size-limit", name).replace("leveret_size_limit", name)


def wheel(folder: Path, project: str, module: str) -> Path:
    """Build a wheel as a build back end would, which may not be here without a network."""
    described = tomllib.loads(project)["project"]
    [(group, entries)] = described["entry-points"].items()
    [(name, target)] = entries.items()
    stem = f"{described['name'].replace('-', '_')}-{described['version']}"
    info = f"{stem}.dist-info"
    files = {
        f"{target}.py": module,
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n"
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[{group}]\n{name} = {target}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    made = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return made


def install(folder: Path, *wheels: Path) -> dict[str, str]:
    """Install wheels where nothing else is; return the environment in which they are found."""
    target = folder / "site"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    subprocess.run([*pip, "--no-index", "--no-deps", "--target", target, *wheels], check=True)
    paths = filter(None, (str(target), os.environ.get("PYTHONPATH")))
    return {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """All of them are installed."""
    folder = tmp_path_factory.mktemp("wheels")
    wrong = [
        wheel(folder, project(name).replace("size_limit =", f"{name} ="), text)
        for name, text in WRONG.items()
    ]
    return install(folder, wheel(folder, PROJECT, MODULE), *wrong)


@pytest.fixture(scope="module")
def server(environment):
    with leveret(environment=environment) as running:
        yield running


@pytest.fixture
def channel(server):
    with connected(server) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel


def connected(server) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.ConnectionParameters(server.host, server.port))


def test_the_example_is_thirty_lines():
    assert 30 >= len([line for line in MODULE.splitlines() if line.strip()])


def test_the_example_refuses_what_is_too_large(channel):
    channel.queue_declare("q", arguments={"x-largest-body": 3})

    channel.basic_publish("", "q", b"ham")
    with pytest.raises(NackError):
        channel.basic_publish("", "q", b"spam")


def test_what_is_no_size_is_refused(channel):
    with pytest.raises(AMQPError, match="invalid arg 'x-largest-body' for queue 'r'"):
        channel.queue_declare("r", arguments={"x-largest-body": -1})


def test_the_example_is_tried_without_a_server(environment):
    subprocess.run([sys.executable, "-c", TRIAL], check=True, env={**os.environ, **environment})


def test_the_example_is_a_policy_key(environment, tmp_path):
    topology = tmp_path / "t.yaml"
    topology.write_text("queues: [q]\npolicies: {p: {pattern: q, definition: {largest-body: 3}}}\n")

    served = leveret("--topology", str(topology), environment=environment)
    with served as running, connected(running) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(NackError):
            channel.basic_publish("", "q", b"spam")


def test_a_plugin_that_is_disabled_has_no_part(environment):
    disabled = {**environment, "LEVERET_PLUGINS_DISABLED": "size_limit"}

    with leveret(environment=disabled) as running, connected(running) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("q", arguments={"x-largest-body": 3})
        channel.basic_publish("", "q", b"spam")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_import", "ModuleNotFoundError: No module named 'there_is_no_such_module'"),
        ("no_register", "RuntimeError: not today"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named_in_the_log(server, channel, name, reason):
    [line] = [each for each in server.log.read_text().splitlines() if f"plugin={name} " in each]

    assert "plugin.failed" in line
    assert reason in line


def test_what_a_plugin_has_registered_before_it_failed_is_taken_back(channel):
    channel.queue_declare("half", arguments={"x-half": 1})

    channel.queue_declare("half")  # an argument that nobody knows is not compared


def test_a_hook_that_raises_before_a_message_is_placed_fails_that_publish(server, channel):
    with connected(server) as other:
        victim = other.channel()
        victim.confirm_delivery()
        victim.queue_declare("shaky", arguments={"x-shaky": "before"})

        with pytest.raises(ConnectionClosed) as closed:
            victim.basic_publish("", "shaky", b"1")

        assert 541 == closed.value.reply_code
    assert "RuntimeError: shaky before" in server.log.read_text()
    assert "shaky.py" in server.log.read_text()
    assert 0 == channel.queue_declare("shaky", passive=True).method.message_count


def test_a_hook_that_raises_later_counts_as_one_that_does_nothing(server, channel):
    channel.queue_declare("later", arguments={"x-shaky": "later"})

    channel.basic_publish("", "later", b"1")

    assert b"1" == channel.basic_get("later", auto_ack=True)[2]
    assert "shaky.Later" in server.log.read_text()
