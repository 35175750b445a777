"""Each block of the README for readers, run as it stands on another bucket and a smaller model.

What users rely on: every tool finds the same row, the stored weights are in the model bit for bit,
and what was trained loads where the pulled folder is gone.
"""

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.conftest import SMALL
from tests.support import checkpoints, docs, hub, seaweed
from tests.support.pipelines import counted, entry, run
from tests.support.seaweed import SeaweedFS
from zooadapt import bands, pipeline
from zooadapt.targets import Target
from zooadapt.types import Adapted, Job, Request

NAMED = "resnet18.a1_in1k"
"""The model that the recipes name; SMALL takes its place."""

Names = dict[str, Any]
"""What the blocks that were run have defined."""


@pytest.fixture(scope="module")
def mirror(s3: SeaweedFS, small: Path) -> Iterator[str]:
    """The URL of a mirror in S3 with several variants of SMALL; the AWS variables lead there."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.env.items():
            patch.setenv(name, value)
        url = f"s3://{seaweed.BUCKET}/{uuid.uuid4().hex}"
        named = Target(bands.parse("R,G,B,NIR"), "rgb-only")
        run(entry(SMALL), (*counted(4, 8), named), small, url)
        yield url


@pytest.fixture
def names(
    mirror: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Names]:
    """What a reader has after the first block: ``variant``, made from the Hub without a mirror."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    names: Names = {}
    with hub.serving(small) as served:
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        do("Recipes", mirror, names, only="zooadapt.open_mirror()")
        yield names


@pytest.fixture
def copied(mirror: str, names: Names) -> Names:
    """What a reader has after the recipes with a mirror: `row`, and its folder in ``variant``."""
    shutil.rmtree("variant")
    do("A row: pandas, polars, DuckDB", mirror, names, only="pandas")
    return do("Its folder", mirror, names)


def blocks(title: str, language: str) -> list[str]:
    """The code blocks of a recipe."""
    found = docs.blocks(docs.section("zooadapt/reader", title), language)
    assert found, title
    return found


def do(title: str, mirror: str, names: Names, only: str = "") -> Names:
    """Run a recipe's blocks of Python, or those that mention `only`, on the tests' mirror."""
    chosen = [block for block in blocks(title, "python") if only in block]
    assert chosen, only
    for block in chosen:
        here = block.replace("s3://bucket/mirror", mirror).replace(NAMED, SMALL)
        exec(compile(here, title, "exec"), names)
    return names


@pytest.fixture
def recipe(mirror: str, names: Names) -> Callable[..., Names]:
    """Run a recipe, or its blocks that mention a word, after the first two."""
    return lambda title, only="": do(title, mirror, names, only)


@pytest.fixture
def stored(names: Names) -> dict[str, Tensor]:
    """The tensors of the pulled folder."""
    tensors: dict[str, Tensor] = safetensors.torch.load_file("variant/model.safetensors")
    return tensors


def assert_stored(model: nn.Module, stored: dict[str, Tensor], but: str = "") -> None:
    """The model holds the stored tensors, bit for bit, and no others; `but` is a new head."""
    held = {n: t for n, t in model.state_dict().items() if not but or not n.startswith(but)}
    assert held.keys() == {n for n in stored if not but or not n.startswith(but)}
    assert all(torch.equal(held[name], stored[name]) for name in held)


def is_stem_stored(encoder: nn.Module, stored: dict[str, Tensor]) -> bool:
    return torch.equal(encoder.state_dict()["conv1.0.weight"], stored["conv1.0.weight"])


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.cpu().eval()(images)
    return found


def batches(labels: Tensor) -> DataLoader[Any]:
    """Random images of 4 channels with these labels, in batches of 2."""
    return DataLoader(TensorDataset(torch.randn(len(labels), 4, 64, 64), labels), 2)


class Samples(Dataset[dict[str, Tensor]]):
    """Two random images of 4 channels, each with the same target, as torchgeo's datasets give."""

    def __init__(self, target: dict[str, Tensor]) -> None:
        self.target = target

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": torch.randn(4, 64, 64), **self.target}


@pytest.mark.parametrize("tool", ["pandas", "polars", "duckdb"])
def test_every_tool_finds_the_row(tool: str, mirror: str) -> None:
    wanted = do("A row: pandas, polars, DuckDB", mirror, {}, only=tool)["wanted"]
    rows = pd.read_parquet(f"{mirror}/manifest.parquet")
    (folder,) = [name for name in rows["folder"] if "/4ch-repeat-" in name]
    assert len(rows) == 3
    assert list(wanted["folder"]) == [folder]
    assert list(wanted["input_mean"][0]) == [0.5] * 4


def test_a_folder_made_without_a_mirror_loads_in_timm_and_is_trained(
    recipe: Callable[..., Names], names: Names, stored: dict[str, Tensor]
) -> None:
    names |= {"images": torch.randn(2, 4, 96, 96), "labels": torch.tensor([1, 2])}
    model = recipe("timm", only="loss.backward")["model"]
    assert model.training
    assert not is_stem_stored(model, stored)  # it was trained
    assert recipe("timm", only="inference_mode")["best"].shape == (2,)


def test_a_model_is_fine_tuned_saved_and_loaded_again(
    names: Names, recipe: Callable[..., Names]
) -> None:
    names |= {
        "images": torch.randint(0, 256, (2, 4, 96, 96), dtype=torch.uint8),
        "labels": torch.tensor([1, 2]),
    }
    trained = recipe("Fine-tune, save and load again", only="loss.backward")["model"]
    again = recipe("Fine-tune, save and load again", only="checkpoint_path")["model"]
    assert not again.training
    ours, theirs = trained.state_dict(), again.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    recipe("Fine-tune, save and load again", only="requires_grad_")
    frozen = [name for name, each in again.named_parameters() if not each.requires_grad]
    assert frozen == ["conv1.0.weight"]


def test_a_copied_folder_is_the_one_made_without_a_mirror(
    names: Names, stored: dict[str, Tensor], mirror: str
) -> None:
    do("A row: pandas, polars, DuckDB", mirror, names, only="pandas")
    shutil.rmtree("variant")
    do("Its folder", mirror, names)
    again = safetensors.torch.load_file("variant/model.safetensors")
    assert all(torch.equal(again[name], stored[name]) for name in stored)


def test_models_are_chosen_by_timm_s_own_results(
    mirror: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "results.csv"
    table.write_text(
        f"model,img_size,top1,param_count\n{SMALL},160,50.5,0.47\n"
        "resnet18.a1_in1k,224,71.49,11.69\nvit_huge_patch14_clip_224.laion2b_ft_in1k,224,87.6,"
        '"1,632.05"\nnobody.knows,224,99.9,1.0\n'
    )
    names: Names = {}
    for block in blocks("Choose by accuracy", "python"):
        here = re.sub('url = ".*"', f'url = "{table.as_uri()}"', block)
        exec(here.replace("s3://bucket/mirror", mirror), names)
    printed = capsys.readouterr().out
    assert "resnet18.a1_in1k  71.49" in printed
    assert "nobody" not in printed
    assert "huge" not in printed
    assert set(names["best"]["model"]) == {SMALL}
    assert names["best"]["top1"].tolist() == [50.5] * 3


@pytest.mark.usefixtures("copied")
def test_other_bytes_than_the_row_s_are_seen(recipe: Callable[..., Names]) -> None:
    damaged = bytearray(Path("variant/model.safetensors").read_bytes())
    damaged[-1] ^= 1
    Path("variant/model.safetensors").write_bytes(damaged)
    with pytest.raises(AssertionError):
        recipe("Its folder", only="hashlib")


@pytest.mark.skipif(not shutil.which("aws"), reason="the AWS CLI isn't installed")
def test_the_aws_cli_copies_the_same(
    copied: Names, mirror: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (block,) = blocks("Its folder", "sh")
    elsewhere = tmp_path_factory.mktemp("aws")
    env = {**os.environ, "FOLDER": copied["row"]["folder"]}
    command = block.replace("s3://bucket/mirror", mirror)
    subprocess.run(["sh", "-ec", command], cwd=elsewhere, env=env, check=True)
    there = {file.name: file.read_bytes() for file in (elsewhere / "variant").iterdir()}
    assert there == {file.name: file.read_bytes() for file in Path("variant").iterdir()}


def test_smp_s_encoder_holds_the_stored_weights(
    recipe: Callable[..., Names], stored: dict[str, Tensor]
) -> None:
    model = recipe("segmentation_models_pytorch", only="smp.Unet")["model"]
    assert is_stem_stored(model.encoder.model, stored)
    del stored["fc.weight"], stored["fc.bias"]
    assert_stored(model.encoder.model, stored)
    assert outputs(model, torch.randn(2, 4, 64, 64)).shape == (2, 3, 64, 64)


def test_smp_without_encoder_weights_is_random_and_says_nothing(
    stored: dict[str, Tensor],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    model = smp.Unet("tu-local-dir:variant", encoder_weights=None, in_channels=4)
    assert not is_stem_stored(model.encoder.model, stored)
    assert not caplog.records
    assert not [found for found in recwarn if found.category is UserWarning]


@pytest.mark.parametrize("given", [{}, {"in_channels": 5}])
@pytest.mark.usefixtures("names")
def test_smp_with_other_channels_is_an_error(given: dict[str, int]) -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for conv1\.0\.weight"):
        smp.Unet("tu-local-dir:variant", encoder_weights=True, **given)


@pytest.mark.usefixtures("names")
def test_smp_takes_letters_of_the_path_for_a_model() -> None:
    shutil.copytree("variant", "woodland/variant")
    with pytest.raises(IndexError):
        smp.Unet("tu-local-dir:woodland/variant", encoder_weights=True, in_channels=4)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Publish a model's 4-channel variant below the working folder, and copy it to ``variant``."""
    monkeypatch.chdir(tmp_path)

    def publish(tag: str) -> str:
        checkpoints.write_hub_repo(tmp_path / "zoo", tag)
        job = Job("run", str(tmp_path), source_root=str(tmp_path / "zoo"))
        adapted = pipeline.adapt(Request(entry(tag), counted(4)), job)
        assert isinstance(adapted, Adapted), adapted
        shutil.copytree(adapted.variants[0].folder, "variant")
        return adapted.variants[0].folder

    return publish


@pytest.mark.parametrize(
    ("tag", "error", "message"),
    [
        ("test_vit.r160_in1k", ValueError, "Unsupported model downsampling pattern"),
        ("tresnet_m.miil_in1k", AssertionError, "Return layers"),
    ],
)
def test_what_smp_can_t_take_is_an_error(
    tag: str, error: type[Exception], message: str, published: Callable[[str], str]
) -> None:
    published(tag)
    with pytest.raises(error, match=message):
        smp.Unet("tu-local-dir:variant", encoder_weights=True, in_channels=4)


def test_smp_loses_a_stage_of_a_dla_whose_path_does_not_say_so(
    published: Callable[[str], str],
) -> None:
    paths = [published("dla46_c.in1k"), "variant"]
    models = [
        smp.Unet(f"tu-local-dir:{path}", encoder_weights=True, in_channels=4) for path in paths
    ]
    reductions = [model.encoder.model.feature_info.reduction() for model in models]
    assert reductions == [[2, 4, 8, 16, 32], [1, 2, 4, 8, 16]]


def test_a_pruned_model_is_adapted_to_smp_s_three_channels(
    published: Callable[[str], str],
) -> None:
    published("efficientnet_b1_pruned.in1k")
    model = smp.Unet("tu-local-dir:variant", encoder_weights=True)
    four = safetensors.torch.load_file("variant/model.safetensors")["conv_stem.weight"]
    assert four.shape[1] == 4
    assert torch.equal(model.encoder.model.conv_stem.weight, four[:, :3] * (4 / 3))


def test_smp_s_model_is_saved_and_loads_without_the_folder(recipe: Callable[..., Names]) -> None:
    images = torch.randn(2, 4, 64, 64)
    names = recipe("segmentation_models_pytorch", only="smp.Unet")
    names["model"].save_pretrained("naive")
    before = outputs(names["model"], images)
    recipe("segmentation_models_pytorch", only="save_pretrained")
    shutil.rmtree("variant")
    after = recipe("segmentation_models_pytorch", only="from_pretrained")["model"]
    assert torch.equal(outputs(after, images), before)
    with pytest.raises(FileNotFoundError):
        smp.from_pretrained("naive")


def test_lightning_s_checkpoint_loads_without_the_folder(
    recipe: Callable[..., Names], names: Names, stored: dict[str, Tensor]
) -> None:
    names["loader"] = batches(torch.arange(4))
    task = recipe("Lightning", only="class Classifier")["task"]
    assert_stored(task.model, stored, but="fc.")
    recipe("Lightning", only="trainer.fit")
    task.cpu()
    assert not is_stem_stored(task.model, stored)  # it was trained
    assert len(task.model.pretrained_cfg["mean"]) == 4
    shutil.rmtree("variant")
    loaded = recipe("Lightning", only="load_from_checkpoint")["task"]
    assert loaded is not task
    images = torch.randn(2, 4, 64, 64)
    assert outputs(loaded.model, images).shape == (2, 10)
    assert torch.equal(outputs(loaded.model, images), outputs(task.model, images))
    assert len(loaded.model.pretrained_cfg["mean"]) == 3


def test_lightning_s_checkpoint_needs_python_s_own_int(
    recipe: Callable[..., Names], copied: Names
) -> None:
    assert not isinstance(copied["row"]["in_chans"], int)
    classifier = recipe("Lightning", only="class Classifier")["Classifier"]
    task = classifier(SMALL, copied["row"]["in_chans"], 10, "variant")
    trainer = lightning.Trainer(fast_dev_run=True, accelerator="cpu")
    trainer.fit(task, batches(torch.arange(2)))
    trainer.save_checkpoint("numpy.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        classifier.load_from_checkpoint("numpy.ckpt")
    assert classifier.load_from_checkpoint("numpy.ckpt", weights_only=False).hparams.in_chans == 4


@pytest.mark.parametrize(
    ("kind", "argument", "prefix", "target", "shape"),
    [
        ("ClassificationTask", "model", "", {"label": torch.tensor(1)}, (2, 10)),
        (
            "SemanticSegmentationTask", "backbone", "tu-",
            {"mask": torch.ones(64, 64, dtype=torch.long)}, (2, 3, 64, 64),
        ),
    ],
)  # fmt: skip
def test_torchgeo_s_checkpoint_loads_without_the_folder(
    kind: str,
    argument: str,
    prefix: str,
    target: dict[str, Tensor],
    shape: tuple[int, ...],
    recipe: Callable[..., Names],
    stored: dict[str, Tensor],
) -> None:
    names = recipe("torchgeo", only=kind)
    task = names["task"]
    if kind == "ClassificationTask":
        assert_stored(task.model, stored, but="fc.")
    else:
        encoder = {n: t for n, t in stored.items() if not n.startswith("fc.")}
        assert_stored(task.model.encoder.model, encoder)
    loader = DataLoader(Samples(target), 2)
    trainer = lightning.Trainer(fast_dev_run=True, accelerator="cpu")
    trainer.fit(task, loader, loader)
    trainer.save_checkpoint("task.ckpt")
    task.hparams[argument] = f"{prefix}local-dir:variant"
    trainer.save_checkpoint("naive.ckpt")
    shutil.rmtree("variant")
    images = torch.randn(2, 4, 64, 64)
    expected = outputs(task, images)
    assert expected.shape == shape
    assert torch.equal(outputs(names[kind].load_from_checkpoint("task.ckpt"), images), expected)
    with pytest.raises(FileNotFoundError):
        names[kind].load_from_checkpoint("naive.ckpt")
    other = names[kind].load_from_checkpoint("naive.ckpt", **{argument: f"{prefix}{SMALL}"})
    assert torch.equal(outputs(other, images), expected)


@pytest.mark.usefixtures("names")
def test_torchgeo_s_weights_must_be_true(stored: dict[str, Tensor]) -> None:
    from torchgeo.trainers import ClassificationTask

    random = ClassificationTask("local-dir:variant", weights=None, in_channels=4, num_classes=10)
    assert not is_stem_stored(random.model, stored)
    with pytest.raises(KeyError, match="hyper_parameters"):
        ClassificationTask(SMALL, "variant/model.safetensors", in_channels=4, num_classes=10)
