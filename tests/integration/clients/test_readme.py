"""What the READMEs say can be done, done: the first script, the YAML, the links."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ...support.leveret import leveret

ROOT = Path(__file__).parents[3]
FOLDERS = ("", "broker", "protocol", "clients", "tests", "tests/bench", "deploy")
READMES = [ROOT / folder / "README.md" for folder in FOLDERS]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)")
PATH = re.compile(r"`((?:broker|protocol|clients|tests|deploy)/[\w./-]*)`")
SECONDS = 30


def fences(language: str) -> list[str]:
    """Return the blocks of the main README in a language."""
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_first_script_publishes_to_the_sample_topology_and_consumes(tmp_path):
    if "LEVERET_TEST_URL" in os.environ:
        pytest.skip("the sample topology is Leveret's")
    [script] = [block for block in fences("python") if "import pika" in block]
    with leveret("--topology", str(ROOT / "deploy" / "topology.yaml")) as server:
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


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_readme_points_to_exists(readme):
    text = readme.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if not (readme.parent / link).exists()]
    missing += [path for path in PATH.findall(text) if not (ROOT / path).exists()]

    assert missing == []
