"""The commands of those who keep a mirror."""

import re
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from zooadapt.cli.common import OK, WRONG, of_mirror, with_anon
from zooadapt.errors import RunError, UsageError
from zooadapt.job.options import parse_chans, parse_names, read_places
from zooadapt.urls import absolute

if TYPE_CHECKING:
    from zooadapt.stores.store import Store

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.command()
@of_mirror
@click.option("--deep", is_flag=True, help="Prove every variant again, too.")
def verify(store: "Store", deep: bool) -> int:
    """Check every object of a mirror against its manifest."""
    from zooadapt.report import upkeep
    from zooadapt.upkeep.verify import verify

    try:
        findings = verify(store, deep)
    except KeyboardInterrupt:
        raise RunError("stopped before all was checked; nothing was changed") from None
    if findings.wrong:
        click.echo(upkeep.wrong_table(findings.wrong))
    click.echo(upkeep.verified(findings, deep))
    return WRONG if findings.wrong else OK


def _parse_age(context: click.Context, parameter: click.Parameter, value: str) -> timedelta:
    age = re.fullmatch(r"(\d{1,5})([mhdw])", value)
    if not age:
        raise UsageError(f"--older-than {value}: give a number and m, h, d or w, such as 30d")
    return timedelta(**{_UNITS[age[2]]: int(age[1])})


@click.command()
@of_mirror
@click.option(
    "--older-than",
    default="30d",
    show_default=True,
    callback=_parse_age,
    metavar="AGE",
    help="Only what nobody has written or named for so long: 12h, 30d, 8w.",
)
@click.option("--delete", is_flag=True, help="Remove it; else it is only shown.")  # fmt: skip
def gc(store: "Store", older_than: timedelta, delete: bool) -> int:
    """Show or remove what a mirror no longer needs."""
    from zooadapt.report import text, upkeep
    from zooadapt.upkeep import garbage

    now = datetime.now(UTC)
    before = now - older_than
    with store.session(f"gc-{now:%Y%m%dT%H%M%SZ}") if delete else nullcontext():
        found = garbage.find(store, before)
        if found:
            click.echo(upkeep.garbage_table(found, now))
        gone = garbage.remove(store, found, before) if delete else found
    freed = text.size(sum(item.bytes for item in gone))
    done = "removed" if delete else "may go; --delete removes them" if gone else "may go"
    click.echo(f"{len(gone)} left-overs, {freed}, {done}")
    return OK


@click.command()
@of_mirror
def rebuild(store: "Store") -> int:
    """Make a mirror's manifest again from its records."""
    from zooadapt.upkeep.rebuild import rebuild

    with store.session(f"rebuild-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"):
        made = rebuild(store)
    for key, error in made.aside.items():
        click.echo(f"{error}: set aside as {key}")
    usable, failures = len(made.tables.usable), len(made.tables.failures)
    click.echo(
        f"manifest.parquet has {usable} variants, failures.parquet {failures}, "
        f"from {made.records} records"
    )
    return OK


@click.command("report")
@of_mirror
def write_page(store: "Store") -> int:
    """Write a mirror's page, index.html, beside its manifest."""
    from zooadapt.report import page

    click.echo(f"written: {page.write(store)}")
    return OK


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("dest", metavar="DEST")
@click.option("--models", callback=parse_names, metavar="GLOB,…", help="Only models that match.")
@click.option("--exclude", callback=parse_names, metavar="GLOB,…", help="No models that match.")
@click.option(
    "--license",
    callback=parse_names,
    metavar="GLOB,…",
    help="Only models whose source states a matching licence.",
)
@click.option("--chans", callback=parse_chans, metavar="N,…", help="Only these channel counts.")
@click.option("--anon", is_flag=True, help="Read SRC without credentials.")
@click.option("--config", envvar="ZOOADAPT_CONFIG", metavar="FILE",
              help="A job's YAML file, for its `storage_options` (of DEST) and "
              "`source_storage_options` (of SRC).")  # fmt: skip
def sync(
    source: str, dest: str, models: tuple[str, ...], exclude: tuple[str, ...],
    license: tuple[str, ...], chans: tuple[int, ...], anon: bool, config: str | None,
) -> int:  # fmt: skip
    """Copy part of the mirror SRC to DEST.

    DEST is then a mirror of its own, that other copies and jobs may add to.
    """
    from zooadapt.reader.mirror import open_mirror
    from zooadapt.report import text
    from zooadapt.stores.opening import open_store
    from zooadapt.upkeep.sync import select, sync

    places = read_places(config)
    options = with_anon(source, places.source_storage_options, anon)
    mirror = open_mirror(source, options, offline=False)
    rows = select(mirror.manifest(), models, exclude, license, chans)
    store = open_store(absolute(dest, "DEST"), dict(places.storage_options))
    done = sync(mirror.mirrors[0][0], store, rows)
    for folder, why in done.wrong.items():
        click.echo(f"  {folder}  {why}")
    parts = [f"{text.counted(done.copied, 'variant')} copied, {text.size(done.bytes)}"]
    parts += [f"{done.already} were there"] if done.already else []
    parts += [f"{len(done.wrong)} failed: the same command tries them again"] if done.wrong else []
    click.echo("; ".join(parts))
    return WRONG if done.wrong else OK


COMMANDS = (verify, gc, rebuild, write_page, sync)
