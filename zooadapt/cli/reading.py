"""The commands for people who use a mirror: find variants, pull them, see what is there."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zooadapt.cli import completion
from zooadapt.cli.common import OK, MirrorOptions, as_json, of_mirrors
from zooadapt.errors import UsageError
from zooadapt.job.options import parse_chans
from zooadapt.names import MANIFEST
from zooadapt.targets import SCHEMES
from zooadapt.urls import absolute, cache_root

if TYPE_CHECKING:
    import pandas as pd

    from zooadapt.reader.mirror import Mirror

_SHOWN = ("model", "in_chans", "bands", "scheme", "equivalent", "params", "input_height", "license")
_OFFERED = ("model", "params", "input_height", "license", "source")
_MODEL = (
    "zoo", "model", "architecture", "pretrained_tag", "license", "params", "num_classes",
    "input_height", "input_width", "weights_dtype", "stems", "min_timm", "source_uri",
)  # fmt: skip
_VARIANT = (
    "in_chans", "bands", "scheme", "bytes", "equivalence_error", "control_error", "equivalent",
    "proof", "checked_on", "folder",
)  # fmt: skip

_chans = click.option("--chans", callback=parse_chans, metavar="N,…",
                      help="The number of channels; ls and pull take several.")  # fmt: skip
_bands = click.option(
    "--bands",
    metavar="BANDS",
    shell_complete=completion.presets,
    help="The bands, named as for `adapt`.",
)
_scheme = click.option(
    "--scheme",
    type=click.Choice(sorted(SCHEMES)),
    help="The rule that makes each channel's filters from the original's.",
)
_zoo = click.option("--zoo", metavar="NAME", help="Only models of this zoo.")


def _variant(command: Callable[..., int]) -> Callable[..., int]:
    """Decorate a command with the options that choose one variant of a model."""
    return _chans(_bands(_scheme(_zoo(command))))


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    names = [name.strip() for name in (value or "").split(",") if name.strip()]
    if value is not None and not names:
        raise UsageError("--columns is empty; give names of columns, or `all`")
    return names


@click.command()
@of_mirrors
@click.argument("model", default="*", metavar="[MODEL]", shell_complete=completion.models)
@_chans
@_bands
@_scheme
@click.option("--license", metavar="GLOB",
              help="The licence that the source states; `unknown` if it states none.")  # fmt: skip
@_zoo
@click.option("--available", is_flag=True,
              help="List the models that a zoo offers, not a mirror's variants.")  # fmt: skip
@click.option("--source-root", envvar="ZOOADAPT_SOURCE_ROOT", metavar="URL",
              help="With --available: look in this folder or URL, not on the Hub.")  # fmt: skip
@click.option("--columns", callback=_names, metavar="NAME,…",
              help="The columns to show; `all` shows every column.")  # fmt: skip
@click.option("--sort", default="model", metavar="COLUMN", show_default=True,
              help="The column to sort by; -COLUMN puts the largest first.")  # fmt: skip
@as_json
def ls(
    mirrors: MirrorOptions, model: str, chans: tuple[int, ...], bands: str | None,
    scheme: str | None, license: str | None, zoo: str | None, available: bool,
    source_root: str | None, columns: list[str], sort: str, as_json: bool,
) -> int:  # fmt: skip
    """List the variants in a mirror.

    MODEL is a name or a glob, such as 'resnet*'. It may also be the URL or folder of the mirror.

    \b
    zooadapt ls 'resnet*' --chans 8 --license 'apache*' --sort=-params
    zooadapt ls s3://bucket/mirror --bands sentinel2-l2a
    zooadapt ls --available 'vit_*'
    """
    from zooadapt.report import tables

    if "://" in model or (Path(model) / MANIFEST).exists():
        mirrors, model = replace(mirrors, urls=(model,)), "*"

    if available:
        if chans or bands or scheme:
            raise UsageError(
                "--available lists models, not variants; leave out --chans, --bands and --scheme"
            )
        columns = columns or list(_OFFERED)
        counts = {"params", "all", "-params"} & {*columns, sort}
        rows = _offered(mirrors, source_root, zoo or "timm", bool(counts), model, license)
    else:
        columns = columns or list(_SHOWN)
        found = mirrors.opened().find(model, chans or None, bands, scheme, license=license, zoo=zoo)
        if not len(found) and (chans or bands) and not as_json:
            asked = f"--bands {bands}" if bands else f"--chans {','.join(map(str, chans))}"
            click.echo(f"no such variant is there; zooadapt pull MODEL {asked} makes one", err=True)
        rows = found
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
    """The models of a zoo that match; if `counts`, with their numbers of parameters."""
    from zooadapt.reader.zoo_models import offered

    places, root = mirrors.places, source_root or mirrors.places.source_root
    return offered(
        zoo,
        absolute(root, "--source-root") if root else None,
        places.source_storage_options,
        model=model,
        license=license,
        cache=cache_root() if counts else None,
    )


@click.command()
@of_mirrors
@click.argument("model", shell_complete=completion.models)
@_variant
@click.option("--card", is_flag=True, help="Print one variant's card for the Hugging Face Hub.")
@click.option("--plot", type=Path, metavar="FILE",
              help="Draw one variant's first layer to this .png, .svg or .pdf file.")  # fmt: skip
@as_json
def show(
    mirrors: MirrorOptions, model: str, chans: tuple[int, ...], bands: str | None,
    scheme: str | None, zoo: str | None, card: bool, plot: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Show all that is known of one model and its variants.

    Without a mirror these are the variants that were made on this machine.

    \b
    zooadapt show resnet34.a1_in1k --mirror s3://bucket/mirror
    zooadapt show resnet34.a1_in1k --chans 4 --card
    zooadapt show resnet34.a1_in1k --bands sentinel2-l2a --plot stem.png
    """
    from zooadapt.report import tables

    wish, mirror = (_one(chans), bands, scheme), mirrors.opened(needed=False)
    if card:
        click.echo(mirror.card(model, *wish, zoo), nl=False)
    if plot:
        _draw(mirror, model, wish, zoo, plot)
    if card or plot:
        return OK
    if any(wish):
        raise UsageError("--chans, --bands and --scheme choose a variant for --card or --plot")
    rows = mirror.siblings(model, zoo)
    if as_json:
        click.echo(tables.as_json(rows))
        return OK
    click.echo(tables.facts(rows, _MODEL))
    if rows["input_mean"].isna().all():
        click.echo("mean and std of the images are not stated by the source")
    click.echo()
    click.echo(tables.table(rows[list(_VARIANT)]))
    for told in tables.changes(rows):
        click.echo(told)
    return OK


_Wish = tuple[int | None, str | None, str | None]


def _one(chans: tuple[int, ...]) -> int | None:
    """The number given with --chans, if any. Raises UsageError for several."""
    if len(chans) > 1:
        raise UsageError("this command takes one number with --chans")
    return chans[0] if chans else None


def _draw(mirror: "Mirror", model: str, wish: _Wish, zoo: str | None, file: Path) -> None:
    import safetensors.torch

    from zooadapt.bands import short
    from zooadapt.report import stem_plot

    row, config = mirror.described(model, wish, zoo)
    target = short(row["bands"]) or f"{row['in_chans']} channels"
    title = f"{row['model']} for {target} under {row['scheme']}"
    stem_plot.write(file, title, config, safetensors.torch.load_file(mirror.stem(row, config)))
    click.echo(f"wrote {file}")


@click.command()
@of_mirrors
@click.argument("model", shell_complete=completion.models)
@_variant
def cite(
    mirrors: MirrorOptions, model: str, chans: tuple[int, ...], bands: str | None,
    scheme: str | None, zoo: str | None,
) -> int:  # fmt: skip
    """Say how to cite one variant: the original, its papers, the scheme, the hashes.

    Without a mirror the variant is looked for among those that were made on this machine.

    \b
    zooadapt cite resnet34.a1_in1k --chans 4 --mirror s3://bucket/mirror
    """
    click.echo(mirrors.opened(needed=False).cite(model, _one(chans), bands, scheme, zoo))
    return OK


@click.command()
@of_mirrors
@click.argument("model", shell_complete=completion.models)
@click.argument("repo", metavar="OWNER/NAME")
@_variant
@click.option("--license", metavar="NAME",
              help="The licence, where the source states none.")  # fmt: skip
@click.option(
    "--public", is_flag=True, help="A new repository is public. By default it is private."
)
@click.option(
    "--dry-run", is_flag=True, help="Print the files' names and sizes and the card; push nothing."
)
def push(
    mirrors: MirrorOptions, model: str, repo: str, chans: tuple[int, ...], bands: str | None,
    scheme: str | None, zoo: str | None, license: str | None, public: bool, dry_run: bool,
) -> int:  # fmt: skip
    """Put one variant and its card into a repository on the Hugging Face Hub, and print its URL.

    No mirror is needed: a variant that no mirror has is made from the original weights. The
    repository is made if it isn't there. Pushing needs a token that may write: `hf auth login`,
    or HF_TOKEN.

    \b
    zooadapt push resnet34.a1_in1k --chans 4 OWNER/NAME
    zooadapt push resnet34.a1_in1k --bands sentinel2-l2a OWNER/NAME --public --dry-run
    """
    if bool(chans) == bool(bands):
        raise UsageError("name the variant: give either --chans N or --bands BANDS")
    from zooadapt.reader import share
    from zooadapt.reader.making import Making
    from zooadapt.report.text import size

    wish = _one(chans), bands, scheme
    share.check(repo, mirrors.offline, dry_run)
    folder, row = mirrors.opened(needed=False).pulled(model, wish, Making(), zoo, None)
    upload = share.prepare(repo, folder, row, license, public, mirrors.offline)
    if dry_run:
        state = "private" if upload.private else "public"
        click.echo(f"would push to the {state} repository {repo}:")
        click.echo("".join(f"  {name}  {size(count)}\n" for name, count in upload.sizes.items()))
        click.echo(upload.card, nl=False)
        return OK
    click.echo(upload.send())
    if row["min_timm"]:
        load = f"timm.create_model({f'hf-hub:{repo}'!r}, pretrained=True)"
        click.echo(f"load the model with  {load}", err=True)
    return OK


@click.command()
@of_mirrors
@click.argument("model", shell_complete=completion.models)
@_variant
@click.option("--to", type=Path, metavar="DIR", help="Write to this folder, not to the cache.")
@click.option("--derive/--no-derive", default=True, show_default=True,
              help="If no mirror has the variant, make it here and prove it. This needs torch "
              "and timm.")  # fmt: skip
@click.option("--prove/--no-prove", default=True, show_default=True,
              help="Run a variant that is made here, and compare its outputs with the "
              "original's.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, metavar="NAME",
              help="The device for that comparison, such as cuda:0.")  # fmt: skip
def pull(
    mirrors: MirrorOptions, model: str, chans: tuple[int, ...], bands: str | None,
    scheme: str | None, zoo: str | None, to: Path | None, **making: Any,
) -> int:  # fmt: skip
    """Download or make one variant of a model, and print its folder.

    Choose the variant with either --chans or --bands. timm can load the folder of a timm model
    without zooadapt. No mirror is needed: a variant that no mirror has is made from the original
    weights. MODEL can also be a folder with a checkpoint of your own, or the id of a repository on
    the Hub.

    \b
    zooadapt pull resnet34.a1_in1k --chans 4
    zooadapt pull resnet34.a1_in1k --bands sentinel2-l2a --to resnet34-s2
    zooadapt pull hf-hub:OWNER/NAME --chans 1 --no-prove
    """
    if bool(chans) == bool(bands):
        raise UsageError("pull takes either --chans or --bands; give one of them")
    if len(chans) > 1 and to:
        raise UsageError("--to is the folder of one variant: give one number with --chans")
    from zooadapt.reader.making import Making

    mirror = mirrors.opened(needed=False)
    for count in chans or (None,):
        folder, row = mirror.pulled(model, (count, bands, scheme), Making(**making), zoo, to)
        click.echo(folder)
        hint = f"timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)"
        if not row["min_timm"]:
            from zooadapt.report.job import creating

            places = list(click.get_current_context().params["mirror"])
            hint = creating(row, in_chans=count, bands=bands, scheme=scheme, mirror=places)
        click.echo(f"load the model with  {hint}", err=True)
    return OK


@click.command()
@of_mirrors
@click.argument("place", required=False, metavar="[MIRROR]")
@as_json
def status(mirrors: MirrorOptions, place: str | None, as_json: bool) -> int:
    """Show what a mirror holds, and which models of timm it lacks.

    \b
    zooadapt status s3://bucket/mirror
    """
    from zooadapt.report import status

    mirror = (replace(mirrors, urls=(place,)) if place else mirrors).opened()
    found = status.status(mirror.manifest())
    click.echo(json.dumps(found, indent=2) if as_json else status.status_lines(found))
    return OK


COMMANDS = (ls, show, pull, push, cite, status)
