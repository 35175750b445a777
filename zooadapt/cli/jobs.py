"""The commands for people who run jobs on a mirror: list the runs, take models down."""

import json
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from zooadapt.cli.common import OK, WRONG, as_json, of_mirror
from zooadapt.errors import UsageError
from zooadapt.job.options import parse_bands, parse_chans

if TYPE_CHECKING:
    from zooadapt.stores.store import Store
    from zooadapt.targets import Bands
    from zooadapt.upkeep.removal import Pattern


_WATCHED_EVERY = 10.0
"""Seconds between two lists of ``runs --watch``."""


@click.command()
@click.argument("model")
@of_mirror
@click.option("--zoo", metavar="NAME", help="Only models of this zoo.")
@click.option("--chans", callback=parse_chans, metavar="N,…",
              help="Only variants with these channel counts.")  # fmt: skip
@click.option("--bands", multiple=True, metavar="BANDS",
              help="Only variants with these bands, named as for `adapt`.")  # fmt: skip
@click.option("--reason", default="taken down", show_default=True, metavar="TEXT",
              help="The reason to state in failures.parquet.")  # fmt: skip
@click.option("--undo", is_flag=True, help="Undo a removal: jobs can make the models again.")
@click.option("--yes/--dry-run", "sure", default=False,
              help="Change the mirror, or only show what would change (the default).")  # fmt: skip
def remove(
    store: "Store", model: str, zoo: str | None, chans: tuple[int, ...], bands: tuple[str, ...],
    reason: str, undo: bool, sure: bool,
) -> int:  # fmt: skip
    """Take models down from a mirror.

    No job makes them again until --undo. MODEL is a name or a glob, such as 'resnet*'. Without
    --chans and --bands whole models are removed, with their original stems.

    \b
    zooadapt remove 'resnet50*' s3://bucket/mirror --reason 'its licence has changed' --yes
    """
    from zooadapt.mirror.manifest import PAGE
    from zooadapt.report import page, text, upkeep
    from zooadapt.upkeep import removal

    reason = " ".join(reason.split())
    if not reason:
        raise UsageError("--reason is empty; say why in a few words")
    run_id = f"remove-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with store.session(run_id) if sure else nullcontext():
        found = removal.find(store, model, zoo, _patterns(chans, bands))
        if sure:
            (removal.undo if undo else removal.remove)(store, found, reason, run_id)
            if store.exists(PAGE):  # the page must not show what was taken down
                page.leave(store)
    models = text.counted(len(found), "model")
    if undo:
        done = "be made again by the next job that asks for it"
        click.echo(f"{models} will {done}" if sure else f"{models} would {done}; --yes allows it")
        return OK
    click.echo(upkeep.removal_table(found))
    variants = sum(len(each.variants) for each in found)
    size = text.size(sum(each.bytes for each in found))
    done = "removed" if sure else "to remove; --yes removes them, and no job makes them again"
    click.echo(f"{models}, {text.counted(variants, 'variant')}, {size}, {done}")
    return OK


def _patterns(chans: tuple[int, ...], bands: tuple[str, ...]) -> "tuple[Pattern, ...]":
    from zooadapt.reader import manifests
    from zooadapt.upkeep.removal import ALL, Pattern

    names = [",".join(manifests.target(None, given, None).bands.names) for given in bands]
    asked = [*(Pattern(in_chans=n) for n in chans), *(Pattern(bands=each) for each in names)]
    return tuple(asked) or ALL


@click.command()
@click.argument("what", metavar="FOLDER_OR_ID")
@click.option("--chans", default="1,4,8,25", show_default=True, callback=parse_chans,
              metavar="N,…", help="The channel counts to try.")  # fmt: skip
@click.option("--bands", multiple=True, callback=parse_bands, metavar="BANDS",
              help="Bands to try, named as for `adapt`.")  # fmt: skip
def check(what: str, chans: tuple[int, ...], bands: "tuple[Bands, ...]") -> int:
    """Say whether a checkpoint can be adapted, by which stems and for which channels.

    FOLDER_OR_ID is a folder or URL with a checkpoint and its config.json, the id of a repository on
    the Hub, or a model of timm. Everything that a job does is done here, in seconds, without Ray
    and without a mirror.

    \b
    zooadapt check my/checkpoint --chans 1,4 --bands sentinel2-l2a
    """
    from zooadapt.job.check import check
    from zooadapt.report.check import lines
    from zooadapt.targets import Bands, Target

    targets = [Target.of(each, None) for each in [*map(Bands.counted, chans), *bands]]
    bad = 0
    for checked in check(what, targets):
        click.echo(lines(checked.entry, checked.rows, checked.failures))
        bad += not checked.rows
    return WRONG if bad else OK


class _Runs(click.Group):
    """`runs` lists the runs, unless a subcommand comes first."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(
            context, args if {*args[:1]} & {*self.commands, "-h", "--help"} else ["list", *args]
        )


@click.group(cls=_Runs)
def runs() -> None:
    """List the runs of a mirror's jobs, or show one: runs show RUN.

    \b
    zooadapt runs s3://bucket/mirror --watch
    zooadapt runs show 20261124T031200Z-a1b2c3 s3://bucket/mirror
    """


@runs.command("list")
@of_mirror
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N",
              help="List at most this many runs, the latest.")  # fmt: skip
@click.option("--watch", is_flag=True,
              help="List them again every ten seconds, until no run is at work.")  # fmt: skip
@as_json
def list_runs(store: "Store", limit: int, watch: bool, as_json: bool) -> int:
    """List the runs of a mirror's jobs, the latest first. `zooadapt runs show RUN` shows one."""
    from zooadapt.mirror.runs import latest
    from zooadapt.mirror.runs_table import table
    from zooadapt.report import runs, tables

    while True:
        seen = latest(store, limit)
        if not seen and not as_json:
            click.echo("the mirror has no runs")
            return OK
        found = table(seen)
        click.echo(tables.as_json(found) if as_json else runs.lines(found))
        if not watch or all(each.state != "running" for each in seen):
            return OK
        time.sleep(_WATCHED_EVERY)


@runs.command("show")
@click.argument("run_id", metavar="RUN")
@of_mirror
@as_json
def show_run(store: "Store", run_id: str, as_json: bool) -> int:
    """Show all that is known of one run: its figures, options and failures.

    RUN is the run's id, or how it begins.
    """
    from zooadapt.mirror import runs as mirror_runs
    from zooadapt.mirror.runs_table import table
    from zooadapt.report import runs, tables

    seen = mirror_runs.find(store, run_id)
    row, events = table([seen]).to_dict("records")[0], mirror_runs.events(store, seen.run_id)
    if as_json:
        (known,) = json.loads(tables.as_json(table([seen])))
        click.echo(json.dumps({**known, "options": seen.options, "events": events}, indent=2))
    else:
        click.echo(runs.all_of(seen, row, events))
    return OK


COMMANDS = (check, runs, remove)
