"""Clients in other languages: amqplib (JavaScript), Bunny (Ruby), amqp091-go, the Java client.

Each has a program that runs one scenario and prints what came of it as JSON; one table says what
must come of it, whatever the language. `README.md` names the packages they need.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.foreign

HERE = Path(__file__).parent
GO_PACKAGES = Path("/usr/share/gocode")  # where Debian puts Go libraries
JAVA_PACKAGES = Path("/usr/share/java")
SECONDS = 50  # for one program; building may take longer at its first time

BODY = (b"leveret" * 150_000)[: 1024 * 1024 + 3]
EXPECTED = {
    "work_queue": {"done": [f"task {number}" for number in range(6)], "left": 0},
    "publish_subscribe": {
        "subscribers": [["one", "two", "three"], ["one", "two", "three"]],
        "server_named": True,
    },
    "routing": {"screen": ["info", "error", "warning"], "disk": ["error"]},
    "topics": {
        "orange": ["quick.orange.rabbit", "lazy.orange.fox"],
        "lazy": ["quick.orange.rabbit", "lazy.orange.fox", "lazy"],
    },
    "rpc": {"queue n3": "9", "queue n12": "144", "direct n3": "9", "direct n12": "144"},
    "confirms": {"confirmed": 101, "returned": [[312, "NO_ROUTE", "lost"]], "stored": 100},
    "properties": {
        "sha256": hashlib.sha256(BODY).hexdigest(),
        "properties": ["text/plain", "c-1", "m-1", 5],
        "headers": {
            "text": "Grüße, 世界",
            "small": 7,
            "negative": -7,
            "wide": 2**40,
            "yes": True,
            "list": ["a", 1],
            "table": {"inner": "x"},
        },
    },
    "requeue": {"seen": [["a", False], ["a", True], ["b", False]], "left": 0},
    "cancelled": {"told": True},
    "errors": {
        "missing": [404, "NOT_FOUND - no queue '{prefix}.missing' in vhost '/'"],
        "reserved": [
            403,
            "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
        ],
        "different": [
            406,
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.topic' in vhost '/': "
            "received 'direct' but current is 'topic'",
        ],
    },
}


def run(command: list[str], folder: Path = HERE, **environment: str) -> str:
    """Run a command to its end; return what it printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def need(*programs: str, files: Mapping[Path, str] | None = None) -> None:
    """Skip unless the programs are in the path and the files exist."""
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    for file, package in (files or {}).items():
        if not file.exists():
            pytest.skip(f"{file} is missing (Debian package {package})")


def node(build: Path) -> list[str]:
    need("node", "npm")
    for file in ("package.json", "program.js"):
        shutil.copy(HERE / "node" / file, build)
    try:
        run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], build)
    except AssertionError as failure:
        pytest.skip(f"npm could not install amqplib: {failure}")
    return ["node", str(build / "program.js")]


def ruby(build: Path) -> list[str]:
    need("ruby")
    found = subprocess.run(["ruby", "-e", "require 'bunny'"], capture_output=True, check=False)
    if found.returncode != 0:
        pytest.skip("Bunny is not installed (Debian package ruby-bunny)")
    return ["ruby", "-W0", str(HERE / "ruby" / "program.rb")]


def go(build: Path) -> list[str]:
    library = GO_PACKAGES / "src/github.com/rabbitmq/amqp091-go"
    need("go", files={library: "golang-github-rabbitmq-amqp091-go-dev"})
    environment = {
        "GO111MODULE": "off",  # as Debian builds: the library's source lies in GOPATH
        "GOFLAGS": "",
        "GOPATH": str(GO_PACKAGES),
        "GOCACHE": str(build / "cache"),
    }
    run(["go", "build", "-o", str(build / "program"), "program.go"], HERE / "go", **environment)
    return [str(build / "program")]


def java(build: Path) -> list[str]:
    jars = [JAVA_PACKAGES / jar for jar in ("amqp-client.jar", "slf4j-api.jar", "slf4j-nop.jar")]
    packages = ("librabbitmq-client-java", "libslf4j-java", "libslf4j-java")
    need("javac", "java", files=dict(zip(jars, packages, strict=True)))
    path = ":".join(map(str, [*jars, build]))
    source = str(HERE / "java" / "Program.java")
    run(["javac", "-encoding", "UTF-8", "-cp", path, "-d", str(build), source])
    fast = ["-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Dfile.encoding=UTF-8"]
    return ["java", *fast, "-cp", path, "Program"]


LANGUAGES: dict[str, Callable[[Path], list[str]]] = {
    "node": node,
    "ruby": ruby,
    "go": go,
    "java": java,
}


@pytest.fixture(scope="module")
def program(request, tmp_path_factory) -> list[str]:
    """The command that starts the program of one language, built if need be."""
    language = request.param
    return LANGUAGES[language](tmp_path_factory.mktemp(language))


@pytest.mark.parametrize("scenario", EXPECTED)
@pytest.mark.parametrize("program", LANGUAGES, indirect=True)
def test_program_sees_what_every_client_must_see(scenario, program, amqp_url, name):
    prefix = name(scenario)
    expected = json.loads(json.dumps(EXPECTED[scenario]).replace("{prefix}", prefix))

    printed = run([*program, scenario, amqp_url, prefix])

    assert json.loads(printed) == expected
