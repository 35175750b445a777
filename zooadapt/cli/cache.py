"""The command that shows and empties the cache of this machine."""

from datetime import datetime, timedelta
from pathlib import Path

import click

from zooadapt.cli.common import OK, parse_age
from zooadapt.errors import UsageError
from zooadapt.urls import cache_root


@click.group()
def cache() -> None:
    """List or remove the variants that were pulled to this machine, or made on it.

    \b
    zooadapt cache ls
    zooadapt cache prune --older-than 30d --to 20GB
    """


@cache.command("ls")
def list_cache() -> int:
    """List the variants in the cache, the one that was used last first."""
    from zooadapt.reader import kept
    from zooadapt.report import tables, text

    found = kept.found(cache_root())
    if found:
        columns = {
            "model": [f"{each.zoo}/{each.model}" for each in found],
            "variant": [each.variant for each in found],
            "from": [each.kind for each in found],
            "size": [text.size(each.bytes) for each in found],
            "used": [f"{datetime.fromtimestamp(each.used):%Y-%m-%d %H:%M}" for each in found],
        }
        click.echo(tables.aligned(columns))
    size = text.size(sum(each.bytes for each in found))
    click.echo(f"{text.counted(len(found), 'variant')}, {size}, in {cache_root()}")
    return OK


@cache.command()
@click.option("--older-than", callback=parse_age, metavar="AGE",
              help="Remove what wasn't used for this long, such as 12h, 30d or 8w.")  # fmt: skip
@click.option("--to", "size", metavar="SIZE",
              help="Keep what was used last, up to this size, such as 20GB, or 0B.")  # fmt: skip
def prune(older_than: timedelta | None, size: str | None) -> int:
    """Remove variants from the cache. They are pulled or made again when they are asked for.

    ZOOADAPT_CACHE_LIMIT, such as 20GB, does this by itself whenever a variant is pulled or made.
    """
    from zooadapt.reader import kept
    from zooadapt.report import text

    if older_than is None and size is None:
        raise UsageError("cache prune takes --older-than, --to or both; give one of them")
    most = None if size is None else kept.parse_size(size, "--to")
    age = None if older_than is None else older_than.total_seconds()
    gone = kept.prune(Path(cache_root()), most, age)
    freed = text.size(sum(each.bytes for each in gone))
    click.echo(f"{text.counted(len(gone), 'variant')} removed, {freed}")
    return OK


COMMANDS = (cache,)
