"""The commands of those who use a mirror: find a variant, pull it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zooadapt.cli.common import OK, MirrorOptions, as_json, of_mirrors, of_mirrors_if_any
from zooadapt.errors import UsageError
from zooadapt.targets import SCHEMES
from zooadapt.urls import absolute

if TYPE_CHECKING:
    import pandas as pd

    from zooadapt.reader.mirror import Mirror

_SHOWN = ("model", "in_chans", "bands", "scheme", "params", "input_height", "license")
_OFFERED = ("model", "params", "input_height", "license", "source")
_MODEL = (
    "zoo", "model", "architecture", "pretrained_tag", "license", "params", "num_classes",
    "input_height", "input_width", "weights_dtype", "stems", "min_timm", "source_uri",
)  # fmt: skip
_VARIANT = (
    "in_chans", "bands", "scheme", "bytes", "equivalence_error", "control_error", "equivalent",
    "proof", "checked_on", "folder",
)  # fmt: skip

_chans = click.option("--chans", type=click.IntRange(min=1), metavar="N", help="Channels.")
_bands = click.option("--bands", metavar="BANDS", help="Named bands, as for `adapt`.")
_scheme = click.option("--scheme", type=click.Choice(sorted(SCHEMES)))
_zoo = click.option("--zoo", metavar="NAME", help="Only models of this zoo.")


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    names = [name.strip() for name in (value or "").split(",") if name.strip()]
    if value is not None and not names:
        raise UsageError("--columns is empty; `all` is for every one")
    return names


@click.command()
@of_mirrors_if_any
@click.argument("model", default="*", metavar="[MODEL]")
@_chans
@_bands
@_scheme
@click.option("--license", metavar="GLOB", help="As the source states it; `unknown` for none.")
@_zoo
@click.option("--available", is_flag=True, help="What the zoo offers, instead of a mirror's rows.")
@click.option(
    "--source-root",
    envvar="ZOOADAPT_SOURCE_ROOT",
    metavar="URL",
    help="For --available: what stands in for the Hub.",
)
@click.option(
    "--columns",
    callback=_names,
    metavar="NAME,…",
    help="Of the manifest, or of what is available; `all` for every one.",
)
@click.option(
    "--sort",
    default="model",
    metavar="COLUMN",
    show_default=True,
    help="With - before it, the largest first.",
)
@as_json  # fmt: skip
def ls(
    mirrors: MirrorOptions, model: str, chans: int | None, bands: str | None, scheme: str | None,
    license: str | None, zoo: str | None, available: bool, source_root: str | None,
    columns: list[str], sort: str, as_json: bool,
) -> int:  # fmt: skip
    """List variants; MODEL is a glob, such as 'resnet*'."""
    from zooadapt.report import tables

    if available:
        if chans or bands or scheme:
            raise UsageError("--available is of models: no --chans, --bands or --scheme")
        columns = columns or list(_OFFERED)
        counts = {"params", "all", "-params"} & {*columns, sort}
        rows = _offered(mirrors, source_root, zoo or "timm", bool(counts), model, license)
    else:
        columns = columns or list(_SHOWN)
        rows = mirrors.opened().find(model, chans, bands, scheme, license=license, zoo=zoo)
    rows = tables.sorted_by(rows, sort)
    rows = rows if columns == ["all"] else tables.selected(rows, columns)
    click.echo(tables.as_json(rows) if as_json else tables.table(rows))
    if not as_json:
        click.echo(f"{len(rows)} {'model' if available else 'variant'}{'s' * (len(rows) != 1)}")
    return OK


def _offered(
    mirrors: MirrorOptions, source_root: str | None, zoo: str, counts: bool,
    model: str, license: str | None,
) -> "pd.DataFrame":  # fmt: skip
    """The models of a zoo that match, with their parameters if `counts`."""
    from zooadapt.reader.cache import default_root
    from zooadapt.reader.zoo_models import offered

    places, root = mirrors.places, source_root or mirrors.places.source_root
    return offered(
        zoo,
        absolute(root, "--source-root") if root else None,
        places.source_storage_options,
        model=model,
        license=license,
        cache=default_root() if counts else None,
    )


@click.command()
@of_mirrors
@click.argument("model")
@_zoo
@as_json
def show(mirror: "Mirror", model: str, zoo: str | None, as_json: bool) -> int:
    """Say all about one model and its variants."""
    from zooadapt.report import tables

    rows = mirror.siblings(model, zoo)
    if as_json:
        click.echo(tables.as_json(rows))
        return OK
    click.echo(tables.facts(rows, _MODEL))
    click.echo()
    click.echo(tables.table(rows[list(_VARIANT)]))
    return OK


@click.command()
@of_mirrors
@click.argument("model")
@_chans
@_bands
@_scheme
@_zoo
@click.option("--to", type=Path, metavar="DIR", help="The folder to write, instead of the cache.")
@click.option("--derive/--no-derive", default=True, show_default=True,
              help="Make and prove what the mirror lacks; needs torch and timm.")  # fmt: skip
def pull(
    mirror: "Mirror", model: str, chans: int | None, bands: str | None, scheme: str | None,
    zoo: str | None, to: Path | None, derive: bool,
) -> int:  # fmt: skip
    """Get a model for some channels; prints its folder.

    Plain timm loads the folder of one of its own models.
    """
    if (chans is None) == (bands is None):
        raise UsageError("pull takes either --chans or --bands")
    folder = mirror.pull(model, chans, bands, scheme, derive=derive, zoo=zoo, to=to)
    click.echo(folder)
    row = mirror.siblings(model, zoo).iloc[0]
    hint = f"timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)"
    if not row["min_timm"]:
        from zooadapt.report.closing import creating

        places = list(click.get_current_context().params["mirror"])
        hint = creating(dict(row), in_chans=chans, bands=bands, scheme=scheme, mirror=places)
    click.echo(f"load it with  {hint}", err=True)
    return OK


@click.command()
@of_mirrors
@as_json
def status(mirror: "Mirror", as_json: bool) -> int:
    """Say what a mirror holds, and what timm has besides."""
    from zooadapt.report import status

    found = status.status(mirror.manifest())
    click.echo(json.dumps(found, indent=2) if as_json else status.status_lines(found))
    return OK


COMMANDS = (ls, show, pull, status)
