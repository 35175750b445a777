"""The command line: `zooadapt adapt`, which `jobs/adapt_zoo.py` is too, and a mirror's upkeep."""

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from zooadapt import __version__
from zooadapt.config import Config, absolute, read_mirror, run_options
from zooadapt.errors import RunError, UsageError, ZooadaptError, one_line, redact

if TYPE_CHECKING:
    from zooadapt.store import Store

OK, WRONG, USAGE, STOPPED = 0, 1, 2, 3
"""Exit codes; for `adapt`, 1 says that some models failed. See the README."""

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.group()
@click.version_option(__version__)
def zooadapt() -> None:
    """Pretrained image models for any number of channels."""


@zooadapt.command()
@run_options
def adapt(config: Config) -> int:
    """Adapt a zoo's pretrained models to other channel counts and mirror them."""
    from zooadapt import run  # torch, timm and Ray: not for --help and bad arguments

    return run.dry_run(config) if config.dry_run else run.adapt(config)


def _of_mirror(command: Callable[..., int]) -> Callable[..., Any]:
    """Decorate a command with MIRROR and --config; it is called with the mirror's store first."""

    @wraps(command)
    def called(mirror: str | None, config: str | None, **options: Any) -> int:
        from zooadapt.store import open_store

        dest, storage_options = read_mirror(config) if config else (None, {})
        url = mirror or dest
        if not url:
            raise UsageError("which mirror? give its URL or folder, or set ZOOADAPT_MIRROR")
        return command(open_store(absolute(url, "MIRROR"), dict(storage_options)), **options)

    argument = click.argument("mirror", required=False, envvar="ZOOADAPT_MIRROR")
    file = click.option(
        "--config", envvar="ZOOADAPT_CONFIG", metavar="FILE",
        help="A job's YAML file, for its `dest` and `storage_options`.",
    )  # fmt: skip
    return argument(file(called))


@zooadapt.command()
@_of_mirror
@click.option("--deep", is_flag=True, help="Prove every variant again, too.")
def verify(store: "Store", deep: bool) -> int:
    """Check every object of a mirror against its manifest."""
    from zooadapt import report
    from zooadapt.mirror import Mirror
    from zooadapt.verify import verify

    try:
        findings = verify(Mirror(store), deep)
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


@zooadapt.command()
@_of_mirror
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


@zooadapt.command()
@_of_mirror
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


def main(arguments: Sequence[str] | None = None, command: click.Command = zooadapt) -> int:
    """Run a command and return its exit code; every error is one line on stderr."""
    try:
        result = command.main(args=arguments, standalone_mode=False)
        return result if isinstance(result, int) else OK
    except click.ClickException as error:
        return _say(error.format_message(), USAGE)
    except UsageError as error:
        return _say(str(error), USAGE)
    except ZooadaptError as error:
        return _say(str(error), STOPPED)
    except (KeyboardInterrupt, click.Abort):
        return _say("stopped; the same command goes on where this one ended", STOPPED)
    except Exception as error:
        return _say(f"stopped by an unforeseen {type(error).__name__}: {one_line(error)}", STOPPED)


def _say(message: str, code: int) -> int:
    click.echo(f"zooadapt: {redact(' '.join(message.split()))}", err=True)
    return code
