"""A full disk gives a clear error and no half-written object; with more room the job continues."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.support import checker, hub, seaweed
from tests.support.jobs import JOB, Runner, ok, ray_folder
from tests.support.pipelines import counted, entry
from zooadapt import pipeline
from zooadapt.errors import RunError
from zooadapt.job import run
from zooadapt.mirror import manifest
from zooadapt.mirror.scan import Records
from zooadapt.stores.opening import open_store
from zooadapt.types import Adapted, Job, ModelSummary, Request

REQUEST = Request(entry(SMALL), counted(1, 4))  # the variants have 1.9 MB each


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem with room for one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)


def test_a_full_destination(small_disk: Path, small: Path) -> None:
    job = Job("one", str(small_disk), source_root=str(small))
    summary = pipeline.adapt(REQUEST, job)
    assert isinstance(summary, ModelSummary)
    assert summary.outage
    assert summary.outage.task == "write"
    assert "No space left on device" in summary.outage.reason
    assert [file.name for file in (small_disk / "weights").rglob("*") if file.is_file()] == [
        "stem.safetensors"
    ]
    grow(small_disk)
    adapted = pipeline.adapt(REQUEST, Job("two", str(small_disk), source_root=str(small)))
    assert isinstance(adapted, Adapted)
    assert not pipeline.prove(adapted, job).failures
    manifest.compact(open_store(str(small_disk)))
    checker.check(str(small_disk))


def test_a_full_spool(
    small_disk: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    job = Job("one", str(tmp_path / "mirror"))
    with hub.serving(small) as served:
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        summary = pipeline.adapt(REQUEST, job)
        assert isinstance(summary, ModelSummary)
        assert summary.outage
        assert summary.outage.task == "download"
        assert "No space left on device" in summary.outage.reason
        assert not list(small_disk.iterdir())
        assert not (tmp_path / "mirror" / "weights").exists()
        grow(small_disk)
        assert isinstance(pipeline.adapt(REQUEST, job), Adapted)


def test_a_manifest_for_which_there_is_no_room(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space"), (small_disk / "filling").open("wb") as file:
        file.write(bytes(2 * 2**20))
    job = Job("one", str(small_disk))
    with pytest.raises(RunError, match=r"can't be made in .* \(.*No space left.*make room"):
        run.compacted(Records(open_store(job.dest)), job)
    assert [file.name for file in small_disk.iterdir() if file.suffix == ".parquet"] == []


def outage(count: int, zoo: Path, server: seaweed.SeaweedFS) -> str:
    """Adapt a model to `count` channels in the server's bucket and prove it; what kept it back."""
    job = Job("run", f"s3://{seaweed.BUCKET}/mirror", str(zoo), server.options)
    summary = pipeline.make(Request(entry(SMALL), counted(count)), job)
    assert not summary.failures
    return summary.outage.task if summary.outage else ""


@pytest.mark.slow  # starts a store of its own, twice
def test_a_full_s3_store(small: Path, tmp_path: Path) -> None:
    with seaweed.running(tmp_path, volumes=10, megabytes=1) as server:
        full = next(count for count in range(1, 100) if outage(count, small, server) == "write")
    with seaweed.running(tmp_path) as server:
        assert not outage(full, small, server)
        dest = f"s3://{seaweed.BUCKET}/mirror"
        manifest.compact(open_store(dest, server.options))
        checker.check(dest, server.options)


def test_a_small_dev_shm(small: Path, tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    alone = ["unshare", "--mount", "sh", "-c", script, "sh"]
    able = shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True)
    if not able or able.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    options = ["--chans", "1,4", "--models", SMALL, "--source-root", str(small), "--dest"]
    with ray_folder() as env:
        ok(Runner(env).run(*alone, *JOB, *options, str(tmp_path)))
    checker.check(str(tmp_path))
