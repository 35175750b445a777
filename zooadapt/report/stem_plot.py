"""A picture of a variant's first layer: which channel reads which colour, and its filters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zooadapt.adapt import contract
from zooadapt.errors import UsageError
from zooadapt.mirror import variant_config
from zooadapt.names import SECTION
from zooadapt.targets import get_scheme
from zooadapt.types import Stem

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FILTERS = 6
"""How many filters are shown: those with the largest weights."""
_CELL = 0.62
"""The size of a filter, in inches."""
_COLOURS = {"R": "#c8352b", "G": "#2e9448", "B": "#2a6fbb"}


def write(
    file: Path, title: str, config: Mapping[str, Any], originals: Mapping[str, Tensor]
) -> None:
    """Draw the first stem of the variant that `config` describes, to a PNG, SVG or PDF file.

    `originals` are the original's stem tensors by name. Raises UsageError for a stem whose filters
    are no images, and for a file that can't be written.
    """
    from matplotlib.figure import Figure

    if file.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{file}: name a .png, .svg or .pdf file")
    section = config[SECTION]
    stems = [Stem.of(each) for each in section["stems"]]
    matrix = variant_config.stored_matrix(dict(config))
    made = contract.adapt(originals, stems, get_scheme(section["scheme"]), matrix)
    before = _images(originals[stems[0].name], len(matrix))
    after = _images(made[stems[0].name], matrix.shape[1])
    largest = before.flatten(1).norm(dim=1).argsort(descending=True)[:_FILTERS].tolist()
    names = section["bands"] or [str(number) for number in range(matrix.shape[1])]
    rows, columns = len(largest) + 1, len(names) + 1
    figure = Figure(figsize=((columns + 1) * _CELL, (rows + 1.6) * _CELL), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for each in axes.flat:
        each.set(xticks=[], yticks=[])
        each.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=10)
    base = [band["name"] or str(number) for number, band in enumerate(section["source"]["bands"])]
    axes[0][0].set_title("original", fontsize=8)
    for column, name in enumerate(names, 1):
        axes[0][column].set_title(name, fontsize=8)
        _draw_reads(axes[0][column], base, matrix[:, column - 1].tolist())
    for row, number in enumerate(largest, 1):
        scale = float(before[number].abs().max()) or 1.0
        _draw_original(axes[row][0], before[number], scale)
        for column in range(1, columns):
            image = after[number, column - 1].numpy()
            axes[row][column].imshow(image, cmap="RdGy", vmin=-scale, vmax=scale)
    try:
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    except OSError as cause:
        raise UsageError(f"{file} can't be written: {cause}") from cause


def _images(weight: Tensor, chans: int) -> Tensor:
    """A stem's filters as (filters, channels, height, width). Raises UsageError for other stems."""
    if weight.dim() != 4 or weight.shape[1] != chans:
        raise UsageError("the filters of this model's first layer aren't images, so none are drawn")
    return weight.detach().to(torch.float32)


def _draw_reads(axes: "Axes", base: Sequence[str], shares: Sequence[float]) -> None:
    """A bar for each channel of the original that the channel reads."""
    colours = [_COLOURS.get(name, "#5b6470") for name in base]
    axes.bar(range(len(base)), shares, color=colours, width=0.8)
    most = max(1.0, *map(abs, shares))
    axes.set(xlim=(-0.6, len(base) - 0.4), ylim=(min(0.0, *shares), most))
    axes.spines["bottom"].set_visible(True)
    axes.set_xticks(range(len(base)), base, fontsize=6)
    axes.tick_params(length=0)


def _draw_original(axes: "Axes", image: Tensor, scale: float) -> None:
    """The original's filter in colours if it has three channels, else its mean."""
    if len(image) == 3:
        axes.imshow((0.5 + image / (2 * scale)).clamp(0, 1).permute(1, 2, 0).numpy())
    else:
        axes.imshow(image.mean(0).numpy(), cmap="RdGy", vmin=-scale, vmax=scale)
