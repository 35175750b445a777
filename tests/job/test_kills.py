"""Processes of a running job are killed. In the end the mirror is the same as without kills."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support import checker, checkpoints, faults
from tests.support.checkpoints import TWENTY
from tests.support.faults import Asked
from tests.support.jobs import JOB, Runner, ok, ray_folder, ray_head
from tests.support.seaweed import SeaweedFS

pytestmark = pytest.mark.slow

SECONDS = 120
ZOOADAPT = str(Path(sys.executable).parent / "zooadapt")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    zoo = checkpoints.write_hub_repos(tmp_path_factory.mktemp("zoo"), TWENTY)
    return ["--chans", "1,4", "--models", ",".join(TWENTY), "--source-root", str(zoo), "--dest"]


@pytest.fixture(scope="module")
def quiet(alone: Runner, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The mirror that a run without kills makes."""
    dest = str(tmp_path_factory.mktemp("quiet"))
    ok(alone.job(*options, dest))
    return dest


def descendants(pid: int) -> list[int]:
    """The ids of the live processes below a process."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        children.setdefault(int(parent), []).append(int(process.name))
    found: list[int] = []
    below = children.get(pid, [])
    while below:
        found += below
        below = [child for process in below for child in children.get(process, [])]
    return found


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]
    except OSError:
        return ""


def kill_one(job: "subprocess.Popen[str]", beginning: str, but: set[int]) -> int:
    """Kill the next process of the job whose title starts with `beginning`, and return its id."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for pid in descendants(job.pid):
            if pid not in but and Path(title(pid)).name.startswith(beginning):
                os.kill(pid, signal.SIGKILL)
                return pid
        assert job.poll() is None, "the job ended before"
    raise AssertionError(f"no process {beginning}")


def test_workers_that_are_killed_in_the_middle(
    alone: Runner, options: list[str], quiet: str, tmp_path: Path
) -> None:
    job = alone.start(*JOB, *options, str(tmp_path))
    killed: set[int] = set()
    for _ in range(4):
        killed.add(kill_one(job, "ray::adapt", killed))
    out, err = job.communicate(timeout=SECONDS)
    assert job.returncode == 0, out + err
    checker.check(str(tmp_path))
    assert checker.summary(str(tmp_path)) == checker.summary(quiet)


BOUNDARIES = [
    "weights/**/stem.safetensors",
    "weights/**/model.safetensors",
    "weights/**/config.json",
    "records/**/*.json",
]
"""What the stages of a model write, in the order of the stages."""


def wait_for(folder: Path, glob: str, process: "subprocess.Popen[str]") -> None:
    """Wait until the folder has one more matching file than now."""
    before, deadline = len(list(folder.glob(glob))), time.monotonic() + SECONDS
    while len(list(folder.glob(glob))) <= before:
        assert process.poll() is None, f"it ended before there was {glob}"
        assert time.monotonic() < deadline, glob


def test_the_driver_is_killed_at_every_boundary(
    alone: Runner, options: list[str], quiet: str, tmp_path: Path
) -> None:
    for boundary in BOUNDARIES:
        job = alone.start(*JOB, *options, str(tmp_path))
        wait_for(tmp_path, boundary, job)
        job.kill()
        job.communicate()
    ok(alone.job(*options, str(tmp_path)))
    ok(alone.run(ZOOADAPT, "gc", str(tmp_path), "--older-than", "0m", "--delete"))
    checker.check(str(tmp_path))
    assert checker.summary(str(tmp_path)) == checker.summary(quiet)


def test_the_driver_is_killed_while_it_writes_the_last_tables(
    alone: Runner, options: list[str], quiet: str, s3: SeaweedFS, bucket: str
) -> None:
    writing, recorded = threading.Event(), set[str]()

    def rule(asked: Asked) -> str | None:
        path, _, _ = asked.path.partition("?")
        if asked.method != "PUT":
            return None
        if "/records/" in path:
            recorded.add(path)
        table = path.endswith("/manifest.parquet") and "/runs/" not in path
        if table and len(recorded) == len(TWENTY):
            writing.set()
            return "silent"
        return None

    with faults.proxy(s3.endpoint_url, rule) as store:
        env = {**s3.env, "AWS_ENDPOINT_URL": store.url}
        job = alone.start(*JOB, *options, bucket, **env)
        try:
            assert writing.wait(SECONDS)
        finally:
            job.kill()
            job.communicate()
        store.rule = lambda asked: None
        assert " 0 variants to make" in ok(alone.job(*options, bucket, **env))
    checker.check(bucket, s3.options)
    assert checker.summary(bucket, s3.options) == checker.summary(quiet)


def test_a_job_that_is_stopped_and_submitted_again(
    options: list[str], quiet: str, tmp_path: Path
) -> None:
    ray = str(Path(sys.executable).parent / "ray")
    with ray_folder() as env, ray_head(env) as address:
        runner = Runner(env)
        submit = [ray, "job", "submit", "--address", address, "--submission-id"]
        command = [*JOB, *options, str(tmp_path)]
        first = runner.start(*submit, "one", "--", *command)
        wait_for(tmp_path, "records/**/*.json", first)
        ok(runner.run(ray, "job", "stop", "--address", address, "one"))
        first.communicate(timeout=SECONDS)
        assert len(list(tmp_path.glob("records/**/*.json"))) < len(TWENTY)
        ok(runner.run(*submit, "two", "--", *command))
    checker.check(str(tmp_path))
    assert checker.summary(str(tmp_path)) == checker.summary(quiet)


@pytest.mark.parametrize("beginning", ["raylet", "gcs_server"])
def test_a_node_that_is_killed_ends_the_run_and_the_same_command_goes_on(
    beginning: str, alone: Runner, options: list[str], quiet: str, tmp_path: Path
) -> None:
    job = alone.start(*JOB, *options, str(tmp_path))
    assert job.stdout is not None
    next(line for line in job.stdout if "[1/20]" in line)
    kill_one(job, beginning, set())
    out, err = job.communicate(timeout=SECONDS)
    assert job.returncode != 0, out + err
    ok(alone.job(*options, str(tmp_path)))
    checker.check(str(tmp_path))
    assert checker.summary(str(tmp_path)) == checker.summary(quiet)
