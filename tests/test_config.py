"""Configuration: four sources in rising order, and errors that name the place."""

from pathlib import Path

import pytest

from leveret.broker.config import Config, ConfigError, available_memory, load, settings, variable
from leveret.broker.document import read
from leveret.broker.values import Address, address

DEPLOY = Path(__file__).parents[1] / "deploy"


def written(folder: Path, text: str) -> Path:
    file = folder / "leveret.yaml"
    file.write_text(text)
    return file


def test_the_documented_file_says_the_defaults():
    assert Config() == load(DEPLOY / "leveret.yaml")


def test_the_documented_file_has_every_key_and_a_comment_for_each():
    root = read(DEPLOY / "leveret.yaml")
    lines = (DEPLOY / "leveret.yaml").read_text().splitlines()

    # a key without a value, a list or mapping below it: exactly the settings
    found = [node for node in root.walk() if node.path in dict(settings())]

    assert [key for key, _ in settings()] == [node.path for node in found]
    assert [] == [node.path for node in found if "# " not in lines[node.line - 1]]


def test_sources_rise_from_file_over_environment_to_flags(tmp_path: Path):
    file = written(tmp_path, "log: {level: debug, format: json}\nlimits: {heartbeat: 5}\n")
    environment = {"LEVERET_LOG_LEVEL": "warning", "LEVERET_LIMITS_HEARTBEAT": "7", "HOME": "/"}
    flags = {"log.level": ("--log-level", "error")}

    config = load(file, environment, flags)

    assert ("error", "json", 7) == (config.log.level, config.log.format, config.limits.heartbeat)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Config()),
        ("limits:\n", Config()),
        ("# nothing\n", Config()),
    ],
)
def test_a_file_may_leave_things_out(tmp_path: Path, text: str, expected: Config):
    assert expected == load(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("limit:\n  heartbeat: 1", ":1: limit: unknown key 'limit'; did you mean 'limits'?"),
        ("limits:\n  hartbeat: 1", ":2: limits.hartbeat: unknown key 'hartbeat'; did you mean 'h"),
        ("limits:\n  heartbeat: x", ":2: limits.heartbeat: expected an integer from 0 to 65535"),
        ("limits:\n  heartbeat: 1.5", "limits.heartbeat: expected an integer"),
        ("limits:\n  heartbeat: true", "limits.heartbeat: expected an integer"),
        ("limits: 5", ":1: limits: expected a mapping with frame_max"),
        ("log: {level: loud}", ":1: log.level: expected one of debug, info"),
        ("memory: {limit: 0}", "expected a share of the memory (0.6, 60%) or bytes from 1MiB"),
        ("memory: {limit: 120%}", "expected a share of the memory"),
        ("memory: {limit: .nan}", "expected a share of the memory"),
        ("disk: {free: 120%}", "expected auto, 0, a share of the file system (0.05, 5%) or bytes"),
        ("disk: {free: 100}", "from 1KiB (2GiB), found 100"),
        ("disk: {free: much}", "disk.free: expected auto, 0, a share"),
        ("disk: {free: false}", "disk.free: expected auto, 0, a share"),
        ("limits: {frame_max: 100}", "expected bytes (65536, 2MiB) from 4096 to"),
        ("limits: {handshake_timeout: -1}", "expected seconds"),
        (
            "listeners: {amqp: [localhost]}",
            "expected HOST:PORT, [IPV6]:PORT or unix:PATH, found",
        ),
        ("listeners: {amqp: []}", "expected one address or a list"),
        ("outbox: {high: 4KiB, low: 8KiB}", "outbox.low (8192) must be below outbox.high (4096)"),
        ("in_memory: maybe", "expected true or false, found 'maybe'"),
        ("a: {b\nc: [", ": not YAML: "),
        ("log: {level: info}\nlog: {format: json}", ":2: the key 'log' is there twice"),
        ("log: !!python/object:os.system {}", ":1: the tag"),
        ("log: {level: !!python/name:os.system x}", ":1: the tag"),
    ],
)
def test_errors_name_file_line_and_key(tmp_path: Path, text: str, expected: str):
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))

    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            {"LEVERET_LOG_LEVL": "x"},
            "environment: LEVERET_LOG_LEVL: unknown variable; did you",
        ),
        ({"LEVERET_MEMORY_LIMIT": "x"}, "environment: LEVERET_MEMORY_LIMIT: expected a share"),
    ],
)
def test_errors_name_the_variable(environment: dict[str, str], expected: str):
    with pytest.raises(ConfigError) as caught:
        load(None, environment)

    assert expected in str(caught.value)


def test_errors_name_the_flag():
    with pytest.raises(ConfigError, match=r"^--listen: expected HOST:PORT"):
        load(flags={"listeners.amqp": ("--listen", ["nowhere"])})


@pytest.mark.parametrize(
    ("text", "total", "expected"),
    [
        ("auto", 10 << 30, (10 << 30) // 20),
        ("auto", 1 << 40, 1 << 30),
        ("0", 1 << 40, 0),
        ("2%", 1000 << 20, 20 << 20),
        ("0.5", 1 << 20, 1 << 19),
        ("3GiB", 1 << 20, 3 << 30),
    ],
)
def test_free_space_of_a_disk_is_a_size_or_a_share_or_as_large_as_it_should_be(
    text: str, total: int, expected: int
):
    config = load(None, {"LEVERET_DISK_FREE": text})

    assert expected == config.disk.free_bytes(total)


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("5%", 5), ("0.05", 5), ("1024", 1024), ("", 5)]
)
def test_free_space_is_read_from_a_file_as_from_the_environment(
    tmp_path: Path, text: str, expected: int
):
    config = load(written(tmp_path, f"disk: {{free: {text}}}"))

    assert expected == config.disk.free_bytes(100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 6 << 20),  # one percent of what the process may have
        ("queue: {memory: 5%}", 30 << 20),
        ("queue: {memory: 64MiB}", 64 << 20),
        ("queue: {memory: 0.0001}", 1 << 20),  # never less
    ],
)
def test_memory_of_a_queue_is_a_share_of_the_budget_or_a_size(
    tmp_path: Path, text: str, expected: int
):
    config = load(written(tmp_path, text))

    assert expected == config.queue.memory_bytes(600 << 20)


def test_what_kubernetes_sets_beside_a_service_of_that_name_is_no_mistake():
    environment = {
        "LEVERET_SERVICE_HOST": "10.0.0.1",
        "LEVERET_SERVICE_PORT_AMQP": "5672",
        "LEVERET_PORT": "tcp://10.0.0.1:5672",
        "LEVERET_PORT_5672_TCP_ADDR": "10.0.0.1",
    }

    assert Config() == load(None, environment)


def test_every_setting_has_its_variable():
    texts = {
        "listeners.amqp": "127.0.0.1:1,[::1]:2",
        "listeners.management": "off",
        "limits.frame_max": "8KiB",
        "memory.limit": "2GiB",
        "loopback_users": "a,b",
        "topology": "x.yaml",
    }

    config = load(None, {variable(key): text for key, text in texts.items()})

    values = dict(settings(config))
    expected = [
        (Address("127.0.0.1", 1), Address("::1", 2)),
        None,
        8192,
        float(2 << 30),
        ("a", "b"),
        Path("x.yaml"),
    ]
    assert expected == [values[key] for key in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:5672", Address("127.0.0.1", 5672)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:5672", Address("::1", 5672)),
        ("unix:/run/a b.sock", Address("", 0, "/run/a b.sock")),
    ],
)
def test_addresses_read_and_print(text: str, expected: Address):
    assert expected == address(text)
    assert text == str(expected)


@pytest.mark.parametrize("text", ["5672", ":5672", "a:b", "a:70000", "::1:5672", "unix:", "", None])
def test_what_is_no_address_is_refused(text: str | None):
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        address(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 << 30),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "1048576"}, 1 << 20),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/memory.max": "1048576"}, 1 << 20),
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "max"}, 8 << 30),
        (
            {
                "proc/self/cgroup": "3:cpu:/x\n5:memory:/a",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2097152",
            },
            2 << 20,
        ),
    ],
)
def test_memory_is_the_machines_or_the_containers(tmp_path: Path, files, expected: int):
    for name, content in {"proc/meminfo": "MemTotal:  8388608 kB\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)

    assert expected == available_memory(tmp_path)
