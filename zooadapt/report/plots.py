"""The page's plots, as SVG elements for an HTML page, in the colours of the page.

The same figures give the same SVG, byte for byte.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from zooadapt.mirror.run_files import Run
from zooadapt.types import LEAST_CONTROL, STAGES, TOLERANCE, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _GRID, _SURFACE = "#010101", "#020202", "#030303", "#040404"
_SERIES = ["#050505", "#060606", "#070707", "#080808"]
_COLOURS = {
    _INK: "currentColor",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    _SURFACE: "var(--surface)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)},
}
"""The colours that matplotlib draws in, as it knows no CSS, and the CSS that replaces them."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "zooadapt",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _GRID,
    "ytick.labelcolor": _MUTED,
    "ytick.left": False,
    "legend.frameon": False,
}
_WIDTH = 4.4
"""Width of a plot, in inches of 72 SVG units: narrow enough to be legible on a phone."""
_SMALLEST, _LARGEST = -9, 3
"""Powers of ten between which errors are drawn. Errors beyond them are drawn at the edge."""
_BARS = 12
"""Most runs that are drawn."""


def errors(rows: Sequence[Row]) -> str:
    """A histogram of the errors and the controls of the variants, as SVG."""
    values = {
        "error": [row["equivalence_error"] for row in rows if row["equivalent"]],
        "error where the function changed": [
            row["equivalence_error"] for row in rows if not row["equivalent"]
        ],
        "control": [row["control_error"] for row in rows],
    }
    powers = [[_power(value) for value in series] for series in values.values()]
    bins = [_SMALLEST + step / 4 for step in range(4 * (_LARGEST - _SMALLEST) + 1)]
    with _plot(2.9) as (figure, axes):
        axes.hist(
            powers, bins, stacked=True, histtype="stepfilled", label=[*values],
            color=_SERIES[:3], edgecolor=_SURFACE, linewidth=0.5,
        )  # fmt: skip
        axes.margins(y=0.15)
        _limit(axes, TOLERANCE, "tolerance ", "right")
        _limit(axes, LEAST_CONTROL, " least control", "left")
        powers_shown = range(_SMALLEST + 1, _LARGEST + 1, 2)
        axes.set_xticks(powers_shown, [f"1e{power}" for power in powers_shown])
        axes.set_xlabel("in units of another image's effect")
        axes.set_ylabel("variants")
        axes.grid(axis="y")
        _legend(axes, reverse=True)  # matplotlib lists stacked series from the last
        return _svg(figure, "errors", f"Errors and controls of {len(rows):,} variants")


def _power(value: float) -> float:
    """The value as a power of ten, within what is drawn; NaN and infinity as the largest."""
    if not math.isfinite(value):
        return _LARGEST
    return min(max(math.log10(value), _SMALLEST), _LARGEST) if value > 0 else _SMALLEST


def _limit(axes: "Axes", value: float, label: str, side: str) -> None:
    """Draw the line that errors should stay below, or that controls should exceed."""
    power = math.log10(value)
    axes.axvline(power, color=_MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
    top = axes.get_xaxis_transform()
    axes.text(power, 0.98, label, transform=top, ha=side, va="top", color=_MUTED, fontsize=9)


def stages(runs: Sequence[Run]) -> str:
    """Bars of the seconds by stage of the latest runs that had work, as SVG; the latest on top."""
    worked = [run for run in runs if sum(run.stages.values())][:_BARS]
    unit, seconds = _unit(max((sum(run.stages.values()) for run in worked), default=0))
    left = [0.0] * len(worked)
    with _plot(1.0 + 0.27 * max(len(worked), 1)) as (figure, axes):
        for stage, colour in zip(STAGES, _SERIES, strict=True):
            widths = [run.stages.get(stage, 0) / seconds for run in worked]
            axes.barh(
                range(len(worked)), widths, 0.72, left,
                label=stage, color=colour, edgecolor=_SURFACE, linewidth=0.5,
            )  # fmt: skip
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(worked)), [run.began[5:] for run in worked])
        axes.invert_yaxis()
        axes.set_xlabel(f"{unit} of all workers together")
        axes.grid(axis="x")
        _legend(axes)
        return _svg(figure, "stages", f"Seconds by stage of the latest {len(worked)} runs")


def _unit(most: float) -> tuple[str, int]:
    """The unit in which to draw up to `most` seconds, and how many seconds the unit has."""
    units = [("hours", 3600), ("minutes", 60)]
    return next(((name, size) for name, size in units if most >= 2 * size), ("seconds", 1))


@contextmanager
def _plot(height: float) -> Iterator[tuple["Figure", "Axes"]]:
    """An empty plot `height` inches high, in the page's style for the block."""
    import matplotlib as mpl  # takes a second: only where a page is made
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height))
        figure.patch.set_visible(False)
        left, width = 1.02 / _WIDTH, 1 - 1.12 / _WIDTH
        axes = figure.add_axes((left, 0.55 / height, width, 1 - 0.85 / height))
        yield figure, axes


def _legend(axes: "Axes", reverse: bool = False) -> None:
    """Draw the legend, in one line above the plot."""
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0, fontsize=9,
        handlelength=0.9, handleheight=0.9, handletextpad=0.5, columnspacing=1.2, reverse=reverse,
    )  # fmt: skip


def _svg(figure: "Figure", name: str, label: str) -> str:
    """The plot as one SVG element. Its ids begin with `name`; screen readers read out `label`."""
    buffer = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    return _for_page(buffer.getvalue(), name, label)


def _for_page(svg: str, name: str, label: str) -> str:
    """An SVG file as an element of a page: without prologue and size, its ids begin with `name`."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\1{name}-", svg)
    for colour, of_page in _COLOURS.items():
        svg = svg.replace(colour, of_page)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
