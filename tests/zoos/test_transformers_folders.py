"""Models of transformers in folders, as Trainer and save_pretrained leave them, through the job."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import transformers

from tests.support.jobs import Runner, ray_folder
from tests.zoos.test_transformers import FAMILIES, PROCESSOR, STAGES, SWIN, VIT, write
from zooadapt.cli.main import main
from zooadapt.reader.mirror import open_mirror
from zooadapt.zoos import registry
from zooadapt.zoos.hf import configs

FOUR = {"depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2]}
DETR = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 5,
}  # fmt: skip
MASKS = {
    "hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "encoder_layers": 1,
    "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16,
    "encoder_feedforward_dim": 16,
}  # fmt: skip


def processors(root: Path) -> None:
    """Folders that state mean and std in each of the forms that AutoImageProcessor reads."""
    nested = {"image_mean": [0.11, 0.22, 0.33], "image_std": [0.44, 0.55, 0.66]}
    stated: dict[str, dict[str, Any]] = {
        "clip": {"processor_config.json": {"image_processor": {**PROCESSOR, **nested}}},
        "both": {
            "processor_config.json": {"processor_class": "CLIPProcessor"},
            "preprocessor_config.json": {**PROCESSOR, **nested},
        },
        "by-class": {"preprocessor_config.json": {"image_processor_type": "CLIPImageProcessor"}},
        "extractor": {
            "preprocessor_config.json": {"feature_extractor_type": "ViTFeatureExtractor"}
        },
        "silent": {},
    }
    for name, files in stated.items():
        kind = "clip/vision" if name in ("clip", "both") else "google/vit-tiny"
        folder = write(root, f"processors/{name}", *FAMILIES[kind])
        (folder / "preprocessor_config.json").unlink()
        for file, content in files.items():
            (folder / file).write_text(json.dumps(content))


def kinds(root: Path) -> None:
    """Models that draw random numbers, or read values before they give an output."""
    torch.manual_seed(0)
    of: Any = transformers
    of.ViTMAEModel(of.ViTMAEConfig(**VIT)).save_pretrained(root / "mae")
    resnet = of.ResNetConfig(embedding_size=8, **STAGES, out_features=["stage4"])
    detr = of.DetrConfig(use_timm_backbone=False, backbone_config=resnet, **DETR)
    of.DetrForObjectDetection(detr).save_pretrained(root / "detr")
    stages = [f"stage{number}" for number in range(1, 5)]
    swin = of.SwinConfig(**{**SWIN, **FOUR}, image_size=64, out_features=stages)
    masks = of.Mask2FormerConfig(backbone_config=swin, **MASKS)
    of.Mask2FormerForUniversalSegmentation(masks).save_pretrained(root / "mask2former")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    processors(root)
    kinds(root)
    write(root, "run1/checkpoint-500", *FAMILIES["google/vit-tiny"])
    write(root, "grey", "ViTForImageClassification", {**VIT, "num_channels": 1})
    named = write(root, "bands", *FAMILIES["google/vit-tiny"]) / "config.json"
    colours = {"bands": ["B04", "B03", "B02"]}
    named.write_text(json.dumps({**json.loads(named.read_text()), **colours}))
    return root


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("made") / "mirror"
    with ray_folder() as env:
        done = Runner(env).job("--zoo", f"transformers:{root}", "--chans", "4", "--dest", str(dest))
    assert done.returncode == 0, done.stdout + done.stderr
    return dest


def rows(made: Path, table: str = "manifest") -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in pq.read_table(made / f"{table}.parquet").to_pylist()}


def test_every_folder_at_any_depth_is_proved_but_one(made: Path) -> None:
    found = rows(made)
    assert all(row["equivalent"] for row in found.values())
    assert {*found} == {
        "processors/clip", "processors/both", "processors/by-class", "processors/extractor",
        "processors/silent", "detr", "mask2former", "run1/checkpoint-500", "grey", "bands",
    }  # fmt: skip
    (failed,) = rows(made, "failures").values()
    assert (failed["model"], failed["status"]) == ("mae", "unsupported")
    assert failed["error"].startswith("the model gives different outputs for the same image")


@pytest.mark.parametrize(
    ("model", "mean", "std"),
    [
        ("clip", [0.11, 0.22, 0.33], [0.44, 0.55, 0.66]),
        ("both", [0.11, 0.22, 0.33], [0.44, 0.55, 0.66]),
        ("by-class", [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
        ("extractor", [0.5] * 3, [0.5] * 3),
    ],
)
def test_mean_and_std_are_those_that_transformers_would_use(
    model: str, mean: list[float], std: list[float], made: Path, root: Path
) -> None:
    row = rows(made)[f"processors/{model}"]
    assert row["input_mean"] == pytest.approx([*mean, mean[0]])  # four channels: R, G, B, R
    assert row["input_std"] == pytest.approx([*std, std[0]])
    processor = transformers.AutoImageProcessor.from_pretrained(root / "processors" / model)
    assert processor.image_mean == pytest.approx(mean)
    written = json.loads((made / row["folder"] / "preprocessor_config.json").read_text())
    assert written["image_mean"] == pytest.approx(row["input_mean"])


def test_where_nothing_is_stated_nothing_is_invented(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = rows(made)["processors/silent"]
    assert row["input_mean"] is None
    assert row["input_std"] is None
    assert not (made / row["folder"] / "preprocessor_config.json").exists()
    assert main(["show", "processors/silent", "--mirror", str(made)]) == 0
    assert "not stated" in capsys.readouterr().out
    columns = ["--columns", "model,input_mean"]
    assert main(["ls", "processors/*", *columns, "--mirror", str(made)]) == 0
    assert "processors/silent     not stated" in capsys.readouterr().out
    folder = open_mirror(str(made)).pull("processors/silent", 6)  # derived from the one for 4
    assert not (folder / "preprocessor_config.json").exists()
    assert main(["verify", str(made)]) == 0


def test_three_values_for_one_channel_are_averaged(root: Path) -> None:
    (entry,) = [e for e in registry.list_models(f"transformers:{root}") if e.name == "grey"]
    assert registry.facts(entry).mean == pytest.approx([0.2])


def test_bands_are_named_as_in_other_zoos(made: Path) -> None:
    config = json.loads((made / rows(made)["bands"]["folder"] / "config.json").read_text())
    assert [band["name"] for band in config["zooadapt"]["source"]["bands"]] == ["B04", "B03", "B02"]


def test_a_variant_that_was_tuned_keeps_its_bands_and_goes_in_again(
    made: Path, tmp_path: Path
) -> None:
    folder = made / rows(made)["run1/checkpoint-500"]["folder"]
    model = transformers.ViTForImageClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path / "zoo" / "tuned")
    command = ["adapt", "--zoo", f"transformers:{tmp_path / 'zoo'}", "--chans", "8", "--dry-run"]
    assert main([*command, "--dest", str(tmp_path / "mirror")]) == 0
    assert main(["check", str(tmp_path / "zoo" / "tuned"), "--chans", "8"]) == 0
    config = {**json.loads((folder / "config.json").read_text()), "num_channels": 4}
    config["zooadapt"]["bands"] = ["R", "G", "B", "NIR"]
    assert configs.facts(config, {}).bands.names == ("R", "G", "B", "NIR")
