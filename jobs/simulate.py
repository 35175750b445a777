"""Simulate how throughput, efficiency and the driver's load scale with the number of nodes.

    python jobs/simulate.py --models 100000 --nodes 1,10,100,1000 --plot scale.svg

Runs the real scheduling code with stages that only wait in simulated time: see jobs/measure. Sizes
are those of timm's list (jobs/data: 1,826 tags of 1,151 architectures, 4 bytes per parameter),
repeated with a seeded jitter. For each source and number of nodes the script prints

- models per second, and hours for all models;
- efficiency: the time of the busiest link if it were never idle, divided by the time of the run;
- the driver's load: the part of the run in which its one core was busy.
"""

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jobs.measure import simulation  # noqa: E402
from jobs.measure.simulation import Cluster, Costs, Result  # noqa: E402
from zooadapt.job.options import parse_names  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TIMM = ROOT / "jobs" / "data" / "timm-1.0.31.csv"
SOURCES: dict[str, Costs] = {
    "anonymous": Costs(limit=3_000),
    "token": Costs(limit=5_000),
    "bucket": Costs(lookup=0.03),
    "ideal": Costs(lookup=0.0, lookup_cpu=0.0, task=0.0, model=0.0),
}
"""The costs by source of checkpoints: the Hub without a token and with that of a free account; a
bucket beside the cluster (a HEAD request is assumed to take 0.03 s); and an ideal source and
driver that cost no time, to show what the nodes could do."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "zooadapt",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
}
COLOURS = ("#2f5d8a", "#c4762b", "#3c7d4f", "#8a4f7d")

Results = dict[str, dict[int, Result]]
"""The results by source, then by number of nodes."""


def _numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    try:
        return [int(number) for number in value.split(",")]
    except ValueError as cause:
        raise click.BadParameter(f"{value} isn't a list of whole numbers") from cause


@click.command(help=__doc__)
@click.option("--models", default=20_000, show_default=True, help="Models; timm has 1826.")
@click.option("--nodes", default="1,10,100,1000", callback=_numbers, show_default=True,
              help="Numbers of nodes to simulate.")  # fmt: skip
@click.option("--sources", default=",".join(SOURCES), callback=parse_names, show_default=True,
              help="Where checkpoints come from.")  # fmt: skip
@click.option("--cpus", default=8, show_default=True, help="CPUs of a node, beside one GPU.")
@click.option("--bandwidth", default=1250.0, show_default=True, help="MB/s of a node, each way.")
@click.option("--source-bandwidth", default=0.0, help="MB/s of the source; 0: no limit.")
@click.option("--seed", default=0, show_default=True, help="The seed of the jitter.")
@click.option("--plot", type=Path, help="The SVG file to write the plot to.")
def main(
    models: int, nodes: Sequence[int], sources: tuple[str, ...], cpus: int, bandwidth: float,
    source_bandwidth: float, seed: int, plot: Path | None,
) -> None:  # fmt: skip
    """Simulate every source and number of nodes, print a line for each, and plot the results."""
    unknown = set(sources) - set(SOURCES)
    if unknown:
        raise click.BadParameter(f"unknown {', '.join(unknown)}; give any of {', '.join(SOURCES)}")
    gc.disable()  # there are no cycles, and a search among a million records takes long
    sizes = simulation.stretched(simulation.read_sizes(TIMM), models, seed)
    click.echo(f"{models:,} models, {sum(sizes) / 1e12:,.1f} TB")
    click.echo("source       nodes  models/s     hours  efficiency  driver  too large")
    results: Results = {source: {} for source in sources}
    for source in sources:
        for number in nodes:
            cluster = Cluster(number, cpus=cpus, bandwidth=bandwidth * 1e6)
            costs = replace(SOURCES[source], source=source_bandwidth * 1e6)
            result = simulation.run(sizes, cluster, costs)
            click.echo(_line(source, number, result))
            results[source][number] = result
    if plot:
        plot.write_text(drawn(results))


def _line(source: str, nodes: int, result: Result) -> str:
    hours = result.seconds / 3600
    return (
        f"{source:<10}{nodes:>8,}{result.throughput:>10,.1f}{hours:>10,.2f}"
        f"{result.efficiency:>12.1%}{result.load:>8.1%}{result.failed:>11,}"
    )


def drawn(results: Results) -> str:
    """The plot of the three figures over the number of nodes. Equal figures give an equal SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.3), layout="constrained")
        panels = figure.subplots(1, 3)
        _panel(panels[0], results, "models a second", lambda result: result.throughput)
        _panel(panels[1], results, "efficiency, of the bandwidth bound", lambda r: r.efficiency)
        _panel(panels[2], results, "load of the driver", lambda result: result.load)
        panels[0].set_yscale("log")
        for axes in panels[1:]:
            axes.set_ylim(0, 1.05)
        panels[0].legend()
        buffer = StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
        return buffer.getvalue()


def _panel(axes: "Axes", results: Results, title: str, value: Callable[[Result], float]) -> None:
    for (source, by_nodes), colour in zip(results.items(), COLOURS, strict=False):
        values = [value(result) for result in by_nodes.values()]
        axes.plot([*by_nodes], values, "o-", color=colour, label=source, markersize=4)
    axes.set_xscale("log")
    axes.set_xlabel("nodes")
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True)


if __name__ == "__main__":
    main()
