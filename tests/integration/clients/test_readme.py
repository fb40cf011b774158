"""What the READMEs say, held against the code: the script, the YAML, links, signatures."""

import ast
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from leveret.broker import config
from leveret.protocol.handshake import State

from ...support.leveret import leveret

ROOT = Path(__file__).parents[3]
TOPOLOGY = ROOT / "deploy" / "topology.yaml"
FOLDERS = ("broker", "protocol", "clients", "tests", "deploy")
READMES = [
    ROOT / "README.md",
    *sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("README.md")),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)")
PATH = re.compile(r"`((?:broker|protocol|clients|tests|deploy)/[\w./*-]*)`")
SECONDS = 30


def fences(readme: Path, language: str) -> list[str]:
    """Return the blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", readme.read_text(), re.DOTALL | re.MULTILINE)


def labelled(label: str) -> str:
    """Return the YAML block of the main README that begins with a comment, its file's name."""
    [block] = [one for one in fences(ROOT / "README.md", "yaml") if one.startswith(f"# {label}\n")]
    return block


def test_first_script_publishes_to_the_sample_topology_and_consumes(tmp_path):
    if "LEVERET_TEST_URL" in os.environ:
        pytest.skip("the sample topology is Leveret's")
    script = fences(ROOT / "README.md", "python")[0]
    with leveret("--topology", str(TOPOLOGY)) as server:
        there = script.replace('"localhost"', f'"{server.host}", {server.port}')
        assert there != script
        (tmp_path / "hello.py").write_text(there)
        done = subprocess.run(
            [sys.executable, "hello.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    assert (done.stdout, done.stderr) == ("confirmed\norder.created.eu: one lamp\n", "")


PRINTED = {
    "delay.py": "tea is ready 2\n",
    "retry.py": "try 1\ntry 2\ntry 3\na hard one delivery_limit\n",
    "redrive.py": "dead: 1\nback: one lamp\n",
    "fair.py": "big 0\nsmall 0\nbig 1\nsmall 1\n",
}


def scripts() -> dict[str, str]:
    """Return the Python blocks of the main README that begin with the name of a file."""
    named = re.compile(r"# (\w+\.py)\n")
    found = [(named.match(block), block) for block in fences(ROOT / "README.md", "python")]
    return {name[1]: block for name, block in found if name is not None}


def test_every_script_has_its_output():
    assert PRINTED.keys() == scripts().keys()


@pytest.mark.parametrize("name", PRINTED)
def test_script_prints_what_is_said(name, tmp_path):
    if "LEVERET_TEST_URL" in os.environ:
        pytest.skip("the scripts show what only Leveret has")
    with leveret() as server:
        there = scripts()[name].replace('"localhost"', f'"{server.host}", {server.port}')
        (tmp_path / name).write_text(there)
        done = subprocess.run(
            [sys.executable, name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    assert (done.stdout, done.stderr) == (PRINTED[name], "")


def test_every_yaml_block_says_which_file_it_is():
    labels = [block.splitlines()[0] for block in fences(ROOT / "README.md", "yaml")]

    assert labels == ["# leveret.yaml", "# topology.yaml"]


def test_configuration_loads(tmp_path):
    (tmp_path / "leveret.yaml").write_text(labelled("leveret.yaml"))

    loaded = config.load(tmp_path / "leveret.yaml")

    assert (loaded.topology, loaded.memory.limit) == (Path("topology.yaml"), 2 << 30)
    assert loaded.limits.max_message_size == 16 << 20


def test_topology_is_good(tmp_path):
    (tmp_path / "topology.yaml").write_text(labelled("topology.yaml"))

    done = subprocess.run(
        [sys.executable, "-m", "leveret.broker", "check", "topology.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_readme_points_to_exists(readme):
    text = readme.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if not (readme.parent / link).exists()]
    missing += [path for path in PATH.findall(text) if not list(ROOT.glob(path))]

    assert missing == []


def test_protocol_logs_in_as_shown():
    [shown] = fences(ROOT / "protocol" / "README.md", "python")
    with leveret() as server, socket.create_connection((server.host, server.port)) as connected:
        connected.settimeout(SECONDS)
        names = {"socket": connected}

        exec(compile(shown, "protocol/README.md", "exec"), names)

    assert names["client"].state is State.RUNNING


# Signatures in broker/README.md

SIGNATURES = fences(ROOT / "broker" / "README.md", "python")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def shape(function: Function) -> str:
    """Return everything of a function but what it does."""
    kind = "async " if isinstance(function, ast.AsyncFunctionDef) else ""
    result = ast.unparse(function.returns) if function.returns is not None else ""
    return f"{kind}{function.name}({ast.unparse(function.args)}) -> {result}"


def shapes(node: ast.Module | ast.ClassDef) -> set[str]:
    return {shape(one) for one in node.body if isinstance(one, Function)}


def classes(module: ast.Module) -> dict[str, ast.ClassDef]:
    return {one.name: one for one in module.body if isinstance(one, ast.ClassDef)}


def attributes(of: ast.ClassDef) -> set[str]:
    """Return what a class declares, or sets on `self`."""
    found = {
        node.attr
        for node in ast.walk(of)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return found | {ast.unparse(one.target) for one in of.body if isinstance(one, ast.AnnAssign)}


@pytest.mark.parametrize("block", SIGNATURES, ids=lambda block: block.splitlines()[0].strip("# "))
def test_signatures_are_those_of_the_code(block):
    file = ROOT / "broker" / block.splitlines()[0].removeprefix("# ")
    said, real = ast.parse(block), ast.parse(file.read_text())

    wrong = sorted(shapes(said) - shapes(real))
    for name, stub in classes(said).items():
        known = classes(real)[name]
        wrong += sorted(shapes(stub) - shapes(known))
        wrong += sorted(attributes(stub) - attributes(known))

    assert wrong == []
