"""The command line: help, exit statuses, one line for a mistake."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from leveret.broker import __version__, cli
from leveret.broker.config import Config, load

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    monkeypatch.setattr("os.environ", {"PATH": "/usr/bin"})


@pytest.fixture
def served(monkeypatch) -> list[Config]:
    """Stand in for the broker: remember what it would run with."""
    configs: list[Config] = []

    class App:
        @staticmethod
        def run(config: Config) -> int:
            configs.append(config)
            return 0

    monkeypatch.setattr("leveret.broker.app", App, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "leveret.broker.app", App)
    return configs


def run(arguments: list[str]) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_version(capsys):
    assert 0 == run(["--version"])
    assert f"leveret {__version__}\n" == capsys.readouterr().out


@pytest.mark.parametrize("word", ["--listen", "--topology", "examples:", "unix:PATH", "LEVERET"])
def test_help_of_serve_tells_all(capsys, word: str):
    assert 0 == run(["serve", "--help"])
    assert word in capsys.readouterr().out.replace("log.level is ", "")


def test_without_a_verb_the_help_is_shown(capsys):
    assert 2 == run([])
    assert "serve" in capsys.readouterr().err


def test_serve_passes_what_the_flags_say(served: list[Config]):
    arguments = [
        *("serve", "--listen", "127.0.0.1:0", "--listen", "unix:/tmp/a", "--in-memory"),
        *("--management", "off", "--topology", "t.yaml"),
        *("--log-format", "json", "--log-level", "debug"),
    ]

    assert 0 == run(arguments)

    expected = load(
        flags={
            "listeners.amqp": ("", ["127.0.0.1:0", "unix:/tmp/a"]),
            "in_memory": ("", True),
            "topology": ("", "t.yaml"),
            "log.format": ("", "json"),
            "log.level": ("", "debug"),
        }
    )
    assert [expected] == served


def test_a_data_dir_on_the_command_line_wins_over_in_memory_in_the_file(served, tmp_path: Path):
    file = tmp_path / "leveret.yaml"
    file.write_text("in_memory: true\n")

    run(["serve", "--config", str(file), "--data-dir", "/data"])

    assert [(Path("/data"), False)] == [(c.data_dir, c.in_memory) for c in served]


def test_the_environment_counts(served: list[Config], monkeypatch):
    monkeypatch.setattr("os.environ", {"LEVERET_LIMITS_HEARTBEAT": "7"})

    run(["serve"])

    assert [7] == [config.limits.heartbeat for config in served]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "--listen", "5672"], "leveret serve: --listen: expected HOST:PORT"),
        (["serve", "--log-level", "loud"], "leveret serve: --log-level: expected one of debug"),
        (["serve", "--config", "/nowhere.yaml"], "leveret serve: /nowhere.yaml: No such file"),
        (["serve", "--data-dir", "x", "--in-memory"], "not allowed with argument"),
        (["serve", "--colour"], "unrecognized arguments: --colour"),
        (["server"], "leveret: argument VERB: invalid choice: 'server'"),
        (["check"], "leveret check: the following arguments are required: FILE"),
        (["check", "/nowhere.yaml"], "leveret check: /nowhere.yaml: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(capsys, served, arguments, expected):
    assert 2 == run(arguments)

    output = capsys.readouterr()
    assert expected in output.err
    assert ("", 1, []) == (output.out, output.err.count("\n"), served)


def test_check_says_what_a_file_holds(capsys):
    assert 0 == run(["check", str(DEPLOY / "topology.yaml")])
    assert "topology.yaml: good (users: 1, permissions: 1, policies: 2," in capsys.readouterr().out


def test_check_names_the_place_of_a_mistake(capsys, tmp_path: Path):
    file = tmp_path / "t.yaml"
    file.write_text("queues:\n  a: {durable: maybe}\n")

    assert 2 == run(["check", str(file)])
    assert (
        f"leveret check: {file}:2: queues.a.durable: expected true or false, found 'maybe'\n"
        == (capsys.readouterr().err)
    )


def test_check_knows_what_plugins_have_added(capsys, tmp_path: Path):
    file = tmp_path / "t.yaml"
    file.write_text("policies: {p: {pattern: a, definition: {retry-min: 5, message-ttl: 5}}}\n")

    assert 0 == run(["check", str(file)])
    assert "" == capsys.readouterr().err


@pytest.fixture
def broken(monkeypatch):
    """One more plugin, which cannot be loaded."""

    def find():
        raise ModuleNotFoundError("No module named 'nothing'")

    monkeypatch.setattr(
        "leveret.broker.plugins._others", lambda: iter([("broken", "1.2", find)]), raising=True
    )


def test_plugins_lists_what_each_has_registered(capsys):
    assert 0 == run(["plugins"])

    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    start = shown.index(f"ttl {__version__} enabled")
    assert ["argument x-message-ttl", "argument x-expires"] == shown[start + 1 : start + 3]


def test_plugins_tells_which_is_disabled_and_which_has_failed(capsys, tmp_path: Path, broken):
    file = tmp_path / "leveret.yaml"
    file.write_text("plugins: {disabled: [ttl, ltt]}\n")

    assert 1 == run(["plugins", "--config", str(file)])

    out, err = capsys.readouterr()
    shown = [" ".join(line.split()) for line in out.splitlines()]
    assert f"ttl {__version__} disabled" in shown
    assert "leveret plugins: there is no 'ltt': plugins.disabled\n" == err
    assert "broken 1.2 failed: ModuleNotFoundError: No module named 'nothing'" in shown
    assert "argument x-message-ttl" not in shown


def test_plugins_for_machines(capsys, broken, monkeypatch):
    monkeypatch.setattr("os.environ", {"LEVERET_PLUGINS_DISABLED": "ttl"})

    assert 1 == run(["plugins", "--json"])

    listed = {plugin["name"]: plugin for plugin in json.loads(capsys.readouterr().out)}
    assert {
        "name": "broken",
        "version": "1.2",
        "enabled": False,
        "problem": "ModuleNotFoundError: No module named 'nothing'",
        "registered": [],
    } == listed["broken"]
    assert (False, "") == (listed["ttl"]["enabled"], listed["ttl"]["problem"])
    assert ["argument x-max-priority", "queue hook"] == listed["priority"]["registered"]


def test_perf_gets_the_rest_of_the_line(monkeypatch):
    perf = import_module("leveret.clients.perf")
    seen: list[list[str]] = []
    monkeypatch.setattr(perf, "main", lambda arguments: seen.append(arguments) or 3)

    assert 3 == run(["perf", "--help", "-x"])
    assert [["--help", "-x"]] == seen
