"""How work is divided, and what becomes of a model whose process dies."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from tests.conftest import SMALL
from tests.support import checkpoints
from tests.support.nodes import node
from tests.support.workers import KILLER, ray_whose_workers, run
from zooadapt import pipeline
from zooadapt.cluster import ray_executor, validators
from zooadapt.cluster.executor import Batch
from zooadapt.cluster.nodes import Workers
from zooadapt.errors import RunError
from zooadapt.mirror import manifest
from zooadapt.proof import published
from zooadapt.stores.opening import open_store
from zooadapt.types import Job, Located, ModelEntry, ModelSummary, Published, Request, Row
from zooadapt.zoos.registry import list_models

BREAKER = "test_efficientnet.r160_in1k"


def _die_of_the_killer() -> None:
    """Runs in every worker: makes models kill their process, their validator or their device."""
    adapt, prove = pipeline.adapt, pipeline.prove

    def adapt_or_die(request: Request, job: Job, located: Located | None) -> object:
        if request.entry.name == KILLER:
            os.kill(os.getpid(), signal.SIGKILL)
        return adapt(request, job, located)

    def prove_or_die(adapted: object, job: Job) -> ModelSummary:
        if job.run_id == "kill-validators":
            os.kill(os.getpid(), signal.SIGKILL)
        return prove(adapted, job)  # type: ignore[arg-type]

    pipeline.adapt, pipeline.prove = adapt_or_die, prove_or_die  # type: ignore[assignment]

    real, broken = published.Series._row, []

    def prove_or_break(self: published.Series, variant: Published) -> Row:
        if self._adapted.entry.name == BREAKER:
            broken.append("for good, as CUDA is after such an error")
        if broken:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return real(self, variant)

    published.Series._row = prove_or_break  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray with a GPU, so that there are validators."""
    with ray_whose_workers(_die_of_the_killer, gpus=1):
        yield


def entry(name: str) -> ModelEntry:
    return next(entry for entry in list_models("timm") if entry.name == name)


@pytest.mark.slow  # test_resume tests it too
def test_a_model_that_kills_its_process_is_a_failure_and_the_others_go_on(
    local_ray: None, small: Path, tmp_path: Path
) -> None:
    job = Job("run", str(tmp_path), source_root=str(small))
    ended = run(job, KILLER, SMALL)
    assert ended[SMALL].made == ("4",)
    (failure,) = ended[KILLER].failures
    assert (failure.stage, failure.status) == ("worker", "failed")
    assert "died 3 times" in failure.error
    tables = manifest.compact(open_store(str(tmp_path)))
    assert [row["model"] for row in tables.usable] == [SMALL]
    assert [row["model"] for row in tables.failures] == [KILLER]


@pytest.mark.slow  # processes restart for two minutes
def test_a_validator_whose_device_broke_is_replaced(
    local_ray: None, small: Path, tmp_path: Path
) -> None:
    for name in (BREAKER, SMALL):
        checkpoints.write_hub_repo(tmp_path / "zoo", name)
    job = Job("run", str(tmp_path / "mirror"), source_root=str(tmp_path / "zoo"))
    ended = run(job, BREAKER, SMALL)
    assert ended[SMALL].made == ("4",)
    assert ended[BREAKER].failures[0].stage == "worker"


def test_gpus_that_never_came_are_asked_for_only_while_something_waits(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = validators.Validators(pipeline.prove, Job("run", "/nowhere"))
    asked.start()
    asked.release()
    assert len(asked.refs) == 1, "it may be on its way"
    monkeypatch.setattr(validators, "IDLE", 0.0)
    asked.prove(Batch([], 0), "prove")
    asked.release()
    assert len(asked.refs) == 1, "something waits for it"
    asked._waiting.clear()
    asked.release()
    assert asked.refs == []


def test_a_gpu_that_joins_or_goes_does_not_change_where_proofs_are_done(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"cpu": [node(16, 64)], "both": [node(16, 64), node(0, 64, gpus=1)]}
    job = Job("run", "/nowhere")
    for first, then, wanted in (("cpu", "both", 0), ("both", "cpu", 2)):
        monkeypatch.setattr(ray, "nodes", lambda first=first: kinds[first])
        with ray_executor.RayExecutor(job, Workers()) as executor:
            monkeypatch.setattr(ray, "nodes", lambda then=then: kinds[then])
            executor._look_around()
            assert executor.capacity.validators == wanted


def test_a_cluster_that_is_gone_ends_the_run_and_fails_no_model(
    local_ray: None, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zooadapt.cluster.nodes.lives", lambda: False)
    job = Job("kill-validators", str(tmp_path), source_root=str(small))
    with pytest.raises(RunError, match="cluster is gone"):
        run(job, SMALL)
    assert manifest.read_records(open_store(str(tmp_path))) == []


@pytest.mark.slow  # like the test of the broken device; takes a minute
def test_a_validator_that_dies_is_replaced(local_ray: None, small: Path, tmp_path: Path) -> None:
    job = Job("kill-validators", str(tmp_path), source_root=str(small))
    assert run(job, SMALL)[SMALL].failures[0].stage == "worker"
    assert run(replace(job, run_id="again"), SMALL)[SMALL].made == ("4",)
