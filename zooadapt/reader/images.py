"""Feed a model right: normalise images in their own units, and see what a model makes of them."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, permutations
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from zooadapt.bands import mixture, remembered
from zooadapt.errors import UsageError
from zooadapt.names import CONFIG, SECTION

_ODD = 3.0
"""A mean farther from 0, or a std above this or below a ninth, isn't that of an image normalised as
the original's."""
_MARGIN = 0.13
"""How much better another order must fit, see `_misplaced`."""
_PATCHES = 16
"""The images are averaged to about so many pixels a side before bands are compared: bands of
other resolutions would differ by their sharpness."""


class Normalise(nn.Module):
    """Subtracts a mean from each channel and divides by a std, both in the images' own units."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """`mean` and `std` have a value for each of the N channels."""
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            buffer = torch.tensor([float(value) for value in values]).view(-1, 1, 1)
            self.register_buffer(name, buffer)

    def extra_repr(self) -> str:
        """The values, for people."""
        shown = {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}
        return ", ".join(f"{k}=[{', '.join(f'{v:.4g}' for v in vs)}]" for k, vs in shown.items())

    def forward(self, images: "Tensor | np.ndarray[Any, Any]") -> Tensor:
        """Normalise images of shape (…, N, H, W), of any dtype. The result is a float32 tensor.

        Raises UsageError for another number of channels.
        """
        images = torch.as_tensor(images)
        if images.dim() < 3 or images.shape[-3] != len(self.mean):
            raise UsageError(
                f"images of shape {tuple(images.shape)} don't have {len(self.mean)} channels: the "
                f"shape must be (…, {len(self.mean)}, height, width)"
            )
        return (images.float() - self.mean) / self.std


def transform(
    model: "nn.Module | Mapping[str, Any] | str | PathLike[str]",
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Normalise:
    """What normalises your images for a variant. Its `mean` and `std` are in your images' units.

    - `model`: a loaded timm model, a row of the manifest, or the folder of a variant. Their means
      and stds are those of the original channels, for images in 0..1.
    - `scale`, `offset`: ``(value + offset) · scale`` must be in 0..1, as the original's images
      were. For 8 bits `scale` is 1/255. Sentinel-2 products hold reflectance · 10,000, and since
      processing baseline 04.00 (January 2022) 1,000 more: `scale` is 1e-4, and `offset` -1000
      unless your source has undone the shift. Under `rgb-only` your red, green and blue must have
      the scale and the brightness that the original saw; reflectances are darker than photographs,
      so own statistics often serve better.
    - `mean`, `std`: your training images' own statistics instead, one value for each channel, in
      your images' units. Then `scale` and `offset` don't count.

    Raises UsageError where the variant states no mean and std, and none are given.
    """
    if (mean is None) != (std is None):
        raise UsageError("give both mean= and std=, one value for each channel")
    if scale <= 0:
        raise UsageError(f"scale={scale} isn't a scale: it is more than 0")
    if mean is not None and std is not None:
        chans = _channels(model)
        if {len(mean), len(std)} != {chans or len(mean)}:
            raise UsageError(
                f"{len(mean)} values of mean= and {len(std)} of std= for "
                f"{chans or len(mean)} channels: give one for each channel"
            )
        return Normalise(mean, std)
    means, stds = _statistics(model)
    return Normalise([m / scale - offset for m in means], [s / scale for s in stds])


def _statistics(model: Any) -> tuple[Sequence[float], Sequence[float]]:
    """The means and stds of a variant's channels, for images in 0..1. Raises UsageError."""
    if isinstance(model, nn.Module):
        stated: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    elif isinstance(model, str | PathLike):
        stated = _config(model).get("pretrained_cfg") or {}
    else:
        stated = {name: model[f"input_{name}"] for name in ("mean", "std")}
    mean, std = stated.get("mean"), stated.get("std")
    if mean is None or std is None or not len(mean):
        raise UsageError(
            "no mean and std are stated for this model: give mean= and std= of your training "
            "images, or for a model of another library than timm its row of the manifest"
        )
    return mean, std


def _channels(model: Any) -> int | None:
    """The number of a variant's channels; None where it isn't known."""
    if isinstance(model, nn.Module):
        made = getattr(model, SECTION, None)
        return len(made["matrix"][0]) if made else None
    if isinstance(model, str | PathLike):
        return len(_config(model)[SECTION]["matrix"][0])
    return int(model["in_chans"])


def _config(folder: "str | PathLike[str]") -> dict[str, Any]:
    file = Path(fspath(folder)) / CONFIG
    if not file.is_file():
        raise UsageError(f"{folder} isn't the folder of a variant: it has no {CONFIG}")
    config: dict[str, Any] = json.loads(file.read_text())
    return config


@torch.no_grad()
def inspect(
    model: nn.Module,
    batch: "Tensor | np.ndarray[Any, Any]",
    folder: "str | PathLike[str] | None" = None,
) -> pd.DataFrame:
    """How a variant sees a batch of real images, one row for each band: did I feed it right?

    - `model`: what `create_model` or `load` returned, or the model of the variant in `folder`. It
      runs in eval mode, on its own device, and is left as it was.
    - `batch`: images as the model gets them, (B, N, H, W), normalised. The model runs N + 2 times:
      a few images will do.

    The columns are

    - `band`: the band's name, or its number;
    - `min`, `max`, `mean`, `std`: of the batch. For images like the original's, mean is about 0 and
      std about 1;
    - `reads`: the original channels whose filters the band takes, such as ``0.5 R``; "" where it
      takes none, and the model ignores the band until its stem is trained;
    - `moves`: how far the output moves when the band is replaced by its mean, over how far it moves
      when all bands are; 0 for an ignored band;
    - `most_alike`: the band with which it correlates most in this batch, with the correlation;
      as a rule it has a neighbouring wavelength;
    - `hint`: what looks wrong, "" where nothing does. It is a guess.

    Raises UsageError if the batch doesn't fit the model, or it isn't known how the model was made.
    """
    made, batch = _made(model, folder), torch.as_tensor(batch)
    matrix = torch.tensor(made["matrix"])
    if batch.dim() != 4 or batch.shape[1] != matrix.shape[1]:
        raise UsageError(
            f"a batch of shape {tuple(batch.shape)} doesn't fit: the model takes (images, "
            f"{matrix.shape[1]}, height, width)"
        )
    names = made["bands"] or [str(number) for number in range(matrix.shape[1])]
    values = batch.float().transpose(0, 1).flatten(1)
    alike = _correlations(batch)
    sources = [band["name"] or str(k) for k, band in enumerate(made["source"]["bands"])]
    rows = pd.DataFrame(
        {
            "band": names,
            "min": values.amin(1).tolist(),
            "max": values.amax(1).tolist(),
            "mean": values.mean(1).tolist(),
            "std": values.std(1).tolist(),
            "reads": [mixture(sources, column) for column in matrix.T.tolist()],
            "moves": _moves(model, batch),
            "most_alike": _most_alike(alike, names),
        }
    )
    own = "." in made["scheme"]  # bands of the user's own file: their wavelengths aren't known here
    misplaced = {} if own else _misplaced(alike, names)
    rows["hint"] = [
        "; ".join([*_hints(row), *([misplaced[number]] if number in misplaced else [])])
        for number, row in enumerate(rows.to_dict("records"))
    ]
    return rows


def _made(model: nn.Module, folder: "str | PathLike[str] | None") -> Mapping[str, Any]:
    made = _config(folder).get(SECTION) if folder else getattr(model, SECTION, None)
    if not made:
        raise UsageError(
            "it isn't known how this model was made: load it with zooadapt, or give the folder of "
            "its variant as folder="
        )
    return made  # type: ignore[no-any-return]


def _moves(model: nn.Module, batch: Tensor) -> list[float]:
    """How far each band moves the output, in units of how far all of them do."""
    modes, place = {each: each.training for each in model.modules()}, next(model.parameters())
    model.eval()
    try:
        images = batch.to(place.device, place.dtype)
        blank = images.mean((0, 2, 3), keepdim=True).expand_as(images)
        whole = _output(model, images)
        far = float((whole - _output(model, blank)).norm())
        found = []
        for number in range(images.shape[1]):
            without = images.clone()
            without[:, number] = blank[:, number]
            found.append(float((whole - _output(model, without)).norm()) / far if far else 0.0)
        return found
    finally:
        for module, training in modes.items():
            module.training = training


def _output(model: nn.Module, images: Tensor) -> Tensor:
    """The first tensor that the model gives, flat."""
    found: Any = model(images)
    while not isinstance(found, Tensor):
        values = list(found.values()) if isinstance(found, Mapping) else list(found)
        found = values[0]
    return found.float().flatten()


def _correlations(batch: Tensor) -> Tensor:
    """The correlation of each band with each other one, (N, N)."""
    pixels = max(1, min(batch.shape[-2:]) // _PATCHES)
    patches = functional.avg_pool2d(batch.float(), pixels)
    values = patches.transpose(0, 1).flatten(1)
    return torch.corrcoef(values).view(len(values), len(values)).nan_to_num(0.0)


def _most_alike(alike: Tensor, names: Sequence[str]) -> list[str]:
    if len(names) < 2:
        return [""]
    others = alike.clone().fill_diagonal_(-2.0)
    return [f"{names[int(row.argmax())]} ({float(row.max()):.2f})" for row in others]


def _hints(row: Mapping[Any, Any]) -> list[str]:
    """What looks wrong with a band by itself."""
    found = [] if row["reads"] else ["ignored until the stem is trained"]
    if not math.isfinite(row["mean"]):
        found.append("has NaN or infinite values")
    elif row["std"] < 1e-6:
        found.append("constant")
    elif abs(row["mean"]) > _ODD or not 1 / (3 * _ODD) < row["std"] < _ODD:
        found.append("not normalised as the original's images: see zooadapt.transform")
    return found


def _misplaced(alike: Tensor, names: Sequence[str]) -> dict[int, str]:
    """A hint by channel, where another order of the bands would fit the images much better.

    Of neighbours by wavelength the correlations are high, so their mean (after Fisher's
    transformation) tells orders apart. Only orders in which one band has moved, or two are swapped,
    are compared. The margin was chosen on 14 made-up scenes in Sentinel-2's bands, of which all
    were told apart. Red and blue swapped within three or four bands can't be told.
    """
    nm = _wavelengths(names)
    order = sorted((n for n, each in enumerate(nm) if each is not None), key=lambda n: nm[n] or 0.0)
    score = alike.clamp(-0.999, 0.999).atanh()

    def fit(path: Sequence[int]) -> float:
        steps = [float(score[one, other]) for one, other in pairwise(path)]
        return sum(steps) / len(steps)

    if len(order) < 3:
        return {}
    best, hints = fit(order) + _MARGIN, dict[int, str]()
    for i, j in permutations(range(len(order)), 2):
        moved, swapped = [*order], [*order]
        moved.insert(j, moved.pop(i))
        swapped[i], swapped[j] = swapped[j], swapped[i]
        one, other = order[i], order[j]
        beside = moved[j - 1] if j else moved[1]
        for path, hint in (
            (swapped, {one: f"swapped with {names[other]}?", other: f"swapped with {names[one]}?"}),
            (moved, {one: f"out of its place? it is like {names[beside]}"}),
        ):
            if fit(path) > best:
                best, hints = fit(path), hint
    return hints


def _wavelengths(names: Sequence[str]) -> list[float | None]:
    return [band.wavelength for band in remembered(list(names)).channels]
