"""Fine-tuned timm checkpoints in the Hub's layout, with seeded random weights."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.models import save_for_hf

from jobs.measure import seeded

ARCHITECTURE = "test_resnet"
SIZE = 160


def write(
    folder: Path,
    architecture: str = ARCHITECTURE,
    seed: int = 0,
    wrapper: str = "",
    changes: dict[str, Any] | None = None,
    cfg: dict[str, Any] | None = None,
    **arguments: Any,
) -> Path:
    """Save a model made with the arguments, as timm itself does; returns the folder.

    `changes` are made to its config.json, `cfg` to the ``pretrained_cfg`` in it. With a `wrapper`
    the weights are saved as by a training script: in a pickle, under that key.
    """
    side = arguments.get("img_size") or SIZE
    size = (arguments.get("in_chans", 3), side, side)
    model = seeded.model(lambda: timm.create_model(architecture, **arguments), size, seed)
    save_for_hf(model, folder, safe_serialization=True)
    edit(folder, changes or {}, cfg or {})
    if wrapper:
        weights = folder / "model.safetensors"
        names = {f"module.{k}": v for k, v in safetensors.torch.load_file(weights).items()}
        torch.save({wrapper: names, "epoch": 7}, folder / "pytorch_model.bin")
        weights.unlink()
    return folder


def edit(folder: Path, changes: dict[str, Any], cfg: dict[str, Any] | None = None) -> None:
    """Change keys of a folder's config.json, and of the ``pretrained_cfg`` in it."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    config["pretrained_cfg"].update(cfg or {})
    file.write_text(json.dumps(config))


def loaded(folder: Path | str, **options: Any) -> torch.nn.Module:
    """The model in a folder, loaded by plain timm, in eval mode."""
    model: torch.nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True, **options)
    return model.eval()
