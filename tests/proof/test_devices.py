"""A device runs out of memory: the model is run without others, else it fails."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import SMALL
from tests.support.jobs import ROOT
from tests.support.pipelines import counted, entry
from zooadapt import pipeline
from zooadapt.errors import DeviceLost
from zooadapt.mirror import manifest
from zooadapt.proof import compare, devices
from zooadapt.stores.opening import open_store
from zooadapt.types import Adapted, Job, Request


@pytest.mark.parametrize("alone_helps", [True, False])
def test_what_does_not_fit_beside_others_is_proved_alone_or_is_a_failure(
    alone_helps: bool, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[bool] = []
    prove = compare.Prover.prove

    @contextmanager
    def turn(device: torch.device, alone: bool = False) -> Iterator[None]:
        turns.append(alone)
        yield

    def crowded(self: compare.Prover, *given: Any) -> Any:
        if not (turns[-1] and alone_helps):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return prove(self, *given)

    monkeypatch.setattr(devices, "turn", turn)
    monkeypatch.setattr(compare.Prover, "prove", crowded)
    summary = pipeline.prove(*adapted_on_disk(small, tmp_path))
    assert turns == [False, True]
    tables = manifest.compact(open_store(str(tmp_path)))
    assert len(tables.usable) == len(summary.made) == 2 * alone_helps
    assert [row["status"] for row in tables.failures] == ["failed"] * (2 * (not alone_helps))
    assert all("out of memory" in failure.error for failure in summary.failures)


def test_after_an_error_that_breaks_the_device_nothing_is_recorded(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: compare.Prover, *given: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(compare.Prover, "prove", broken)
    with pytest.raises(DeviceLost, match="device-side assert"):
        pipeline.prove(*adapted_on_disk(small, tmp_path))
    assert manifest.read_records(open_store(str(tmp_path))) == []


ASKED = """
import sys, torch
from zooadapt.proof import devices
b = torch.backends
parts = [b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv, b.mkldnn.rnn]
def asked():
    told = [part.fp32_precision for part in parts]
    for older in (torch.get_float32_matmul_precision, lambda: b.cudnn.allow_tf32):
        try:
            told.append(older())
        except RuntimeError:
            told.append("refused")
    return told
exec(sys.argv[1])
before = asked()
with devices.full_float32():
    assert {part.fp32_precision for part in parts} == {"ieee"}, asked()
assert asked() == before, (before, asked())
"""
HOW = [
    "pass",
    "b.cuda.matmul.allow_tf32 = True",
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
    "b.cudnn.allow_tf32 = False",
    "b.cuda.matmul.fp32_precision = 'tf32'",
    "b.cudnn.conv.fp32_precision = 'ieee'",
    "b.cudnn.fp32_precision = 'tf32'",
    "b.fp32_precision = 'tf32'",
    "b.mkldnn.matmul.fp32_precision = 'bf16'",
    "torch.set_float32_matmul_precision('high'); b.fp32_precision = 'tf32'",
]


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="needs torch 2.9")
def test_float32_is_computed_as_such_whatever_the_caller_has_set() -> None:
    """Each in a process of its own, as some settings can't be taken back."""
    running = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", ASKED, how], cwd=ROOT)
        for how in HOW
    ]
    ended = {how: process.wait(120) for how, process in zip(HOW, running, strict=True)}
    assert ended == dict.fromkeys(HOW, 0)


def test_one_that_is_alone_waits_for_the_others_and_they_for_it(tmp_path: Path) -> None:
    file, order, inside = tmp_path / "lock", [], threading.Event()

    def alone() -> None:
        inside.set()
        with devices.waiting(file, alone=True):
            order.append("alone")

    with devices.waiting(file, alone=False), devices.waiting(file, alone=False):
        thread = threading.Thread(target=alone)
        thread.start()
        inside.wait()
        order.append("together")
    thread.join()
    assert order == ["together", "alone"]


def adapted_on_disk(source: Path, dest: Path) -> tuple[Adapted, Job]:
    job = Job("run", str(dest), source_root=str(source))
    adapted = pipeline.adapt(Request(entry(SMALL), counted(1, 4)), job)
    assert isinstance(adapted, Adapted)
    return adapted, job


@pytest.fixture
def little_memory() -> Iterator[None]:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-5)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_that_a_gpu_has_no_memory_for_is_a_failure(
    small: Path, tmp_path: Path, little_memory: None
) -> None:
    summary = pipeline.prove(*adapted_on_disk(small, tmp_path))
    assert not summary.made
    assert [failure.status for failure in summary.failures] == ["failed"] * 2
    assert all("out of memory" in failure.error for failure in summary.failures)


BROKEN = """
import os, pickle, sys, torch
from zooadapt import pipeline
from zooadapt.errors import DeviceLost
from zooadapt.proof import compare

def prove(prover, *given):
    # an index out of bounds: from here on CUDA answers every call of this process with an error
    return torch.zeros(1, device="cuda")[torch.tensor([9], device="cuda")].item()

compare.Prover.prove = prove
adapted, job = pickle.load(open(sys.argv[1], "rb"))
try:
    pipeline.prove(adapted, job)
except DeviceLost:
    os._exit(42)  # CUDA's own clean-up can hang
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_process_whose_cuda_is_broken_says_so_and_blames_no_model(
    small: Path, tmp_path: Path
) -> None:
    adapted, job = adapted_on_disk(small, tmp_path / "mirror")
    given = tmp_path / "given"
    given.write_bytes(pickle.dumps((adapted, job)))
    command = [sys.executable, "-c", BROKEN, str(given)]
    done = subprocess.run(command, cwd=ROOT, check=False, timeout=120)
    assert done.returncode == 42
    assert not list((tmp_path / "mirror" / "records").rglob("*.json"))
    assert len(pipeline.prove(adapted, job).made) == 2, "another process can prove it"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_s_turn_ends_with_its_memory_given_back() -> None:
    device = devices.best()
    before = torch.cuda.memory_reserved(device)
    with devices.turn(device, alone=True):
        held = torch.zeros(2**28, device=device)
        del held
    assert torch.cuda.memory_reserved(device) <= before
    assert devices.name(device) == torch.cuda.get_device_name()
