"""Seeded random checkpoints that let the image through to the output.

On fresh initialisations a model's output hardly depends on the image, and even a zero stem passes
for a right one; so weights are N(0, 1/fan_in), gains near 1, biases 0.1, and BatchNorm statistics
come from one pass in train mode.
"""

from pathlib import Path
from typing import Literal

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

Form = Literal["safetensors", "zip-pickle", "legacy-pickle"]


def random_state_dict(tag: str, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of a pretrained tag's model with random weights; tied tensors are cloned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(tag)
        let_through(model)
        size = model.pretrained_cfg["input_size"]
        set_batch_norms(model, torch.randn(4, *size))
    return {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def let_through(model: nn.Module) -> None:
    """Random parameters of such scale that differences of the input reach the output."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            parameter.fill_(0.1)
        else:
            parameter.copy_(1 + 0.05 * torch.randn_like(parameter))


@torch.no_grad()
def set_batch_norms(model: nn.Module, images: Tensor) -> None:
    """BatchNorm statistics from one pass of `images`; leaves the model in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the plain average
    model.train()
    model(images)
    model.eval()


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
