"""What the commands share: exit codes, and the options that name a mirror."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from zooadapt.errors import RunError, UsageError, is_of_store, one_line
from zooadapt.job.options import Places, read_places
from zooadapt.urls import absolute

if TYPE_CHECKING:
    from zooadapt.reader.mirror import Mirror

OK, WRONG, USAGE, STOPPED = 0, 1, 2, 3
"""Exit codes. From `adapt`, 1 means that some models failed. See the README."""

NO_MIRROR = (
    "which mirror? give its URL or folder with --mirror, or set ZOOADAPT_MIRROR; without one, "
    "zooadapt ls --available, pull and push work"
)

_CONFIG = click.option("--config", "config", envvar="ZOOADAPT_CONFIG", metavar="FILE",
                       help="A job's YAML file: its `dest` and `storage_options` name the "
                       "mirror.")  # fmt: skip
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def of_mirror(command: Callable[..., int]) -> Callable[..., Any]:
    """Decorate a command that works on one mirror. Its first argument is the mirror's store."""

    @wraps(command)
    def called(place: str | None, mirror: str | None, config: str | None, **options: Any) -> int:
        from zooadapt.stores.opening import open_store

        places = read_places(config)
        url = place or mirror or places.dest
        if not url:
            raise UsageError(NO_MIRROR)
        store = open_store(absolute(url, "MIRROR"), dict(places.storage_options))
        try:
            return command(store, **options)
        except Exception as cause:
            if not is_of_store(cause) or isinstance(cause, BrokenPipeError):
                raise
            raise RunError(f"the mirror {store.url} can't be used: {one_line(cause)}") from cause

    argument = click.argument("place", required=False, metavar="[MIRROR]")
    option = click.option("--mirror", envvar="ZOOADAPT_MIRROR", metavar="URL",
                          help="The mirror's URL or folder, instead of the argument.")  # fmt: skip
    return argument(option(_CONFIG(called)))


@dataclass(frozen=True)
class MirrorOptions:
    """The options that say where a reader's mirrors are. No mirror is opened yet."""

    urls: tuple[str, ...]
    places: Places
    anon: bool
    offline: bool

    def opened(self, needed: bool = True) -> "Mirror":
        """Open the mirrors. Raises UsageError where none is named, if one is `needed`."""
        from zooadapt.reader.mirror import open_mirror

        urls = self.urls or ((self.places.dest,) if self.places.dest else ())
        if not urls and needed:
            raise UsageError(NO_MIRROR)
        each = [with_anon(url, self.places.storage_options, self.anon) for url in urls]
        return open_mirror(urls, each, offline=self.offline or None)


def of_mirrors(command: Callable[..., int]) -> Callable[..., Any]:
    """Decorate a command that reads mirrors. Its first argument is a `MirrorOptions`."""

    @wraps(command)
    def called(
        mirror: tuple[str, ...], config: str | None, anon: bool, offline: bool, **options: Any
    ) -> int:
        return command(MirrorOptions(mirror, read_places(config), anon, offline), **options)

    settings = (
        click.option("--mirror", envvar="ZOOADAPT_MIRROR", multiple=True, metavar="URL",
                     help="The mirror's URL or folder. Several are tried in this order."),
        click.option("--anon", is_flag=True, help="Use no credentials, for public S3 buckets."),
        click.option("--offline", is_flag=True, help="Use only what is already on this machine."),
        _CONFIG,
    )  # fmt: skip
    decorated: Any = called
    for setting in reversed(settings):
        decorated = setting(decorated)
    return decorated  # type: ignore[no-any-return]


_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_age(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> timedelta | None:
    """The time that an option such as ``--older-than 30d`` names. Raises UsageError."""
    if value is None:
        return None
    age = re.fullmatch(r"(\d{1,5})([mhdw])", value)
    if not age:
        raise UsageError(f"--older-than {value}: give a number and m, h, d or w, such as 30d")
    return timedelta(**{_UNITS[age[2]]: int(age[1])})


def with_anon(url: str, given: Mapping[str, Any], anon: bool) -> Mapping[str, Any]:
    """The fsspec options `given`, without credentials if `anon` is true and the URL is of S3."""
    return {**given, "anon": True} if anon and url.startswith("s3:") else given
