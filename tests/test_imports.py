"""Commands that run no model import neither torch nor timm nor Ray, which takes seconds."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.support import pipelines
from tests.support.jobs import ROOT
from zooadapt.zoos import listed, registry

COMMAND = [sys.executable, "-c", "from zooadapt.cli.main import main; main()"]
RUN = """
import os
import sys
from zooadapt.cli.main import main
code = main(sys.argv[1:])
heavy = [name for name in ("torch", "timm", "ray") if name in sys.modules]
if heavy:
    print(f"it imports {', '.join(heavy)}", file=sys.stderr)
sys.stdout.flush()
sys.stderr.flush()
os._exit(code or bool(heavy))  # as `main.script` ends, whatever threads of libraries do
"""


@pytest.fixture(scope="module")
def mirror(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imports") / "mirror"
    targets = pipelines.counted(1, 4)
    pipelines.run(pipelines.entry(SMALL), targets, small, folder)
    return folder


def run(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """What a command prints. It must end well, and import nothing heavy."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=ROOT, env={**os.environ, **(env or {})},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def made_before() -> None:
    """The list of timm's models has been made before, by whichever command came first."""
    registry.list_models("timm")


def test_a_run_with_nothing_to_do(mirror: Path, small: Path) -> None:
    options = ["--chans", "1,4", "--models", SMALL, "--source-root", str(small)]
    printed = run("adapt", *options, "--dest", str(mirror))
    assert "0 variants to make, 2 done already" in printed
    assert printed.splitlines()[0] == f"mirror: {mirror}"


def test_status_and_listings(mirror: Path) -> None:
    assert "that the mirror lacks" in run("status", "--mirror", str(mirror))
    assert "2 variants" in run("ls", "--mirror", str(mirror))
    assert "1 model\n" in run("ls", "--available", SMALL, "--columns", "model,license,in_chans")
    subprocess.run([*COMMAND, "ls", "--available", SMALL], cwd=ROOT, check=True)
    assert "0.47 M" in run("ls", "--available", SMALL), "the count is kept"


def test_verify(mirror: Path) -> None:
    assert "2 variants" in run("verify", str(mirror))


def test_a_pull_from_the_cache(mirror: Path, cache_dir: Path) -> None:
    arguments = ["pull", SMALL, "--chans", "4", "--mirror", str(mirror)]
    assert run(*arguments) == run(*arguments)


def test_a_list_is_made_again_for_another_release(tmp_path: Path) -> None:
    first = run_listing(tmp_path)
    kept = tmp_path / "zoos" / "timm.json"
    assert first == "made: 1826"
    assert run_listing(tmp_path) == "kept: 1826"
    kept.write_text(kept.read_text().replace('"of": ["0.', '"of": ["9.'))
    assert run_listing(tmp_path) == "made: 1826"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"of": []}'])
def test_a_damaged_list_is_made_again(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOOADAPT_CACHE", str(tmp_path))
    (tmp_path / "zoos").mkdir()
    (tmp_path / "zoos" / "timm.json").write_text(content)
    assert listed.read("timm", "timm") is None


def run_listing(cache: Path) -> str:
    """Whether timm's list was made or kept, and how many models it has, in a new process."""
    script = (
        "import sys; from zooadapt.zoos import registry; found = registry.list_models('timm');"
        "print('made:' if 'timm' in sys.modules else 'kept:', len(found))"
    )
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "ZOOADAPT_CACHE": str(cache)},
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def test_what_is_kept_equals_what_timm_says() -> None:
    zoo = registry.get("timm")
    for entry in registry.list_models("timm"):
        assert registry.facts(entry) == zoo.facts(entry)
