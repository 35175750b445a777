"""Readers work where there is no fcntl, as on Windows; what needs Linux says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.support.pipelines import counted, entry, run

HIDDEN = """
import os, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ("fcntl", "resource"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Refuse())
del os.copy_file_range
"""


def hidden(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program of Python where what only Linux has is hidden."""
    return subprocess.run(
        [sys.executable, "-c", HIDDEN + program, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ},
    )  # fmt: skip


COMMAND = "from zooadapt.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def mirror(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror")
    run(entry(SMALL), counted(4), small, folder)
    return folder


def test_a_reader_s_commands_and_calls_work(mirror: Path) -> None:
    program = f"""
import zooadapt
from zooadapt.cli.main import main

for command in (["ls"], ["show", {SMALL!r}], ["pull", {SMALL!r}, "--chans", "4"], ["status"],
                ["verify"]):
    assert main([*command, "--mirror", {str(mirror)!r}]) == 0, command
for count in (4, 6):  # the second is made
    model = zooadapt.create_model({SMALL!r}, in_chans=count, mirror={str(mirror)!r})
    print(model.pretrained_cfg["input_size"][0])
"""
    done = hidden(program)
    assert done.stdout.endswith("\n4\n6\n"), done.stderr


def test_a_job_says_that_it_needs_linux(small: Path, tmp_path: Path) -> None:
    options = ["adapt", "--chans", "4", "--models", SMALL, "--source-root", str(small)]
    done = hidden(COMMAND, *options, "--dest", str(tmp_path / "mirror"))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("zooadapt: ")]
    assert line.startswith("zooadapt: this command needs Linux; ")
    assert not (tmp_path / "mirror").exists()
