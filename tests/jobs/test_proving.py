"""The measurement of proofs, as a user runs it, and what it asks of a GPU."""

import subprocess
import sys

import pytest
import torch

from tests.support.jobs import ROOT


def proving(*options: str) -> str:
    """What the script prints for one tiny model."""
    command = [sys.executable, "jobs/proving.py", "--models", "test_vit.r160_in1k", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_says_how_many_models_are_proved_and_what_was_estimated() -> None:
    lines = proving("--chans", "1,4", "--repeats", "2", "--processes", "2").splitlines()
    assert lines[0].startswith("2 models of 3 MB together, 2 channel counts, proved on ")
    assert " by 2 processes in " in lines[0]
    assert lines[1].startswith("models: ")
    assert "; --dry-run estimates " in lines[2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_says_how_busy_it_was() -> None:
    last = proving("--chans", "1", "--repeats", "1").splitlines()[-1]
    assert last.startswith("GPU busy: ")
