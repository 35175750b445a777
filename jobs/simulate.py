"""How throughput, efficiency and the driver's load scale, in simulated time.

    python jobs/simulate.py --models 100000 --nodes 1,10,100,1000 --plot scale.svg

The real scheduling code, with stages that only wait in simulated time (see `zooadapt.simulation`).
The sizes are those of timm's list (jobs/data: 1,151 architectures, 1,826 tags, 4 bytes a parameter),
repeated with a seeded jitter. For each source and number of nodes it prints

- models a second, and hours for all;
- efficiency: the time that the busiest link would take alone, were it never idle, over the run's;
- the driver's load: the part of the run in which its one core was busy.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from zooadapt import scaling  # noqa: E402
from zooadapt.config import parse_names  # noqa: E402
from zooadapt.scaling import Result  # noqa: E402
from zooadapt.simulation import Cluster, Costs  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TIMM = ROOT / "jobs" / "data" / "timm-1.0.31.csv"
SOURCES: dict[str, Costs] = {
    "anonymous": Costs(limit=3_000),
    "token": Costs(limit=5_000),
    "bucket": Costs(lookup=0.03, lookup_cpu=2e-3),
    "no driver": Costs(lookup=0.0, lookup_cpu=0.0, task=0.0, model=0.0),
}
"""By where checkpoints come from: the Hub without and with a free account's token, a bucket beside
the cluster (a look-up is a HEAD request of 0.03 s), and a bucket with a driver that costs nothing."""
COLOURS = ("#2f5d8a", "#c4762b", "#3c7d4f", "#8a4f7d")

Results = dict[str, dict[int, Result]]
"""By source, then by nodes."""


def _numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    try:
        return [int(number) for number in value.split(",")]
    except ValueError as cause:
        raise click.BadParameter(f"{value} is no list of numbers") from cause


@click.command(help=__doc__)
@click.option("--models", default=20_000, show_default=True, help="Sizes; 1826 are timm's own.")
@click.option("--nodes", default="1,10,100,1000", callback=_numbers, show_default=True)
@click.option("--sources", default=",".join(SOURCES), callback=parse_names, show_default=True)
@click.option("--cpus", default=8, show_default=True, help="Of a node, which has one GPU.")
@click.option("--bandwidth", default=1250.0, show_default=True, help="MB/s of a node, each way.")
@click.option("--source-bandwidth", default=0.0, help="MB/s of all together; no bound by default.")
@click.option("--seed", default=0, show_default=True)
@click.option("--plot", type=Path, help="Where to write the plot, an SVG.")
def main(
    models: int, nodes: Sequence[int], sources: tuple[str, ...], cpus: int, bandwidth: float,
    source_bandwidth: float, seed: int, plot: Path | None,
) -> None:  # fmt: skip
    """Simulate every case, print a line for each, and plot them."""
    unknown = set(sources) - set(SOURCES)
    if unknown:
        raise click.BadParameter(f"no source {', '.join(unknown)}; there are {', '.join(SOURCES)}")
    sizes = scaling.stretched(scaling.listed(TIMM), models, seed)
    click.echo(f"{models:,} models, {sum(sizes) / 1e12:,.1f} TB")
    click.echo(f"{'source':<10}{'nodes':>7}{'models/s':>10}{'hours':>9}{'efficiency':>12}{'driver':>8}")
    results: Results = {source: {} for source in sources}
    for source in sources:
        for number in nodes:
            cluster = Cluster(number, cpus=cpus, bandwidth=bandwidth * 1e6)
            costs = _bounded(SOURCES[source], source_bandwidth)
            results[source][number] = _shown(source, number, scaling.run(sizes, cluster, costs))
    if plot:
        plot.write_text(drawn(results, models))
