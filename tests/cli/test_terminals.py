"""What people see on terminals, in notebooks and when their shell completes a word."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.conftest import SMALL
from tests.support.pipelines import counted, entry, run
from zooadapt import progress
from zooadapt.cli.main import main, zooadapt

ZOOADAPT = str(Path(sys.executable).parent / "zooadapt")


@pytest.fixture(scope="module")
def mirror(small: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    dest = tmp_path_factory.mktemp("mirror")
    run(entry(SMALL), counted(1, 4), small, dest)
    return str(dest)


def on_a_terminal(columns: int, *command: str, **env: str) -> list[str]:
    """The lines that a command prints on a terminal of that width."""
    ours, theirs = pty.openpty()
    whole = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", **env}
    with subprocess.Popen([ZOOADAPT, *command], stdout=theirs, stderr=theirs, env=whole) as process:
        os.close(theirs)
        printed = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:  # the other end was closed
                break
            if not block:
                break
            printed += block
        process.wait(60)
    os.close(ours)
    return printed.decode().splitlines()


def test_a_table_fits_the_terminal_and_is_whole_in_a_pipe(
    mirror: str, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = [click.unstyle(line) for line in on_a_terminal(60, "show", SMALL, "--mirror", mirror)]
    table = narrow[narrow.index("") + 1 :]
    assert table
    assert all(len(line) <= 60 for line in table)
    assert any("…" in line for line in table)
    assert main(["show", SMALL, "--mirror", mirror]) == 0
    assert "…" not in capsys.readouterr().out


def test_colour_is_for_terminals_that_want_it(capfd: pytest.CaptureFixture[str]) -> None:
    wrong = ("ls", "--mirror", "/nowhere/at/all")
    assert "\x1b[31mzooadapt:\x1b[0m" in on_a_terminal(200, *wrong)[0]
    assert "\x1b" not in on_a_terminal(200, *wrong, NO_COLOR="1")[0]
    assert main(wrong) != 0
    assert "\x1b" not in capfd.readouterr().err


def test_a_bar_is_for_terminals_and_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress.bar(range(2)).disable
    monkeypatch.setitem(sys.modules, "ipykernel", pytest)
    assert not progress.bar(range(2)).disable
    assert progress.bar(range(2), shown=False).disable


@pytest.mark.parametrize("name", sorted({"", *zooadapt.commands}))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*([name] if name else []), "-h"]) == 0
    printed = capsys.readouterr().out
    assert "Usage:" in printed
    assert "-h, --help" in printed
    assert re.search(rf"^  zooadapt {name}\b", printed, re.M), "it has an example"


def test_a_command_without_its_subcommand_prints_its_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in ([], ["cache"]):
        assert main(command) == 2
        assert len(capsys.readouterr().err.splitlines()) > 5


def completed(words: str) -> list[str]:
    """What bash is offered for the last of the words."""
    env = {
        **os.environ, "_ZOOADAPT_COMPLETE": "bash_complete", "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }  # fmt: skip
    done = subprocess.run([ZOOADAPT], env=env, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_a_shell_completes_commands_models_and_presets(mirror: str) -> None:
    assert {"pull"} == {*completed("zooadapt pul")}
    assert "resnet18.a1_in1k" in completed("zooadapt pull resnet18.")
    assert completed("zooadapt bands sentinel2") == ["sentinel2-l1c", "sentinel2-l2a"]
    assert "eurosat" in completed("zooadapt ls --bands euro")


def test_the_environment_for_a_bug_report_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("ZOOADAPT_MIRROR", "https://bob:hidden@host/mirror")
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    lines = dict(line.split(None, 1) for line in printed.splitlines())
    assert lines["HF_TOKEN"] == "(set)"
    assert lines["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert {"torch", "timm", "ray", "cache"} <= lines.keys()
    assert "hidden" not in printed
    assert "hf_secret" not in printed
