"""No file makes its reader run code, take unbounded memory, or see values that aren't there."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.conftest import SMALL
from tests.support import checkpoints, hostile
from tests.support.hostile import Cases
from zooadapt import pipeline
from zooadapt.checkpoints import checkpoint, vetting
from zooadapt.errors import CheckpointError
from zooadapt.mirror import manifest
from zooadapt.stores.opening import open_store
from zooadapt.targets import Bands, Target
from zooadapt.types import Adapted, Job, ModelSummary, Request
from zooadapt.zoos.registry import list_models

READ_ALL = """
import json, resource, sys
from pathlib import Path
from zooadapt.checkpoints import checkpoint
from zooadapt.errors import CheckpointError

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

before, most = status("VmRSS"), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + most,) * 2)
said = {}
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        said[file.name] = f"read {checkpoint.read(file)}"
    except CheckpointError as error:
        said[file.name] = str(error)
print(json.dumps({"said": said, "taken": status("VmHWM") - before}))
"""
"""A script that reads a folder's files under a memory limit; prints outcomes and memory used."""


def refused(cases: Cases, folder: Path, name: str = "model.pth") -> None:
    """Assert that each file is refused with the message for its case, whatever its name."""
    for what, (content, message) in cases.items():
        file = folder / name
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as error:
            checkpoint.read(file)
        assert str(error.value).startswith(f"{name} "), what
        assert "\n" not in str(error.value), what


def test_the_canary_would_tell(tmp_path: Path) -> None:
    content, _ = hostile.calling(tmp_path / "canary")["os.system zipped"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_what_a_pickle_would_call_is_named_and_not_called(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    refused(hostile.calling(canary), tmp_path, name)
    assert not canary.exists()


def test_without_vetting_torch_calls_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for vet in ("archive", "stacked"):
        monkeypatch.setattr(vetting, vet, lambda file: None)
    canary, file = tmp_path / "canary", tmp_path / "model.pth"
    for content, _ in hostile.calling(canary).values():
        file.write_bytes(content)
        with pytest.raises(CheckpointError):
            checkpoint.read(file)
    assert not canary.exists()


@pytest.mark.parametrize(
    "cases",
    [
        hostile.misleading_pickles,
        hostile.misleading_archives,
        hostile.headers,
    ],
)
def test_what_a_file_claims_and_does_not_hold_is_said(
    cases: Callable[[], Cases], tmp_path: Path
) -> None:
    refused(cases(), tmp_path)


def test_memory_and_time_are_bounded(tmp_path: Path) -> None:
    cases = {
        **hostile.greedy_pickles(),
        **hostile.greedy_legacy_pickles(),
        **hostile.greedy_archives(),
    }
    for name, (content, _) in cases.items():
        (tmp_path / name).write_bytes(content)
    arguments = [sys.executable, "-c", READ_ALL, str(tmp_path), str(2**29)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for name, (_, message) in cases.items():
        assert message in result["said"][name], name
    assert result["taken"] < 2**26


@pytest.mark.parametrize("zipped", [True, False])
def test_what_honest_checkpoints_hold_is_read(tmp_path: Path, zipped: bool) -> None:
    model = torch.nn.BatchNorm1d(3)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    content = {
        "model": model.state_dict(),
        "parameters": dict(model.named_parameters()),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "views": {"part": torch.arange(9.0)[2:5], "turned": torch.rand(2, 3).t()},
        "kinds": [torch.ones(2, dtype=dtype) for dtype in (torch.bool, torch.bfloat16, torch.long)],
        "facts": OrderedDict(size=torch.Size((1, 2)), device=torch.device("cuda:1"), bytes=b"\xff"),
        "more": [None, True, 0.5, 2**70, (1, (2,)), {"a"}, torch.float16, torch.tensor(1)],
    }
    file = tmp_path / "training.pth"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    read = checkpoint.read(file)
    assert str(read) == str(content)


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    tensor = torch.rand(3)
    torch.save({"one": tensor, "other": tensor}, tmp_path / "tied.pth")
    read = checkpoint.read(tmp_path / "tied.pth")
    assert read["one"].data_ptr() == read["other"].data_ptr()


def changed(tag: str, change: dict[str, Any]) -> bytes:
    """A checkpoint of the model in which `change` replaces tensors; None removes a tensor."""
    tensors = {**checkpoints.random_state_dict(tag), **change}
    data: bytes = safetensors.torch.save({n: t for n, t in tensors.items() if t is not None})
    return data


def adapted(tag: str, content: bytes, job: Job) -> Adapted | ModelSummary:
    """Run one model through the pipeline up to publishing, with `content` as its checkpoint."""
    folder = Path(job.source_root or "") / "timm" / tag
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    entry = next(entry for entry in list_models("timm") if entry.name == tag)
    return pipeline.adapt(Request(entry, (Target(Bands.counted(4), "repeat"),)), job)


def bad_models(canary: Path) -> Cases:
    """timm models with unusable checkpoints, and the message that each must give."""
    classes = (1000,)
    tensors: dict[str, tuple[dict[str, Any], str]] = {
        "test_nfnet": ({"head.fc.bias": torch.full(classes, torch.nan)}, "NaN or infinite"),
        "test_convnext2": ({"head.fc.bias": torch.full(classes, -torch.inf)}, "NaN or infinite"),
        "test_convnext3": ({"head.fc.bias": torch.zeros(10)}, "where the model wants (1000,)"),
        "test_efficientnet": ({"classifier.bias": None}, "lacks classifier.bias"),
        "test_efficientnet_gn": ({"more": torch.zeros(1)}, "the model doesn't: more"),
        "test_efficientnet_ln": ({"classifier.bias": torch.zeros(classes).int()}, "torch.int32"),
    }
    files = {
        "test_vit": hostile.calling(canary)["os.system zipped"],
        "test_vit2": hostile.misleading_pickles()["values left out"],
        "test_vit3": hostile.greedy_pickles()["a deep key"],
        "test_byobnet": hostile.misleading_archives()["twins"],
        "test_convnext": hostile.headers()["a gap"],
        **{
            model: (changed(f"{model}.r160_in1k", change), said)
            for model, (change, said) in tensors.items()
        },
    }
    return {f"{model}.r160_in1k": case for model, case in files.items()}


def test_each_is_a_failure_in_the_mirror_and_hurts_no_other(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    job = Job("run", str(tmp_path / "mirror"), source_root=str(tmp_path / "zoo"))
    bad = bad_models(canary)
    for tag, (content, _) in bad.items():
        assert isinstance(adapted(tag, content, job), ModelSummary)
    half = {"fc.weight": checkpoints.random_state_dict(SMALL)["fc.weight"].half()}
    good = adapted(SMALL, changed(SMALL, half), job)
    assert isinstance(good, Adapted)
    assert not pipeline.prove(good, job).failures
    tables = manifest.compact(open_store(job.dest))
    assert [row["model"] for row in tables.usable] == [SMALL]
    failures = {row["model"]: row for row in tables.failures}
    assert failures.keys() == bad.keys()
    for tag, (_, message) in bad.items():
        assert failures[tag]["stage"] == "checkpoint"
        assert message.replace("\\", "") in failures[tag]["error"]
    stored = f"{job.dest}/{next(iter(tables.usable))['folder']}/model.safetensors"
    assert safetensors.torch.load_file(stored)["fc.weight"].dtype is torch.float16
    assert not canary.exists()
