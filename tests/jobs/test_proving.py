"""The measurement of proofs, as a user runs it, and what it asks of a GPU."""

import subprocess
import sys

import pytest
import torch

from tests.support.jobs import ROOT


def proving(*options: str) -> list[str]:
    """The lines that the script prints."""
    command = [sys.executable, "jobs/proving.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_says_how_many_models_are_proved() -> None:
    lines = proving("--models", "test_vit*", "--chans", "1,4", "--repeats", "2", "--processes", "2")
    assert lines[0].startswith("3 models of ")
    assert ", 2 channel counts, proved 2 times on " in lines[0]
    assert lines[0].endswith(" by 2 processes")
    assert lines[1].startswith("models: ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_says_how_busy_it_was() -> None:
    lines = proving("--models", "test_vit.*", "--chans", "1,4", "--repeats", "50")
    assert "s of the GPU, in which it is also read back; --dry-run estimates " in lines[2]
    assert lines[3].startswith("GPU busy: ")
    assert "unknown" not in lines[3]
