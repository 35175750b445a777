"""Seeded random checkpoints in the Hub's layout, with outputs that depend on the image."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import safetensors.torch
import timm
import torch
from torch import Tensor

from jobs.measure import seeded

TWENTY = [
    "test_byobnet.r160_in1k", "test_convnext.r160_in1k", "test_convnext2.r160_in1k",
    "test_convnext3.r160_in1k", "test_efficientnet.r160_in1k", "test_efficientnet_evos.r160_in1k",
    "test_efficientnet_gn.r160_in1k", "test_efficientnet_ln.r160_in1k", "test_nfnet.r160_in1k",
    "test_resnet.r160_in1k", "test_vit.r160_in1k", "test_vit2.r160_in1k", "test_vit3.r160_in1k",
    "lcnet_050.ra2_in1k", "mobilenetv3_small_050.lamb_in1k", "tinynet_e.in1k",
    "resnet18.a1_in1k", "resnet18.a2_in1k", "resnet18.a3_in1k", "resnet18.tv_in1k",
]  # fmt: skip
"""Tags of 20 small models. The last four are large enough to be sent in parts and composed."""

SIX = (
    "resnet50.a1_in1k", "convnext_tiny.fb_in1k", "efficientnet_b0.ra_in1k",
    "swin_tiny_patch4_window7_224.ms_in1k", "vit_base_patch16_224.augreg_in1k",
    "vit_large_patch16_224.augreg_in21k_ft_in1k",
)  # fmt: skip
"""Tags of six models that people use, of 20 MB to 1.2 GB, for benchmarks."""

Form = Literal["safetensors", "zip-pickle", "legacy-pickle"]


def random_state_dict(tag: str, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of a pretrained tag's model with random weights; tied tensors are cloned."""
    size = timm.get_pretrained_cfg(tag).input_size
    model = seeded.model(lambda: timm.create_model(tag), size, seed)
    return {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}


def write_hub_repos(root: Path, tags: Iterable[str]) -> Path:
    """Write the random checkpoints of several tags below `root`; returns it."""
    for tag in tags:
        write_hub_repo(root, tag)
    return root


def write_hub_repo(
    root: Path,
    tag: str,
    seed: int = 0,
    form: Form = "safetensors",
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a tag's random checkpoint as the Hub lays it out below `root`; returns the file."""
    folder = root / str(timm.get_pretrained_cfg(tag).hf_hub_id)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_state_dict(tag, seed)
    if dtype is not None:
        tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
    if form == "safetensors":
        file = folder / "model.safetensors"
        safetensors.torch.save_file(tensors, file)
    else:
        file = folder / "pytorch_model.bin"
        torch.save(tensors, file, _use_new_zipfile_serialization=form == "zip-pickle")
    (folder / "config.json").write_text("{}")
    return file
