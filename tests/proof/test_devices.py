"""A device runs out of memory: the model is run without others, else it fails."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import SMALL
from tests.support.pipelines import counted, entry
from zooadapt import pipeline
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
    job = Job("run", str(tmp_path), source_root=str(small))
    adapted = pipeline.adapt(Request(entry(SMALL), counted(1, 4)), job)
    assert isinstance(adapted, Adapted)
    summary = pipeline.prove(adapted, job)
    assert turns == [False, True]
    tables = manifest.compact(open_store(str(tmp_path)))
    assert len(tables.usable) == len(summary.made) == 2 * alone_helps
    assert [row["status"] for row in tables.failures] == ["failed"] * (2 * (not alone_helps))
    assert all("out of memory" in failure.error for failure in summary.failures)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_s_turn_ends_with_its_memory_given_back() -> None:
    device = devices.best()
    with devices.turn(device, alone=True):
        held = torch.zeros(2**28, device=device)
        del held
    assert torch.cuda.memory_reserved(device) == 0
    assert devices.name(device) == torch.cuda.get_device_name()
