"""The commands of those who keep a mirror."""

import re
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from zooadapt.cli.common import OK, WRONG, of_mirror
from zooadapt.errors import RunError, UsageError

if TYPE_CHECKING:
    from zooadapt.store import Store

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.command()
@of_mirror
@click.option("--deep", is_flag=True, help="Prove every variant again, too.")
def verify(store: "Store", deep: bool) -> int:
    """Check every object of a mirror against its manifest."""
    from zooadapt import report
    from zooadapt.verify import verify

    try:
        findings = verify(store, deep)
    except KeyboardInterrupt:
        raise RunError("stopped before all was checked; nothing was changed") from None
    if findings.wrong:
        click.echo(report.wrong_table(findings.wrong))
    click.echo(report.verified(findings, deep))
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
    from zooadapt import garbage, report

    now = datetime.now(UTC)
    before = now - older_than
    with store.session(f"gc-{now:%Y%m%dT%H%M%SZ}") if delete else nullcontext():
        found = garbage.find(store, before)
        if found:
            click.echo(report.garbage_table(found, now))
        gone = garbage.remove(store, found, before) if delete else found
    freed = report.size(sum(item.bytes for item in gone))
    done = "removed" if delete else "may go; --delete removes them" if gone else "may go"
    click.echo(f"{len(gone)} left-overs, {freed}, {done}")
    return OK


@click.command()
@of_mirror
def rebuild(store: "Store") -> int:
    """Make a mirror's manifest again from its records."""
    from zooadapt.rebuild import rebuild

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


COMMANDS = (verify, gc, rebuild)
