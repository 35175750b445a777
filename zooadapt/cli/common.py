"""What the commands of a mirror share: exit codes, and how the mirror is named."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from zooadapt.errors import UsageError
from zooadapt.job.options import Places, read_places
from zooadapt.urls import absolute

if TYPE_CHECKING:
    from zooadapt.reader.mirror import Mirror

OK, WRONG, USAGE, STOPPED = 0, 1, 2, 3
"""Exit codes; for `adapt`, 1 says that some models failed. See the README."""

NO_MIRROR = "which mirror? give its URL or folder with --mirror, or set ZOOADAPT_MIRROR"

_CONFIG = click.option(
    "--config", "config", envvar="ZOOADAPT_CONFIG", metavar="FILE",
    help="A job's YAML file, for its `dest` and `storage_options`.",
)  # fmt: skip
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def of_mirror(command: Callable[..., int]) -> Callable[..., Any]:
    """Decorate a command with its one mirror; it is called with the mirror's store first."""

    @wraps(command)
    def called(place: str | None, mirror: str | None, config: str | None, **options: Any) -> int:
        from zooadapt.stores.opening import open_store

        places = read_places(config)
        url = place or mirror or places.dest
        if not url:
            raise UsageError(NO_MIRROR)
        return command(open_store(absolute(url, "MIRROR"), dict(places.storage_options)), **options)

    argument = click.argument("place", required=False, metavar="[MIRROR]")
    option = click.option("--mirror", envvar="ZOOADAPT_MIRROR", metavar="URL", help="The same.")
    return argument(option(_CONFIG(called)))


@dataclass(frozen=True)
class MirrorOptions:
    """Where a reader's mirrors are, by the options; nothing is opened yet."""

    urls: tuple[str, ...]
    places: Places
    anon: bool
    offline: bool

    def opened(self) -> "Mirror":
        """The mirrors. Raises UsageError where none is named."""
        from zooadapt.reader.mirror import open_mirror

        urls = self.urls or ((self.places.dest,) if self.places.dest else ())
        if not urls:
            raise UsageError(NO_MIRROR)
        each = [with_anon(url, self.places.storage_options, self.anon) for url in urls]
        return open_mirror(urls, each, offline=self.offline or None)


def of_mirrors(command: Callable[..., int]) -> Callable[..., Any]:
    """Decorate a command that reads mirrors; it is called with a `Mirror` first."""

    @wraps(command)
    def called(mirrors: MirrorOptions, **options: Any) -> int:
        return command(mirrors.opened(), **options)

    return of_mirrors_if_any(called)


def of_mirrors_if_any(command: Callable[..., int]) -> Callable[..., Any]:
    """Decorate a command that may do without mirrors; it is called with a `MirrorOptions` first."""

    @wraps(command)
    def called(
        mirror: tuple[str, ...], config: str | None, anon: bool, offline: bool, **options: Any
    ) -> int:
        return command(MirrorOptions(mirror, read_places(config), anon, offline), **options)

    settings = (
        click.option("--mirror", envvar="ZOOADAPT_MIRROR", multiple=True, metavar="URL",
                     help="Its URL or folder; several are tried in the order given."),
        click.option("--anon", is_flag=True, help="Without credentials, for public buckets."),
        click.option("--offline", is_flag=True, help="Use only what is on this machine."),
        _CONFIG,
    )  # fmt: skip
    decorated: Any = called
    for setting in reversed(settings):
        decorated = setting(decorated)
    return decorated  # type: ignore[no-any-return]


def with_anon(url: str, given: Mapping[str, Any], anon: bool) -> Mapping[str, Any]:
    """fsspec options that do without credentials, where the URL is of S3."""
    return {**given, "anon": True} if anon and url.startswith("s3:") else given
