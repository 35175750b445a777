"""Checkpoints as people really have them: whatever their scripts saved, through the job."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import AutoModelForImageClassification, TimmWrapperForImageClassification

from jobs.measure import seeded
from tests.support import fine_tuned
from tests.support.jobs import Runner, ray_folder
from zooadapt import bands, pipeline
from zooadapt.cli.main import main
from zooadapt.mirror import manifest
from zooadapt.reader.mirror import open_mirror
from zooadapt.stores.opening import open_store
from zooadapt.targets import Bands, Target
from zooadapt.types import Job, Request
from zooadapt.zoos import registry

B4 = "R,G,B,NIR"
S2 = bands.preset("sentinel2-l2a")


def network(chans: int = 3) -> nn.Module:
    return seeded.model(
        lambda: timm.create_model("test_resnet", num_classes=5, in_chans=chans), (chans, 160, 160)
    )


def saved(folder: Path, content: Any) -> None:
    """Put what a script saved in the place of a folder's weights."""
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


def variant_of(folder: Path, dest: Path, target: Target) -> Path:
    """The folder of a variant of the one checkpoint below `folder`."""
    (entry,) = registry.list_models(f"folder:{folder}")
    summary = pipeline.make(Request(entry, (target,)), Job("run", str(dest)))
    assert summary.made, summary.failures
    (row,) = manifest.compact(open_store(str(dest))).usable
    return dest / str(row["folder"])


def tuned(variant: Path) -> nn.Module:
    """A variant as timm loads it for other classes, with its weights changed a little."""
    model: nn.Module = timm.create_model(f"local-dir:{variant}", pretrained=True, num_classes=3)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def again(root: Path, dest: Path) -> None:
    """Variants that were fine-tuned and saved, in three ways."""
    base = fine_tuned.write(dest / "base", num_classes=5)
    four = variant_of(base, dest / "four", *[Target(Bands.counted(4), "repeat")])
    save_for_hf(tuned(four), str(root / "again" / "hf"), safe_serialization=True)
    shutil.copytree(four, root / "again" / "beside")
    state = {k: v for k, v in tuned(four).state_dict().items() if not k.startswith("fc")}
    old = safetensors.torch.load_file(four / "model.safetensors")
    safetensors.torch.save_file({**old, **state}, root / "again" / "beside" / "model.safetensors")
    named = variant_of(base, dest / "named", Target(bands.parse(B4), "nearest"))
    save_for_hf(tuned(named), str(root / "again" / "bands"), safe_serialization=True)
    wrapped = AutoModelForImageClassification.from_pretrained(four)
    wrapped.save_pretrained(root / "again" / "transformers")


def declared(root: Path) -> None:
    """What config.json leaves out, or says in other words."""
    plain = fine_tuned.write(root / "without" / "first_conv", num_classes=5)
    config = json.loads((plain / "config.json").read_text())
    del config["pretrained_cfg"]["first_conv"]
    (plain / "config.json").write_text(json.dumps(config))
    flat = fine_tuned.write(root / "without" / "nesting", num_classes=5)
    config = json.loads((flat / "config.json").read_text())
    cfg = config.pop("pretrained_cfg")
    cfg.pop("first_conv")
    config.pop("model_args", None)
    (flat / "config.json").write_text(json.dumps({**config, **cfg}))
    fine_tuned.write(root / "null", num_classes=5, changes={"model_args": None})
    wrong = fine_tuned.write(root / "bad" / "declared", num_classes=5)
    fine_tuned.edit(wrong, {}, {"first_conv": "layer1.0.conv1"})
    colours = ["B04", "B03", "B02"]
    fine_tuned.write(root / "bands" / "names", num_classes=5, changes={"bands": colours})
    fine_tuned.write(
        root / "bands" / "preset", num_classes=5, in_chans=12, changes={"bands": S2.label}
    )
    fine_tuned.write(root / "bad" / "bands", num_classes=5, changes={"bands": ["B04", "Q", "B02"]})


def scripts(root: Path) -> None:
    """What training scripts save beside the weights, or around them."""
    model = network()
    state = model.state_dict()
    averaged = AveragedModel(model)
    profiled = {**state, "conv1.0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}
    lightning = {f"model.{name}": tensor for name, tensor in state.items()}
    contents: dict[str, Any] = {
        "lightning": {"state_dict": lightning, "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        "ignite": {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
        "swa": averaged.state_dict(),
        "thop": profiled,
        "compiled": {name.replace("layer2.", "layer2._orig_mod."): t for name, t in state.items()},
        "nested": {"checkpoint": {"model": state, "epoch": 3}},
        "bad/headless": {name: t for name, t in state.items() if not name.startswith("fc.")},
        "bad/adapters": {f"base.{name}": t for name, t in state.items() if "fc" not in name}
        | {"base.fc.lora_A": torch.ones(1)},
        "bad/beside": {"state_dict": {**lightning, "criterion.weight": torch.ones(5)}},
        "bad/twice": {"student": state, "teacher": state},
        "bad/numpy": {"state_dict": state, "best": np.float64(0.9)},
        "bad/path": {"state_dict": state, "where": Path("here")},
    }
    for name, content in contents.items():
        saved(fine_tuned.write(root / name, num_classes=5), content)


def files(root: Path) -> None:
    """Files that aren't what they seem, or hold unusual values."""
    pointer = fine_tuned.write(root / "bad" / "lfs", num_classes=5) / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    split = fine_tuned.write(root / "bad" / "split", num_classes=5)
    (split / "model.safetensors").rename(split / "model-00001-of-00001.safetensors")
    (split / "model.safetensors.index.json").write_text("{}")
    four = fine_tuned.write(root / "bad" / "channels", num_classes=5, in_chans=4)
    size = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3}
    fine_tuned.edit(four, {"model_args": {}}, size)
    endless = fine_tuned.write(root / "endless", num_classes=5) / "model.safetensors"
    tensors = safetensors.torch.load_file(endless)
    tensors["layer4.0.bn1.running_var"][:3] = torch.inf  # a buffer: these channels give the bias
    safetensors.torch.save_file(tensors, endless)
    infinite = fine_tuned.write(root / "bad" / "infinite", num_classes=5) / "model.safetensors"
    tensors["fc.weight"][0, 0] = torch.inf
    safetensors.torch.save_file(tensors, infinite)


def layers(root: Path) -> None:
    """A ViT with a class of timm's layers as an argument, as pathology models have it."""
    arguments = {"mlp_layer": timm.layers.SwiGLUPacked, "mlp_ratio": 4.0, "num_classes": 5}
    model = seeded.model(lambda: timm.create_model("test_vit", **arguments), (3, 160, 160))
    named = {**arguments, "mlp_layer": "SwiGLUPacked"}
    save_for_hf(model, str(root / "swiglu"), model_args=named, safe_serialization=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own") / "zoo"
    again(root, tmp_path_factory.mktemp("first"))
    declared(root)
    scripts(root)
    files(root)
    layers(root)
    return root


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("made") / "mirror"
    with ray_folder() as env:
        done = Runner(env).job("--zoo", f"folder:{root}", "--chans", "1,8", "--dest", str(dest))
    assert done.returncode == 1, done.stdout + done.stderr
    return dest


def rows(made: Path, table: str = "manifest") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(made / f"{table}.parquet").to_pylist()
    return found


def row(made: Path, model: str, chans: int = 8) -> dict[str, Any]:
    (found,) = [r for r in rows(made) if (r["model"], r["in_chans"]) == (model, chans)]
    return found


def failure(made: Path, model: str) -> str:
    return str(next(r["error"] for r in rows(made, "failures") if r["model"] == model))


def config_of(made: Path, model: str) -> dict[str, Any]:
    text = (made / row(made, model)["folder"] / "config.json").read_text()
    read: dict[str, Any] = json.loads(text)
    return read


def test_all_that_is_good_is_proved_and_all_else_said(made: Path) -> None:
    found = rows(made)
    assert all(row["equivalent"] for row in found)
    good = {
        "again/hf", "again/beside", "again/bands", "again/transformers", "without/first_conv",
        "without/nesting", "null", "bands/names", "lightning", "ignite", "swa", "thop", "endless",
        "swiglu", "compiled", "nested",
    }  # fmt: skip
    assert {row["model"] for row in found} >= good
    assert {row["model"] for row in rows(made, "failures")} - {"bands/preset"} == {
        f"bad/{name}"
        for name in (
            "declared", "bands", "beside", "twice", "numpy", "path", "lfs", "split", "channels",
            "infinite", "headless", "adapters",
        )
    }  # fmt: skip


@pytest.mark.parametrize("model", ["again/hf", "again/beside", "again/transformers"])
def test_what_comes_out_goes_in_again(model: str, made: Path) -> None:
    source = config_of(made, model)["zooadapt"]["source"]
    assert len(source["bands"]) == len(source["mean"]) == 4
    loaded = timm.create_model(f"local-dir:{made / row(made, model)['folder']}", pretrained=True)
    assert loaded.conv1[0].weight.shape[1] == 8


def test_the_names_of_bands_survive(made: Path) -> None:
    source = config_of(made, "again/bands")["zooadapt"]["source"]
    assert [band["name"] for band in source["bands"]] == B4.split(",")
    assert source["bands"][3]["wavelength"] > 800


@pytest.mark.parametrize(("model", "names"), [("bands/names", ("B04", "B03", "B02"))])
def test_bands_are_named_as_on_the_command_line(
    model: str, names: tuple[str, ...], made: Path, root: Path
) -> None:
    source = config_of(made, model)["zooadapt"]["source"]
    known = {band.name: band.wavelength for band in S2.channels}
    assert {b["name"]: b["wavelength"] for b in source["bands"]} == {n: known[n] for n in names}
    (entry,) = [e for e in registry.list_models(f"folder:{root}") if e.name == "bands/preset"]
    assert registry.facts(entry).bands.names == S2.names


@pytest.mark.parametrize(
    ("model", "note"),
    [
        ("lightning", "its state_dict, without the prefix model."),
        ("ignite", "its model_state_dict"),
        ("nested", "its checkpoint.model"),
        ("compiled", None),
        ("swa", "without the prefix module., without the counters n_averaged"),
        ("thop", "without the counters conv1.0.total_ops, total_params"),
    ],
)
def test_what_scripts_save_is_found_and_said(
    model: str, note: str | None, made: Path, root: Path
) -> None:
    found = row(made, model)
    assert found["source_note"] == note
    body = safetensors.torch.load_file(made / found["folder"] / "model.safetensors")
    assert torch.equal(body["fc.weight"], network().state_dict()["fc.weight"])
    assert row(made, "null")["source_note"] is None


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("bad/declared", ["conv1.0.weight", "but the model declares layer1.0.conv1.weight"]),
        ("bad/bands", ["its key bands: no preset has all of B04, Q, B02"]),
        ("bad/beside", ["under 'model.', beside criterion.weight", "model.state_dict()"]),
        ("bad/twice", ["under student and teacher: save the one that you want"]),
        ("bad/numpy", ["would run code", "if it is yours save the weights alone"]),
        ("bad/path", ["would run code", "safetensors.torch.save_file(model.state_dict()"]),
        ("bad/lfs", ["is a git-LFS pointer", "run git lfs pull"]),
        ("bad/split", ["split into several files", "max_shard_size"]),
        ("bad/channels", ["conv1.0.weight reads 4 channels", '"model_args": {"in_chans": 4}']),
        ("bad/headless", ["lacks fc.bias, fc.weight", 'state "num_classes": 0 in its config.json']),
        ("bad/adapters", ["peft's merge_and_unload()"]),
        ("bad/infinite", ["fc.weight has NaN or infinite values"]),
    ],
)
def test_a_refusal_says_what_to_do(model: str, words: list[str], made: Path) -> None:
    told = failure(made, model)
    for each in words:
        assert each in told


def test_layers_that_are_named_are_built_and_loaded(made: Path, root: Path) -> None:
    found = row(made, "swiglu")
    assert not found["min_timm"], "timm alone can't"
    model: Any = open_mirror(str(made)).load("swiglu", 8)
    assert type(model.blocks[0].mlp).__name__ == "GluMlp"
    assert model.patch_embed.proj.weight.shape[1] == 8


@pytest.mark.parametrize("model", ["null", "again/hf", "lightning"])
def test_transformers_opens_the_variant_too(model: str, made: Path) -> None:
    folder = made / row(made, model)["folder"]
    theirs = AutoModelForImageClassification.from_pretrained(folder)
    assert isinstance(theirs, TimmWrapperForImageClassification)
    image = torch.randn(1, 8, 160, 160, generator=torch.Generator().manual_seed(1))
    ours = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert all(
        map(torch.equal, theirs.timm_model.state_dict().values(), ours.state_dict().values())
    )
    with torch.inference_mode():
        torch.testing.assert_close(theirs.eval()(image).logits, ours(image))


def test_a_name_of_an_older_timm_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["adapt", "--chans", "4", "--models", "tf_efficientnet_b0_ns", "--dry-run"]
    assert main([*command, "--dest", str(tmp_path)]) == 0
    assert "plan: 1 model, 1 variant to make" in capsys.readouterr().out


# One checkpoint, without Ray


def test_one_checkpoint_is_checked(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", lambda **of: pytest.fail("no Ray is needed"))
    assert main(["check", str(root / "lightning"), "--chans", "1,4"]) == 0
    told = capsys.readouterr().out
    for words in (
        "lightning of the zoo folder can be adapted", "conv1.0.weight",
        "proved       1, 4 channels", "without the prefix model.",
    ):  # fmt: skip
        assert words in told
    assert main(["check", str(root / "bad" / "lfs")]) == 1
    assert "can't be adapted" in (told := capsys.readouterr().out)
    assert "run git lfs pull" in told


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("resnet5O", "is no folder, no repository on the Hub (OWNER/NAME) and no model of timm"),
        (__file__, "is a file: give the folder that holds it"),
    ],
)
def test_what_is_no_checkpoint_is_said(
    what: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", what]) == 2
    assert words in capsys.readouterr().err
