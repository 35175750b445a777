"""One model through all stages, in this process: what is published is what was asked for."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from jobs.measure import seeded
from tests.conftest import SMALL
from tests.support import checkpoints
from tests.support.pipelines import counted, entry, run
from zooadapt import pipeline
from zooadapt.mirror import manifest
from zooadapt.stores.local import LocalStore
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Chunks
from zooadapt.targets import Bands
from zooadapt.types import Adapted, Job, Listing, ModelEntry, ModelFacts, ModelSummary, Request, Row
from zooadapt.zoos import registry
from zooadapt.zoos.timm import TimmZoo


def test_each_stage_is_timed(small: Path, tmp_path: Path) -> None:
    job = Job("run", str(tmp_path), source_root=str(small))
    adapted = pipeline.adapt(Request(entry(SMALL), counted(4)), job)
    assert isinstance(adapted, Adapted)
    assert sorted(adapted.seconds) == ["adapt", "fetch", "publish"]
    summary = pipeline.prove(adapted, job)
    assert sorted(summary.seconds) == ["adapt", "fetch", "publish", "validate"]
    assert all(0 < seconds < 60 for seconds in summary.seconds.values())


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_one_process_makes_what_two_make(
    where: str, small: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What `make` does on the CPU, `adapt` and `prove` do where there are GPUs."""
    asked = Request(entry(SMALL), (*counted(1, 2, 4, 25), *counted(8, scheme="mean")))
    rows = []
    for name in ("one", "two"):
        root = str(tmp_path) if where == "folder" else request.getfixturevalue("bucket")
        job = Job(name, f"{root}/{name}", source_root=str(small))
        if name == "one":
            summary = pipeline.make(asked, job)
        else:
            adapted = pipeline.adapt(asked, job)
            assert isinstance(adapted, Adapted)
            summary = pipeline.prove(adapted, job)
        assert sorted(summary.seconds) == ["adapt", "fetch", "publish", "validate"]
        rows.append(list(manifest.compact(open_store(job.dest)).usable))
    own = {"run_id", "created_at"}
    figures = {"equivalence_error", "control_error"}  # may differ in their last bits
    for one, two in zip(*rows, strict=True):
        assert {k for k, v in one.items() if two[k] != v} - figures == own
        assert [one[k] for k in figures] == pytest.approx([two[k] for k in figures], abs=1e-5)
    assert len(rows[0]) == 5


def test_a_body_that_the_store_spoils_is_a_failure(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = LocalStore.write

    def spoil(self: LocalStore, key: str, chunks: Chunks) -> None:
        write(self, key, chunks)
        if key.endswith("model.safetensors"):
            data = bytearray(self.read(key))
            data[-1] ^= 1
            write(self, key, [bytes(data)])

    monkeypatch.setattr(LocalStore, "write", spoil)
    job = Job("run", str(tmp_path), source_root=str(small))
    summary = pipeline.make(Request(entry(SMALL), counted(1, 4)), job)
    assert summary.made == ()
    assert all("read back with other bytes" in failure.error for failure in summary.failures)


def test_a_checkpoint_that_is_overwritten_meanwhile_is_an_error(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "zoo"
    file = checkpoints.write_hub_repo(root, SMALL)
    write = LocalStore.write

    def overwrite(self: LocalStore, key: str, chunks: Chunks) -> None:
        write(self, key, chunks)
        file.touch()

    monkeypatch.setattr(LocalStore, "write", overwrite)
    job = Job("run", str(tmp_path / "mirror"), source_root=str(root))
    summary = pipeline.make(Request(entry(SMALL), counted(1, 4)), job)
    assert not summary.made
    assert "was replaced while it was read" in summary.failures[0].error


def test_where_the_store_is_full_the_model_is_postponed_and_nothing_recorded(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = LocalStore.write

    def refuse(self: LocalStore, key: str, chunks: Chunks) -> None:
        if "4ch" in key:
            raise OSError(28, "No space left on device")
        write(self, key, chunks)

    monkeypatch.setattr(LocalStore, "write", refuse)
    job = Job("run", str(tmp_path), source_root=str(small))
    summary = pipeline.make(Request(entry(SMALL), counted(1, 4)), job)
    assert (summary.made, summary.failures, summary.postponed) == ((), (), ("1", "4"))
    assert summary.outage
    assert (summary.outage.place, summary.outage.task) == (str(tmp_path), "write")
    assert "No space left" in summary.outage.reason
    assert not (tmp_path / "records").exists()


def test_a_stage_that_fails_is_timed_too(tmp_path: Path) -> None:
    job = Job("run", str(tmp_path), source_root=str(tmp_path / "nosuch"))
    summary = pipeline.adapt(Request(entry(SMALL), counted(4)), job)
    assert isinstance(summary, ModelSummary)
    assert sorted(summary.seconds) == ["adapt", "fetch"]


class FiveBands(TimmZoo):
    """A checkpoint fine-tuned on five bands, as a zoo of one's own would list it."""

    name = "five"

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        return [replace(entry(SMALL), zoo=self.name)]

    def facts(self, entry: ModelEntry) -> ModelFacts:
        bands = (0.1, 0.2, 0.3, 0.4, 0.5)
        return replace(super().facts(entry), bands=Bands.counted(5), mean=bands, std=bands)


@pytest.mark.parametrize("scheme", ["repeat", "pad", "mean"])
def test_a_source_of_five_bands(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "get", lambda name: FiveBands())
    (listed,) = FiveBands().models(Listing())
    folder = tmp_path / "zoo" / str(listed.hub_id)
    folder.mkdir(parents=True)
    model = seeded.model(lambda: timm.create_model(SMALL, in_chans=5), (5, 64, 64))
    source = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(source, folder / "model.safetensors")
    rows = run(listed, counted(1, 3, 5, 7, scheme=scheme), tmp_path / "zoo", tmp_path / "mirror")
    assert [row["in_chans"] for row in rows] == [1, 3, 5, 7]
    assert all(row["equivalent"] for row in rows)
    assert [len(row["input_mean"]) for row in rows] == [1, 3, 5, 7]
    loaded = variant(tmp_path / "mirror", rows[3])
    images = torch.randn(2, 7, 64, 64)
    if scheme == "pad":
        with torch.inference_mode():
            assert torch.allclose(loaded(images), model(images[:, :5]), atol=1e-4)
    elif scheme == "repeat":
        assert rows[3]["input_mean"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.1, 0.2]
        assert equal(variant(tmp_path / "mirror", rows[2]).state_dict(), source)


def variant(mirror: Path, row: Row) -> nn.Module:
    model: nn.Module = timm.create_model(f"local-dir:{mirror / row['folder']}", pretrained=True)
    return model.eval()


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_equals_timm(dtype: torch.dtype, tmp_path: Path) -> None:
    file = checkpoints.write_hub_repo(tmp_path / "zoo", SMALL, dtype=dtype)
    rows = run(entry(SMALL), counted(1, 4), tmp_path / "zoo", tmp_path / "mirror")
    for row in rows:
        assert row["weights_dtype"] == str(dtype).removeprefix("torch.")
        stored = safetensors.torch.load_file(
            tmp_path / "mirror" / row["folder"] / "model.safetensors"
        )
        timms = timm.create_model(
            SMALL, pretrained=True, in_chans=row["in_chans"],
            pretrained_cfg_overlay={"file": str(file)},
        ).state_dict()  # fmt: skip
        cast = {name: timms[name].to(tensor.dtype) for name, tensor in stored.items()}
        assert equal(stored, cast)


def test_a_standardised_stem_is_in_the_manifest_with_its_true_figure(tmp_path: Path) -> None:
    tag = "test_nfnet.r160_in1k"
    file = checkpoints.write_hub_repo(tmp_path / "zoo", tag)
    rows = run(entry(tag), counted(1, 4), tmp_path / "zoo", tmp_path / "mirror")
    assert [row["equivalent"] for row in rows] == [False, False]
    kept = run(entry(tag), counted(1, 4, scheme="preserve"), tmp_path / "zoo", tmp_path / "kept")
    assert [row["equivalent"] for row in kept] == [True, False]
    assert all(row["scheme"] == "preserve" for row in kept)
    original = timm.create_model(tag, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    images = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():  # M is a column of ones, so M·x is the image in every channel
        wanted = original.eval()(images.expand(-1, 3, -1, -1))
        assert torch.allclose(variant(tmp_path / "kept", kept[0])(images), wanted, atol=1e-4)
        assert not torch.allclose(variant(tmp_path / "mirror", rows[0])(images), wanted, atol=1e-2)
    stem = ("stem.conv1.weight", "stem.conv1.gain")
    stored, source = variant(tmp_path / "kept", kept[0]).state_dict(), original.state_dict()
    assert [name for name in source if not torch.equal(stored[name], source[name])] == [*stem]
