"""torchvision's zoo: models are built as there, adapted, proved and loaded, or refused."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision import models

import zooadapt
from jobs.measure import conformance, seeded
from tests.support import docs
from tests.support.mutants import rolled
from tests.support.pipelines import counted, run
from zooadapt import pipeline
from zooadapt.adapt import contract
from zooadapt.checkpoints import checkpoint
from zooadapt.cli.main import main
from zooadapt.errors import CheckpointError, Unsupported, UsageError
from zooadapt.job import plan
from zooadapt.mirror import manifest
from zooadapt.proof.passes import tensors as outputs
from zooadapt.report import job
from zooadapt.stores.opening import open_store
from zooadapt.targets import Target
from zooadapt.types import Job, ModelEntry, ModelFacts, ModelSummary, Request, Row
from zooadapt.zoos import registry
from zooadapt.zoos.registry import list_models
from zooadapt.zoos.torchvision import _REFUSED, TorchvisionZoo, _kind

_, RECIPE = docs.blocks(docs.section("zooadapt/reader", "torchvision"), "python")
"""How the README for readers loads a variant, with zooadapt and without."""
LAST = "model.load_state_dict(tensors)"
LAST_OF_MNASNET = """state = model.state_dict()
state.update(tensors)
model.load_state_dict(state)"""

CLASSES = "squeezenet1_1.IMAGENET1K_V1"
SEGMENTS = "lraspp_mobilenet_v3_large.COCO_WITH_VOC_LABELS_V1"
VIDEO = "r3d_18.KINETICS400_V1"
VERSIONED = "mnasnet0_5.IMAGENET1K_V1"

ZOO = TorchvisionZoo()
ENTRIES = {entry.name: entry for entry in list_models("torchvision")}
PLACE = "https://download.pytorch.org/models"


def first(architecture: str) -> ModelEntry:
    return next(entry for entry in ENTRIES.values() if entry.architecture == architecture)


# The list


def test_every_weights_of_every_entry_is_listed() -> None:
    assert len(ENTRIES) >= 166
    assert {entry.architecture for entry in ENTRIES.values()} == set(models.list_models())
    entry = ENTRIES["resnet34.IMAGENET1K_V1"]
    assert entry.url == f"{PLACE}/resnet34-b627a593.pth"
    assert (entry.pretrained_tag, entry.license) == ("IMAGENET1K_V1", None)
    assert "SWAG" in str(ENTRIES["vit_b_16.IMAGENET1K_SWAG_E2E_V1"].license)


def test_every_entry_has_facts() -> None:
    plan.check_targets(list(ENTRIES.values()), counted(1, 4))
    for entry in ENTRIES.values():
        facts = ZOO.facts(entry)
        assert facts.chans == len(facts.mean) == len(facts.std) == 3
        assert min(facts.size) >= 1


@pytest.mark.parametrize(
    ("name", "size", "classes", "mean"),
    [
        ("resnet34.IMAGENET1K_V1", (224, 224), 1000, 0.485),
        ("efficientnet_b7.IMAGENET1K_V1", (600, 600), 1000, 0.485),
        ("vit_h_14.IMAGENET1K_SWAG_E2E_V1", (518, 518), 1000, 0.485),
        (SEGMENTS, (520, 520), 21, 0.485),
        (VIDEO, (16, 112, 112), 400, 0.43216),
        ("s3d.KINETICS400_V1", (16, 224, 224), 400, 0.43216),
        ("raft_small.C_T_V1", (128, 128), 0, 0.0),
    ],
)
def test_facts_are_those_of_the_weights(
    name: str, size: tuple[int, ...], classes: int, mean: float
) -> None:
    facts = ZOO.facts(ENTRIES[name])
    assert (facts.size, facts.num_classes, facts.mean[0]) == (size, classes, mean)


def test_without_torchvision_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOOADAPT_CACHE", str(tmp_path))  # where no list of its models is kept
    registry._listed.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    monkeypatch.delitem(sys.modules, "zooadapt.zoos.torchvision")
    with pytest.raises(UsageError, match=r"pip install 'zooadapt\[torchvision\]'"):
        list_models("torchvision")


# Built as torchvision builds it


def built(build: Callable[[], nn.Module]) -> nn.Module:
    """The model, built on the meta device, or on the CPU where that isn't possible."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:
        return build()


def same_as_torchvisions(entry: ModelEntry) -> None:
    weights = models.get_model_weights(entry.architecture)[entry.pretrained_tag]
    with (
        mock.patch.object(models.WeightsEnum, "get_state_dict", return_value={}),
        mock.patch.object(nn.Module, "load_state_dict", return_value=None),
    ):
        wanted = built(lambda: models.get_model(entry.architecture, weights=weights))
    arguments = ZOO.arguments(entry)
    assert json.loads(json.dumps(arguments)) == arguments
    got = built(lambda: ZOO.module(entry.architecture, arguments))
    assert printed(got) == printed(wanted)
    assert shapes(got) == shapes(wanted)
    for switch in ("transform_input", "aux_logits"):
        assert getattr(got, switch, None) == getattr(wanted, switch, None)


def printed(model: nn.Module) -> list[str]:
    """The lines of the printed model, without those of removed heads."""
    return [line for line in repr(model).splitlines() if not line.endswith("): None")]


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize(
    "architecture",
    [
        "alexnet", "convnext_tiny", "deeplabv3_mobilenet_v3_large", "densenet121",
        "efficientnet_b0", "fcn_resnet50", "googlenet", "inception_v3",
        "lraspp_mobilenet_v3_large", "maxvit_t", "mnasnet0_5", "mobilenet_v3_small", "mvit_v1_b",
        "mvit_v2_s", "r3d_18", "regnet_y_400mf", "resnet18", "s3d", "shufflenet_v2_x0_5",
        "squeezenet1_1", "swin3d_t", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16",
    ],
)  # fmt: skip
def test_it_is_the_model_that_torchvision_builds(architecture: str) -> None:
    for entry in ENTRIES.values():
        if entry.architecture == architecture:
            same_as_torchvisions(entry)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_every_one_is_the_model_that_torchvision_builds(entry: ModelEntry) -> None:
    if _kind(entry.architecture) not in _REFUSED:
        same_as_torchvisions(entry)


# Checkpoints


def test_a_densenets_old_names_become_todays() -> None:
    entry = first("densenet121")
    with torch.device("meta"):
        model = ZOO.build(entry, 3)
    names = list(model.state_dict())
    old = {old_name(name): name for name in names if not name.endswith("num_batches_tracked")}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    content, strict = ZOO.convert(entry, model, old)
    assert strict
    assert all(name == original for name, original in content.items())


def old_name(name: str) -> str:
    for part in ("norm1", "norm2", "conv1", "conv2"):
        if "denselayer" in name:
            name = name.replace(part, f"{part[:-1]}.{part[-1]}")
    return name


def test_only_the_heads_that_torchvision_removes_are_dropped() -> None:
    entry = first("googlenet")
    content = dict.fromkeys(["conv1.conv.weight", "aux1.fc1.weight", "aux2.conv.bn.bias"], 0)
    assert list(ZOO.convert(entry, nn.Module(), content)[0]) == ["conv1.conv.weight"]
    assert list(ZOO.convert(first("resnet18"), nn.Module(), content)[0]) == list(content)


def test_statistics_that_old_checkpoints_lack_are_filled_and_nothing_else() -> None:
    entry = first("shufflenet_v2_x0_5")
    tensors = dict(ZOO.build(entry, 3).state_dict())
    counters = [name for name in tensors if name.endswith("num_batches_tracked")]
    for name in counters:
        del tensors[name]
    assert assigned(entry, tensors) == tuple(sorted(counters))
    with pytest.raises(CheckpointError, match=r"lacks fc\.bias, which the model learns"):
        assigned(entry, {name: tensors[name] for name in tensors if name != "fc.bias"})
    with pytest.raises(CheckpointError, match="tensors the model doesn't: head"):
        assigned(entry, {**tensors, "head": tensors["fc.bias"]})


def assigned(entry: ModelEntry, tensors: dict[str, Any]) -> tuple[str, ...]:
    with torch.device("meta"):
        model = ZOO.build(entry, 3)
    content, strict = ZOO.convert(entry, model, tensors)
    return checkpoint.assign(model, content, strict, lambda: ZOO.build(entry, 3))


# From the source to a model


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller images and shorter videos than the weights state, where models take any."""
    facts = TorchvisionZoo.facts

    def smaller(zoo: TorchvisionZoo, entry: ModelEntry) -> ModelFacts:
        stated = facts(zoo, entry)
        return replace(stated, height=64, width=64, frames=4 * bool(stated.frames))

    monkeypatch.setattr(TorchvisionZoo, "facts", smaller)


def served(root: Path, name: str) -> ModelEntry:
    """The entry, whose seeded checkpoint lies below `root`, with its hash in its name."""
    entry = ENTRIES[name]
    size = (3, *ZOO.facts(entry).size)
    model = seeded.model(lambda: ZOO.build(entry, 3), size)
    unnamed = root / "weights.pth"
    torch.save(model.state_dict(), unnamed)
    file = f"seeded-{hashlib.sha256(unnamed.read_bytes()).hexdigest()[:8]}.pth"
    unnamed.rename(root / file)
    return replace(entry, url=f"{PLACE}/{file}")


def stored(mirror: Path, row: Row) -> dict[str, Tensor]:
    file = mirror / row["folder"] / "model.safetensors"
    tensors: dict[str, Tensor] = safetensors.torch.load_file(file)
    return tensors


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("name", [CLASSES, SEGMENTS, VIDEO, VERSIONED])
def test_adapted_proved_and_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    entry = served(tmp_path, name)
    rows = run(entry, counted(1, 4, 25), tmp_path, mirror)
    assert [row["in_chans"] for row in rows] == [1, 4, 25]
    for row in rows:
        assert (row["equivalent"], row["proof"]) == (True, "forward")
        assert row["control_error"] > 0.01
        assert row["min_timm"] == ""
        assert row["timm_version"].startswith("torchvision ")
    check_config(mirror, rows[2])
    model = zooadapt.create_model(f"torchvision/{name}", in_chans=25, mirror=str(mirror))
    assert model.training
    assert equal(dict(model.state_dict()), stored(mirror, rows[2]))
    check_recipe(mirror, rows[2], model.eval(), tmp_path, monkeypatch)
    if name != VERSIONED:
        check_options(f"torchvision/{name}", mirror, stored(mirror, rows[1]))


def check_config(mirror: Path, row: Row) -> None:
    config = json.loads((mirror / row["folder"] / "config.json").read_text())
    assert (config["library"], config["architecture"]) == ("torchvision", row["architecture"])
    assert config["stems"] == row["stems"]
    facts = ZOO.stated(config)
    assert (facts.chans, facts.mean) == (25, tuple(row["input_mean"]))
    assert facts.size == ZOO.facts(ENTRIES[row["model"]]).size
    assert facts.num_classes == row["num_classes"] == config["model_args"]["num_classes"]


def check_recipe(
    mirror: Path, row: Row, model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's recipe loads the same model without zooadapt."""
    shutil.copytree(mirror / row["folder"], folder / "variant")
    monkeypatch.chdir(folder)
    code = RECIPE
    if row["architecture"].startswith("mnasnet"):
        with pytest.raises(ValueError, match="version should be set"):
            exec(code, {})
        code = code.replace(LAST, LAST_OF_MNASNET)
    names: dict[str, Any] = {}
    exec(code, names)
    assert equal(dict(names["model"].state_dict()), stored(mirror, row))
    image = torch.randn(1, 25, *ZOO.facts(ENTRIES[row["model"]]).size)
    with torch.inference_mode():
        for got, wanted in zip(outputs(names["model"](image)), outputs(model(image)), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def check_options(model: str, mirror: Path, tensors: dict[str, Tensor]) -> None:
    few = zooadapt.create_model(model, in_chans=4, mirror=str(mirror), num_classes=10)
    kept = {name: tensor for name, tensor in few.state_dict().items() if 10 not in tensor.shape[:1]}
    assert 0 < len(few.state_dict()) - len(kept) <= 4
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in kept.items())
    with pytest.raises(UsageError, match="leave out weights: the variant's own weights are loaded"):
        zooadapt.create_model(model, in_chans=4, mirror=str(mirror), weights="DEFAULT")


@pytest.mark.usefixtures("cheap")
def test_an_option_that_torchvision_refuses_is_said(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    run(served(tmp_path, CLASSES), counted(4), tmp_path, mirror)
    with pytest.raises(UsageError, match="torchvision refuses depth"):
        zooadapt.create_model(CLASSES, in_chans=4, mirror=mirror, depth=7)


@pytest.mark.usefixtures("cheap")
def test_the_printed_lines_load_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines that a job prints at its end, and the line that `pull` prints, load the variant."""
    mirror = tmp_path / "mirror"
    (row,) = run(served(tmp_path, CLASSES), counted(4), tmp_path, mirror)
    names: dict[str, Any] = {}
    exec("\n".join(job.query_and_load(str(mirror), row, False)), names)
    assert equal(dict(names["model"].state_dict()), stored(mirror, row))
    assert main(["pull", "squeezenet1_1", "--chans", "4", "--mirror", str(mirror)]) == 0
    hint = capsys.readouterr().err.partition("load the model with  ")[2]
    assert hint.startswith(f'zooadapt.create_model("torchvision/{CLASSES}", in_chans=4, mirror=')
    assert equal(dict(eval(hint).state_dict()), stored(mirror, row))


# Models that can't be adapted


def outcome(entry: ModelEntry, root: Path, *targets: Target) -> list[Row]:
    """The rows of the failures after a run that made nothing."""
    job = Job("run", str(root / "mirror"), source_root=str(root))
    summary = pipeline.adapt(Request(entry, targets or counted(1, 4)), job)
    assert isinstance(summary, ModelSummary)
    tables = manifest.compact(open_store(str(root / "mirror")))
    assert not len(tables.usable)
    return list(tables.failures)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("googlenet.IMAGENET1K_V1", "transform_input"),
        ("inception_v3.IMAGENET1K_V1", "transform_input"),
        ("fasterrcnn_resnet50_fpn.COCO_V1", "GeneralizedRCNNTransform"),
        ("keypointrcnn_resnet50_fpn.COCO_LEGACY", "GeneralizedRCNNTransform"),
        ("raft_small.C_T_V1", "two images at once"),
        ("quantized_resnet18.IMAGENET1K_FBGEMM_V1", "8-bit integers"),
        ("vgg16.IMAGENET1K_FEATURES", "features only"),
    ],
)
def test_what_cannot_be_adapted_is_a_row_that_says_why(
    name: str, reason: str, tmp_path: Path
) -> None:
    rows = outcome(ENTRIES[name], tmp_path)
    assert [row["in_chans"] for row in rows] == [1, 4]
    for row in rows:
        assert (row["status"], row["stage"]) == ("unsupported", "stems")
        assert reason in row["error"]


@pytest.mark.parametrize("architecture", ["googlenet", "inception_v3"])
def test_what_transforms_its_input_is_refused_unasked(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running the model leads to the same refusal as the reasons that are known."""
    monkeypatch.setattr("zooadapt.zoos.torchvision.refusal", lambda entry: "")
    with (
        torch.device("meta"),
        pytest.raises(Unsupported, match="the model needs 3 channels outside its stem too"),
    ):
        ZOO.build(first(architecture), 4)


def test_another_file_than_the_name_says_is_a_failure(tmp_path: Path) -> None:
    entry = ENTRIES[CLASSES]
    (tmp_path / str(entry.url).rpartition("/")[2]).write_bytes(b"another file")
    for row in outcome(entry, tmp_path):
        assert (row["status"], row["stage"]) == ("failed", "fetch")
        assert "instead of the stated b8a52dc0" in row["error"]


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(
    ("name", "most"), [(CLASSES, 1e9), (CLASSES, 0), (SEGMENTS, 0), (VIDEO, 0)]
)
def test_a_wrong_stem_does_not_pass(
    name: str, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    (right,) = conformance.measure(ENTRIES[name], [4], "repeat", most)
    assert (right.status, right.equivalent) == ("adapted", True), right.reason
    monkeypatch.setattr(contract, "contract", rolled)
    (wrong,) = conformance.measure(ENTRIES[name], [4], "repeat", most)
    assert (wrong.status, wrong.equivalent) == ("failed", False)


def test_a_summary_counts_the_reasons() -> None:
    measured = [
        row
        for name in ("raft_small", "raft_large", "googlenet", "squeezenet1_1")
        for row in conformance.measure(first(name), [1, 4], "repeat", 0)
    ]
    printed = conformance.summary(pd.DataFrame([asdict(row) for row in measured]))
    assert "| unsupported, with the reason | 3 | 3 |" in printed
    assert "| unsupported | 2 | it computes optical flow" in printed
    assert "| unsupported | 1 | it splits the image into 3 channels" in printed
