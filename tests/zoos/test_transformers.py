"""Models of transformers: listed, adapted, and loaded again by transformers alone."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from torch import nn

import zooadapt
from jobs.measure import seeded
from tests.support import docs
from tests.support.hub import LoopbackHub, serving
from tests.support.pipelines import counted, run
from zooadapt import pipeline
from zooadapt.errors import CheckpointError, FetchError, RunError, Unsupported, UsageError
from zooadapt.types import Job, Listing, ModelEntry, ModelSummary, Request, Row
from zooadapt.zoos import registry
from zooadapt.zoos.hf import configs, models
from zooadapt.zoos.hf.transformers import TransformersZoo
from zooadapt.zoos.own import id_lists

LOAD, CREATE = docs.blocks(docs.section("zooadapt/reader", "transformers"), "python")
"""The examples in the README for readers; `image` is an array of (channels, height, width)."""
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VIT = {"hidden_size": 32, "image_size": 32, "patch_size": 8, **LAYERS}
STAGES = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "google/vit-tiny": ("ViTForImageClassification", VIT),
    "microsoft/swin-small.1": ("SwinForImageClassification", SWIN | {"image_size": 32}),
    "facebook/convnext": ("ConvNextForImageClassification", STAGES),
    "microsoft/beit": (
        "BeitForImageClassification",
        VIT | {"use_relative_position_bias": True, "layer_scale_init_value": 0.5},
    ),
    "facebook/dinov2": ("Dinov2Model", {**VIT, "mlp_ratio": 2}),
    "facebook/dinov2-backbone": ("Dinov2Backbone", {**VIT, "mlp_ratio": 2}),
    "nvidia/segformer": (
        "SegformerForSemanticSegmentation",
        STAGES | {"num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
    ),
    "nvidia/mit": (
        "SegformerForImageClassification",
        STAGES | {"num_attention_heads": [1, 1, 2, 2]},
    ),
    "microsoft/resnet": ("ResNetForImageClassification", {"embedding_size": 8, **STAGES}),
    "clip/vision": (
        "CLIPForImageClassification",
        {
            "vision_config": VIT | {"projection_dim": 32},
            "text_config": LAYERS | {"hidden_size": 32},
        },
    ),
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}
README = "---\nlicense: apache-2.0\ntags:\n- vision\n---\n# A model\n"


def write(root: Path, name: str, kind: str, options: dict[str, Any]) -> Path:
    """A repository with a tiny model of random weights that let the image through."""
    config = getattr(transformers, kind).config_class(num_labels=5, **options)
    model: Any = seeded.model(lambda: Images(kind, config), (3, 32, 32))
    folder = root / name
    model.inner.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    (folder / "README.md").write_text(README)
    return folder


class Images(nn.Module):
    """A wrapper by which `seeded` can call a model of transformers with images alone."""

    def __init__(self, kind: str, config: Any) -> None:
        super().__init__()
        self.inner = getattr(transformers, kind)(config)

    def forward(self, images: torch.Tensor) -> Any:
        return self.inner(images)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each of FAMILIES and a list of their ids; a source root or a hub."""
    root = tmp_path_factory.mktemp("repos")
    for name, (kind, options) in FAMILIES.items():
        write(root, name, kind, options)
    (root / "ids.txt").write_text("# some\n" + "\n".join(FAMILIES) + "  # the last\n\n")
    return root


@pytest.fixture
def hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with serving(root) as hub:
        for name, value in hub.env.items():
            monkeypatch.setenv(name, value)
        yield hub


def listed(root: Path, *names: str) -> list[ModelEntry]:
    """The models of these names, as the zoo lists them below a source root."""
    file = root / "some.txt"
    file.write_text("\n".join(names))
    return registry.list_models(f"transformers:{file}", str(root))


def changed(root: Path, to: Path, name: str, **changes: Any) -> ModelEntry:
    """A copy of a repository whose config has been changed."""
    folder = to / name
    shutil.copytree(root / name, folder)
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return listed(to, name)[0]


def failed(entry: ModelEntry, root: Path, dest: Path) -> str:
    """Why a model isn't in the mirror."""
    job = Job("run", str(dest), source_root=str(root))
    summary = pipeline.adapt(Request(entry, counted(4)), job)
    assert isinstance(summary, ModelSummary)
    (failure,) = summary.failures
    return f"{failure.status}: {failure.error}"


def auto(kind: str) -> Any:
    """The Auto class that finds a class by its config; AutoBackbone takes no folder in 5.24."""
    if kind.endswith("ForImageClassification"):
        return transformers.AutoModelForImageClassification
    if kind.endswith("ForSemanticSegmentation"):
        return transformers.AutoModelForSemanticSegmentation
    return getattr(transformers, kind if kind.endswith("Backbone") else "AutoModel")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_variant_is_equivalent_and_loads_in_transformers(
    name: str, root: Path, tmp_path: Path
) -> None:
    (entry,) = listed(root, name)
    rows = run(entry, counted(1, 3, 4, 8), root, tmp_path)
    assert [row["in_chans"] for row in rows] == [1, 3, 4, 8]
    for row in rows:
        assert row["equivalent"], row
        assert row["equivalence_error"] < 1e-4 < 0.01 < row["control_error"]
        assert row["model"] == name
        assert row["license"] == "apache-2.0"
        assert (row["input_height"], row["input_width"]) == (32, 32)
        check_loads(tmp_path / row["folder"], FAMILIES[name][0], row)
    assert rows[0]["num_classes"] == (5 if "For" in FAMILIES[name][0] else 0)
    assert rows[2]["input_mean"] == pytest.approx([0.1, 0.2, 0.3, 0.1])


def test_the_mirror_is_verified_deeply(root: Path, tmp_path: Path) -> None:
    run(listed(root, "nvidia/segformer")[0], counted(1, 4), root, tmp_path)
    assert zooadapt.open_mirror(str(tmp_path)).verify(deep=True).empty


def check_loads(folder: Path, kind: str, row: Row) -> None:
    """transformers gives a model of N channels with exactly what is stored, and nothing random."""
    model, report = auto(kind).from_pretrained(str(folder), output_loading_info=True)
    assert type(model).__name__ == kind
    assert not any(report.values()), report
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    model.save_pretrained(folder.parent / "again")
    again = safetensors.torch.load_file(folder.parent / "again" / "model.safetensors")
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[key], again[key]) for key in stored)
    with torch.inference_mode():
        output = model(torch.rand(2, row["in_chans"], 32, 32))
    assert all(value.isfinite().all() for value in output.values() if torch.is_tensor(value))


def test_what_three_channels_give_is_what_the_original_gives(root: Path, tmp_path: Path) -> None:
    """Outputs can only be equal if the buffers that no file holds have their values too."""
    name = "microsoft/swin-small.1"
    rows = run(listed(root, name)[0], counted(3, 1), root, tmp_path / "mirror")
    original = transformers.AutoModelForImageClassification.from_pretrained(root / name)
    images = torch.rand(2, 3, 32, 32)
    for chans, given in ((3, images), (1, images[:, :1])):
        model = zooadapt.create_model(
            f"transformers/{name}", in_chans=chans, mirror=str(tmp_path / "mirror")
        ).eval()
        assert type(model) is type(original)
        wanted = images if chans == 3 else given.expand_as(images)
        with torch.inference_mode():
            assert torch.allclose(model(given).logits, original.eval()(wanted).logits, atol=1e-4)
    assert [row["min_timm"] for row in rows] == ["", ""]


def test_what_the_mirror_lacks_is_made_and_options_are_transformers(
    root: Path, tmp_path: Path
) -> None:
    name, mirror = "nvidia/mit", str(tmp_path / "mirror")
    run(listed(root, name)[0], counted(4), root, tmp_path / "mirror")
    made = zooadapt.create_model(f"transformers/{name}", in_chans=5, mirror=mirror)
    assert made(torch.rand(1, 5, 32, 32)).logits.shape == (1, 5)
    few = zooadapt.create_model(
        name, in_chans=4, mirror=mirror, num_labels=2, ignore_mismatched_sizes=True
    )
    assert few(torch.rand(1, 4, 32, 32)).logits.shape == (1, 2)
    with pytest.raises(UsageError, match="transformers refuses num_labels"):
        zooadapt.create_model(name, in_chans=4, mirror=mirror, num_labels=2)


def test_its_image_processor_takes_arrays_of_n_channels(root: Path, tmp_path: Path) -> None:
    (row,) = run(listed(root, "google/vit-tiny")[0], counted(4), root, tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / row["folder"])
    assert list(processor.image_mean) == pytest.approx([0.1, 0.2, 0.3, 0.1])
    assert list(processor.image_std) == pytest.approx([0.4, 0.5, 0.6, 0.4])
    image = np.full((4, 40, 48), 255, np.uint8)
    inputs = processor(image, input_data_format="channels_first", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 4, 32, 32)
    wanted = [(1 - m) / s for m, s in zip(row["input_mean"], row["input_std"], strict=True)]
    assert inputs["pixel_values"][0, :, 5, 5].tolist() == pytest.approx(wanted, abs=1e-5)


def test_the_readmes_examples_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "google/vit-base-patch16-224"
    shutil.copytree(root / "google/vit-tiny", tmp_path / "repos" / name)
    (entry,) = listed(tmp_path / "repos", name)
    (row,) = run(entry, counted(4), tmp_path / "repos", tmp_path / "mirror")
    shutil.copytree(tmp_path / "mirror" / row["folder"], tmp_path / "variant")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOOADAPT_MIRROR", "mirror")
    names: dict[str, Any] = {"image": np.zeros((4, 60, 50), np.uint8)}
    exec(LOAD, names)
    exec(CREATE, names)
    with torch.inference_mode():
        logits = names["model"].eval()(**names["inputs"]).logits
    assert torch.allclose(logits, names["logits"], atol=1e-6)


def test_half_precision_is_kept(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repos/a/half"
    model = transformers.AutoModelForImageClassification.from_pretrained(root / "google/vit-tiny")
    model.half().save_pretrained(folder)
    (row,) = run(listed(tmp_path / "repos", "a/half")[0], counted(4), tmp_path / "repos", tmp_path)
    assert row["weights_dtype"] == "float16"
    assert row["input_mean"] is None  # it has no preprocessor_config.json
    assert row["license"] is None
    check_half = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / row["folder"]
    )
    assert check_half.dtype == torch.float16


def test_old_names_are_understood_and_computed_buffers_ignored(root: Path, tmp_path: Path) -> None:
    """Older releases wrote such names, and pytorch_model.bin instead of model.safetensors."""
    name = "microsoft/swin-small.1"
    shutil.copytree(root / name, tmp_path / name)
    file = tmp_path / name / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    file.unlink()
    block = "swin.encoder.layers.0.blocks.0"
    old = {f"{block}.attention.self.relative_position_index": torch.zeros(16, 16).long()}
    torch.save(tensors | old, tmp_path / name / "pytorch_model.bin")
    new, was = (
        run(listed(place, name)[0], counted(4), place, tmp_path / place.name)
        for place in (tmp_path, root)
    )
    assert new[0]["sha256"] == was[0]["sha256"]


def test_a_checkpoint_that_lacks_something_fails(root: Path, tmp_path: Path) -> None:
    name = "google/vit-tiny"
    entry = changed(root, tmp_path, name)
    file = tmp_path / name / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["surplus"] = tensors.pop("classifier.bias")
    safetensors.torch.save_file(tensors, file)
    assert "the checkpoint has tensors the model doesn't: surplus" in failed(
        entry, tmp_path, tmp_path / "mirror"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"architectures": ["EvilModel"], "auto_map": {"AutoModel": "evil.EvilModel"}},
            "unsupported: EvilModel is no model of transformers .*, and no code from a repository",
        ),
        ({"architectures": ["Trainer"]}, "unsupported: Trainer is no model"),
        ({"architectures": []}, "unsupported: its config names no class"),
        ({"architectures": ["BertModel"]}, "unsupported: BertModel takes input_ids"),
        ({"model_type": "evil"}, "unsupported: .* knows no model_type 'evil'"),
        (
            {"model_type": "swin"},
            "unsupported: ViTForImageClassification isn't of the model_type",
        ),
        (
            {
                "model_type": "textnet",
                "architectures": ["TextNetForImageClassification"],
                "num_channels": None,
            },
            "unsupported: its config has no num_channels",
        ),
        (
            {"model_type": "hgnet_v2", "architectures": ["HGNetV2ForImageClassification"]},
            "unsupported: the model needs 3 channels outside its stem too",
        ),
        (
            {"backbone": "resnet50"},
            "unsupported: its backbone, 'resnet50', stands for a model of another library",
        ),
        (
            {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]},
            "unsupported: its model_type, 'timm_wrapper', stands for a model of another library",
        ),
        (
            {
                "model_type": "upernet",
                "architectures": ["UperNetForSemanticSegmentation"],
                "backbone_config": {"model_type": "timm_backbone"},
            },
            "unsupported: its model_type, 'timm_backbone', stands for a model of another library",
        ),
        (
            {"hidden_size": 10**9},
            "failed: google/vit-tiny: hidden_size is 1000000000, and no model is that large",
        ),
    ],
)
def test_what_is_no_model_for_images_of_n_channels_is_said(
    changes: dict[str, Any], why: str, root: Path, tmp_path: Path
) -> None:
    entry = changed(root, tmp_path, "google/vit-tiny", **changes)
    (tmp_path / "google/vit-tiny/evil.py").write_text("raise SystemExit('it ran')")
    assert re.match(why, failed(entry, tmp_path, tmp_path / "mirror"))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 20_000_000),
        ("hidden_size", 10**9),
        ("image_size", [32, 10**6]),
        ("num_labels", float("nan")),
    ],
)
def test_a_number_that_no_model_has_is_said_before_anything_is_made(
    key: str, value: Any, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even transformers' config is made: its lists can be as long as the number says."""
    config = {"model_type": "dinov2", **VIT, key: value}
    config = {"model_type": "upernet", "backbone_config": config} if inside else config
    monkeypatch.setattr(configs, "CONFIG_MAPPING", {"dinov2": None, "upernet": None})
    with pytest.raises(CheckpointError, match=f"^{key} is .*, and no model is that large"):
        configs.facts(config, {})


def test_a_config_within_may_be_left_to_its_types_defaults() -> None:
    for kind in ("CLIPForImageClassification", "UperNetForSemanticSegmentation"):
        config_class = getattr(transformers, kind).config_class
        config = {"model_type": config_class.model_type, "architectures": [kind]}
        with torch.device("meta"):
            assert models.built(configs.with_channels(config, 4))


def test_images_that_no_model_takes_are_said() -> None:
    with pytest.raises(
        CheckpointError, match=r"takes images of \(channels, height, width\) = \(3, 60000, 60000\)"
    ):
        configs.facts({"model_type": "vit", "image_size": 60_000}, {})
    with pytest.raises(CheckpointError, match="no model takes images of"):
        configs.facts({"model_type": "vit"}, {"size": 10**9})


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModel": "evil.EvilModel"}},
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel"},
        {"experts_implementation": "evil/kernel"},
        {"use_kernels": True},
    ],
)
def test_what_would_have_code_run_is_not_written(
    changes: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    name = "google/vit-tiny"
    entry = changed(root, tmp_path, name, **changes)
    (row,) = run(entry, counted(4), tmp_path, tmp_path / "mirror")
    written = (tmp_path / "mirror" / row["folder"] / "config.json").read_text()
    assert not changes.keys() & json.loads(written).keys()


def test_from_the_hub(hub: LoopbackHub, root: Path, tmp_path: Path) -> None:
    """The Hub gives the same entries as a source root, with one request for each file."""
    entries = registry.list_models(f"transformers:{root / 'ids.txt'}")
    assert entries == registry.list_models(f"transformers:{root / 'ids.txt'}", str(root))
    assert [entry.name for entry in entries] == list(FAMILIES)
    assert len(hub.asked) == 4 * len(FAMILIES)
    job = Job("run", str(tmp_path))
    adapted = pipeline.adapt(Request(entries[0], counted(4)), job)
    assert not isinstance(adapted, ModelSummary), adapted
    assert not pipeline.prove(adapted, job).failures


def test_an_id_that_is_not_there_is_a_failure_of_its_own(
    hub: LoopbackHub, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "ids").write_text("no/such\ngoogle/vit-tiny\ngoogle/vit-tiny@v2\n")
    absent, there, revision = registry.list_models(f"transformers:{tmp_path / 'ids'}")
    with pytest.raises(FetchError, match="hf://no/such isn't there, or is private"):
        TransformersZoo().build(absent, 3)
    with pytest.raises(FetchError, match="isn't there"):
        TransformersZoo().build(revision, 3)
    with pytest.raises(FetchError, match="hf://no/such isn't there"):
        TransformersZoo().facts(absent)
    assert TransformersZoo().build(there, 4)
    assert failed(absent, tmp_path, tmp_path / "mirror") == (
        "failed: hf://no/such isn't there, or is private and needs HF_TOKEN"
    )


def test_a_gated_repository_needs_a_token(
    hub: LoopbackHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_right"
    (repo,) = id_lists.read(["google/vit-tiny"], Listing(), ["config.json"])
    assert "is gated: accept its terms at " in repo.error
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    (repo,) = id_lists.read(["google/vit-tiny"], Listing(), ["config.json", "absent.json"])
    assert not repo.error
    assert json.loads(repo.texts["config.json"] or "")["architectures"]
    assert repo.texts["absent.json"] is None


def test_no_answer_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="doesn't answer"):
        id_lists.read(["a/b"], Listing(), ["config.json"])


def test_a_file_that_is_too_large_is_not_read(hub: LoopbackHub, root: Path, tmp_path: Path) -> None:
    folder = root / "large/one"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(b" " * (2**22 + 1))
    for listing in (Listing(), Listing(source_root=str(root))):
        (repo,) = id_lists.read(["large/one"], listing, ["config.json"])
        assert "is too large to be read, over 4 MiB" in repo.error


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a/b\nresnet50", "line 2: 'resnet50' isn't owner/name"),
        ("a/../b", "isn't owner/name"),
        ("https://huggingface.co/a/b", "isn't owner/name"),
        ("# nothing\n", "lists no repository"),
    ],
)
def test_a_list_that_is_none(text: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text(text)
    with pytest.raises(UsageError, match=error):
        id_lists.names(Listing(str(tmp_path / "ids")))


def test_a_list_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="the list /no/such can't be read"):
        registry.list_models("transformers:/no/such")


@pytest.mark.parametrize(
    ("readme", "license"),
    [
        (README, "apache-2.0"),
        ("---\nlicense: other\nlicense_name: nvidia\n---\n", "nvidia"),
        ("---\nlicense:\n- mit\n- bsd\n---\n", "mit"),
        ("# None\n---\nlicense: mit\n---\n", None),
        ("---\n: [\n---\n", None),
        ("---\nlicense: null\n---\n", None),
        ("---\nlicense: other\nlicense_name: ~\n---\n", "other"),
        ("---\nlicense: mit\ndate: 2024-13-45\n---\n", "mit"),
        ("---\nlicense: mit\ntime: 2024-01-01 25:61:00\n---\n", "mit"),
        ("---\nlicense: mit\nv: 0x_\n---\n", "mit"),
        (f"---\nlicense: mit\nn: {'9' * 5000}\n---\n", "mit"),
        (f"---\nlicense: {'[' * 5000}\n---\n", None),
        (None, None),
    ],
)
def test_the_licence_is_the_readmes(readme: str | None, license: str | None) -> None:
    assert id_lists.license_of(readme) == license


def test_a_sharded_checkpoint_is_said(hub: LoopbackHub, root: Path, tmp_path: Path) -> None:
    folder = root / "large/sharded"
    shutil.copytree(root / "google/vit-tiny", folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    (entry,) = listed(root, "large/sharded")
    assert "split into several files" in failed(entry, root, tmp_path)
    summary = pipeline.adapt(Request(entry, counted(4)), Job("run", str(tmp_path)))
    assert isinstance(summary, ModelSummary)
    assert "split into several files" in summary.failures[0].error


def test_the_shipped_list_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entries = list(TransformersZoo().models(Listing(source_root=str(tmp_path))))
    assert "google/vit-base-patch16-224" in [entry.name for entry in entries]
    with pytest.raises(FetchError, match="has no config"):
        TransformersZoo().build(entries[0], 3)


def test_architectures_are_measured_without_a_hub() -> None:
    entries = {entry.name: entry for entry in TransformersZoo().architectures()}
    assert {"ViTForImageClassification", "Swinv2Backbone"} <= entries.keys()
    with torch.device("meta"):
        assert TransformersZoo().build(entries["ConvNextBackbone"], 5)
        with pytest.raises(Unsupported, match="no num_channels"):
            TransformersZoo().build(entries["TextNetBackbone"], 5)
