"""The commands for people who look after a mirror: verify, clean, repair and copy it."""

import webbrowser
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from zooadapt.cli.common import OK, WRONG, of_mirror, parse_age, with_anon
from zooadapt.errors import RunError
from zooadapt.job.options import parse_chans, parse_names, read_places
from zooadapt.urls import absolute, cache_root

if TYPE_CHECKING:
    from zooadapt.stores.store import Store


@click.command()
@of_mirror
@click.option("--deep", is_flag=True, help="Also prove every variant again.")
def verify(store: "Store", deep: bool) -> int:
    """Compare every object of a mirror with its manifest.

    \b
    zooadapt verify s3://bucket/mirror --deep
    """
    from zooadapt.report import upkeep
    from zooadapt.upkeep.verify import verify

    try:
        findings = verify(store, deep)
    except KeyboardInterrupt:
        raise RunError("stopped before all was verified; nothing was changed") from None
    if findings.wrong:
        click.echo(upkeep.wrong_table(findings.wrong))
    click.echo(upkeep.verified(findings, deep))
    return WRONG if findings.wrong else OK


@click.command()
@of_mirror
@click.option("--older-than", default="30d", show_default=True, callback=parse_age, metavar="AGE",
              help="Only objects that nothing has written or named for this long, such as 12h, "
              "30d or 8w.")  # fmt: skip
@click.option("--delete", is_flag=True,
              help="Remove the leftovers. By default they are only listed.")  # fmt: skip
def gc(store: "Store", older_than: timedelta, delete: bool) -> int:
    """List or remove leftovers: objects that a mirror doesn't need.

    \b
    zooadapt gc s3://bucket/mirror --older-than 30d --delete
    """
    from zooadapt.report import text, upkeep
    from zooadapt.upkeep import garbage

    now = datetime.now(UTC)
    before = now - older_than
    with store.session(f"gc-{now:%Y%m%dT%H%M%SZ}") if delete else nullcontext():
        before = garbage.spared(store, before)
        found = garbage.find(store, before)
        if found:
            click.echo(upkeep.garbage_table(found, now))
        gone = garbage.remove(store, found, before) if delete else found
    if not found:
        click.echo("nothing to remove")
        return OK
    freed = text.size(sum(item.bytes for item in gone))
    offered = f"can be removed; --delete removes {'it' if len(gone) == 1 else 'them'}"
    done = "removed" if delete else offered
    click.echo(f"{text.counted(len(gone), 'leftover')}, {freed}, {done}")
    return OK


@click.command()
@of_mirror
def rebuild(store: "Store") -> int:
    """Make a mirror's tables again from its records.

    \b
    zooadapt rebuild s3://bucket/mirror
    """
    from zooadapt.upkeep.rebuild import rebuild

    with store.session(f"rebuild-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"):
        made = rebuild(store)
    for key, error in made.aside.items():
        click.echo(f"{error}; the record was moved to {key}")
    usable, failures = len(made.tables.usable), len(made.tables.failures)
    click.echo(
        f"manifest.parquet lists {usable} variants and failures.parquet {failures}, "
        f"made from {made.records} records"
    )
    return OK


@click.command("report")
@of_mirror
@click.option("--open", "shows", is_flag=True,
              help="Open the page that is there in a browser, and write nothing.")  # fmt: skip
def write_page(store: "Store", shows: bool) -> int:
    """Write a mirror's web page, index.html, beside its manifest.

    \b
    zooadapt report s3://bucket/mirror
    zooadapt report s3://bucket/mirror --open
    """
    from zooadapt.report import page

    if not shows:
        click.echo(f"wrote {page.write(store)}")
        return OK
    file = page.local_file(store, cache_root() / "pages")
    opened = webbrowser.open(file.as_uri())
    click.echo(f"opened {file}" if opened else f"there is no browser here; the page is {file}")
    return OK


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("dest", metavar="DEST")
@click.option("--models", callback=parse_names, metavar="GLOB,…",
              help="Copy only models whose names match.")  # fmt: skip
@click.option("--exclude", callback=parse_names, metavar="GLOB,…",
              help="Copy no models whose names match.")  # fmt: skip
@click.option("--license", callback=parse_names, metavar="GLOB,…",
              help="Copy only models whose licence matches; `unknown` matches models without "
              "one.")  # fmt: skip
@click.option("--chans", callback=parse_chans, metavar="N,…",
              help="Copy only variants with these channel counts.")  # fmt: skip
@click.option("--anon", is_flag=True, help="Read SRC, a public S3 bucket, without credentials.")
@click.option("--config", envvar="ZOOADAPT_CONFIG", metavar="FILE",
              help="Take the `storage_options` of DEST and the `source_storage_options` of SRC "
              "from this YAML file of a job.")  # fmt: skip
def sync(
    source: str, dest: str, models: tuple[str, ...], exclude: tuple[str, ...],
    license: tuple[str, ...], chans: tuple[int, ...], anon: bool, config: str | None,
) -> int:  # fmt: skip
    """Copy the mirror SRC, or a part of it, to DEST.

    DEST becomes a mirror of its own. Later copies and jobs can add to it.

    \b
    zooadapt sync s3://bucket/mirror near --models 'resnet*' --chans 4 --anon
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
    parts += [f"{done.already} were there already"] if done.already else []
    parts += [f"{len(done.wrong)} failed; run the same command to retry"] if done.wrong else []
    click.echo("; ".join(parts))
    return WRONG if done.wrong else OK


COMMANDS = (verify, gc, rebuild, write_page, sync)
