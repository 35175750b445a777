"""A job that nobody watches: what it needs goes away, or it is stopped at half of its 20 models.

Each time people look at the mirror with `ls` and `runs`, and give the same command again. In the
end the mirror is that of a quiet run.
"""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import checker, checkpoints, faults, hub
from tests.support.checkpoints import TWENTY
from tests.support.faults import Asked, FaultProxy
from tests.support.jobs import JOB, RAY, Runner, ok, ray_folder, ray_head
from tests.support.nodes import until as wait_until
from tests.support.seaweed import BUCKET, SeaweedFS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ZOOADAPT = str(Path(sys.executable).parent / "zooadapt")
OPTIONS = ["--chans", "1,4", "--models", ",".join(TWENTY), "--dest"]
HALF = "[10/20]"


@dataclass
class Switch:
    """A rule that answers everything with a fault of a server, while it is off."""

    off: threading.Event = field(default_factory=threading.Event)

    def __call__(self, asked: Asked) -> str | None:
        return "503" if self.off.is_set() else None


@dataclass(frozen=True)
class Ground:
    """A Hub and a store behind switches, and the mirror of a quiet run."""

    runner: Runner
    hub: Switch
    store: Switch
    s3: SeaweedFS
    quiet: str
    env: dict[str, str]

    def start(self, dest: str) -> "subprocess.Popen[str]":
        return self.runner.start(*JOB, *OPTIONS, dest, **self.env)

    def zooadapt(self, *command: str) -> str:
        return ok(self.runner.run(ZOOADAPT, *command, **self.env))

    def resume(self, dest: str, ended: str) -> None:
        """Look at a mirror, whose run ended so, and give the same command again."""
        assert ended in self.zooadapt("runs", dest).splitlines()[1]
        self.zooadapt("ls", "--mirror", dest)
        ok(self.runner.job(*OPTIONS, dest, **self.env))
        assert "done" in self.zooadapt("runs", dest).splitlines()[1]
        options = self.s3.options if dest.startswith("s3:") else {}
        self.zooadapt("gc", dest, "--older-than", "0m", "--delete")
        checker.check(dest, options)
        assert checker.summary(dest, options) == checker.summary(self.quiet)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, s3: SeaweedFS) -> Iterator[Ground]:
    zoo = checkpoints.write_hub_repos(tmp_path_factory.mktemp("zoo"), TWENTY)
    quiet = str(tmp_path_factory.mktemp("quiet"))
    with ExitStack() as stack:
        of_hub, of_store = Switch(), Switch()
        served = stack.enter_context(hub.serving(zoo))
        front: FaultProxy = stack.enter_context(faults.proxy(served.url, of_hub))
        cdn = stack.enter_context(faults.proxy(served.cdn, of_hub))
        served.cdn = cdn.url
        store = stack.enter_context(faults.proxy(s3.endpoint_url, of_store))
        env = {**served.env, "HF_ENDPOINT": front.url, **s3.env, "AWS_ENDPOINT_URL": store.url}
        runner = Runner(stack.enter_context(ray_folder()))
        ok(runner.job(*OPTIONS, quiet, **env))
        yield Ground(runner, of_hub, of_store, s3, quiet, env)


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/unattended/{request.node.name}"


def until(said: str, job: "subprocess.Popen[str]") -> str:
    """What the job prints up to the line that says so."""
    assert job.stdout is not None
    lines = []
    for line in job.stdout:
        lines.append(line)
        if said in line:
            return "".join(lines)
    raise AssertionError(f"the job never said {said}:\n{''.join(lines)}{job.communicate()[1]}")


@contextmanager
def down(switch: Switch) -> Iterator[None]:
    switch.off.set()
    try:
        yield
    finally:
        switch.off.clear()


def ended(job: "subprocess.Popen[str]", code: int, within: float) -> str:
    """The last line that the job prints, on either stream."""
    out, err = job.communicate(timeout=within)
    assert job.returncode == code, out + err
    assert "Traceback" not in out + err
    return (out + err).strip().splitlines()[-1]


def test_the_hub_out_of_reach_from_the_start(ground: Ground, tmp_path: Path) -> None:
    with down(ground.hub):
        job = ground.start(str(tmp_path))
        line = ended(job, 3, within=150)
    assert "stopped, because the Hub at " in line
    assert "20 of 20 models left; run the same command again to resume" in line
    ground.resume(str(tmp_path), "outage")


def test_the_hub_out_of_reach_from_the_middle(ground: Ground, tmp_path: Path) -> None:
    job = ground.start(str(tmp_path))
    until("[5/20]", job)
    with down(ground.hub):
        line = ended(job, 3, within=150)
    assert "stopped, because the Hub at " in line
    ground.resume(str(tmp_path), "outage")


def test_the_store_out_of_reach_for_a_minute(ground: Ground, bucket: str) -> None:
    job = ground.start(bucket)
    until("[5/20]", job)
    with down(ground.store):
        threading.Event().wait(60)
    ended(job, 0, within=240)
    ground.resume(bucket, "done")


def test_the_store_out_of_reach_for_ever(ground: Ground, bucket: str) -> None:
    job = ground.start(bucket)
    until("[5/20]", job)
    with down(ground.store):
        line = ended(job, 3, within=300)
    assert "s3://" in line
    assert "run the same command again to resume" in line
    ground.resume(bucket, "")


def kill(job: "subprocess.Popen[str]") -> None:
    job.kill()


def terminate(job: "subprocess.Popen[str]") -> None:
    job.terminate()


@pytest.mark.parametrize(
    ("stop", "state", "code"), [(terminate, "stopped", 3), (kill, "running", -9)]
)
def test_stopped_by_a_signal_at_half(
    stop: Callable[["subprocess.Popen[str]"], None],
    state: str,
    code: int,
    ground: Ground,
    tmp_path: Path,
) -> None:
    job = ground.start(str(tmp_path))
    until(HALF, job)
    stop(job)
    job.communicate(timeout=30)
    assert job.returncode == code
    (line,) = ground.zooadapt("runs", str(tmp_path)).splitlines()[1:]
    assert state in line, "one that was killed is known as such after five minutes"
    if stop is terminate:
        assert " of 20 " in line
    assert len(records_of(tmp_path)) >= 1
    ground.resume(str(tmp_path), state)


def records_of(mirror: Path) -> list[Path]:
    return list(mirror.glob("records/**/*.json"))


def test_stopped_by_ray(ground: Ground, tmp_path: Path) -> None:
    env = {**ground.runner.env, **ground.env}
    with ray_folder() as folder, ray_head({**env, **folder}) as address:
        runner = Runner({**env, **folder})
        submit = [RAY, "job", "submit", "--address", address, "--submission-id", "one", "--"]
        job = runner.start(*submit, *JOB, *OPTIONS, str(tmp_path))
        wait_until(lambda: len(records_of(tmp_path)) >= 6)  # Ray hands the log out late
        ok(runner.run(RAY, "job", "stop", "--address", address, "one"))
        job.communicate(timeout=60)
    assert (tmp_path / "manifest.parquet").exists()
    (line,) = ground.zooadapt("runs", str(tmp_path)).splitlines()[1:]
    assert "stopped" in line
    assert len(list(tmp_path.glob("runs/*/events.jsonl"))) == 1
    ground.resume(str(tmp_path), "stopped")


def test_a_run_is_watched_beside_it(ground: Ground, tmp_path: Path) -> None:
    job = ground.start(str(tmp_path))
    until("[1/20]", job)
    watched = ground.zooadapt("runs", str(tmp_path), "--watch")
    ended(job, 0, within=60)
    first, *_, last = [line for line in watched.splitlines() if "run_id" not in line]
    assert "running" in first
    assert " of 20 " in first
    assert "done" in last
