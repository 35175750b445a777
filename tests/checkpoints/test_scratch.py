"""A scratch folder is empty, gone at the end, and never that of another living process."""

import multiprocessing
import os
import signal
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from zooadapt.checkpoints.scratch import scratch_folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_gone_at_the_end(folder: Path) -> None:
    with scratch_folder() as first, scratch_folder() as second:
        (first / "file").write_text("x")
        assert first != second
        assert (first / "file").exists()
    assert list(folder.iterdir()) == []


def _hold(folder: str, told: Connection) -> None:
    tempfile.tempdir = folder
    with scratch_folder() as mine:
        told.send(str(mine))
        told.recv()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(
    folder: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(str(folder), there))
    process.start()
    held = Path(here.recv())
    with scratch_folder():
        assert held.exists()
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert held.exists()
    with scratch_folder():
        assert not held.exists()
