"""The command that shows what is known of sensors' bands."""

import click

from zooadapt.cli import completion
from zooadapt.cli.common import OK
from zooadapt.errors import Unsupported, UsageError
from zooadapt.targets import SCHEMES


@click.command("bands")
@click.argument("bands", required=False, metavar="[BANDS]", shell_complete=completion.presets)
@click.option("--scheme", type=click.Choice(sorted(SCHEMES)),
              help="The rule by which bands read red, green and blue.")  # fmt: skip
@click.option("--yaml", "as_yaml", is_flag=True,
              help="Print a YAML file for --bands, to change what a band reads.")  # fmt: skip
def show_bands(bands: str | None, scheme: str | None, as_yaml: bool) -> int:
    """List the presets of bands, or show the order of BANDS and what each of them reads.

    \b
    zooadapt bands
    zooadapt bands sentinel2-l2a
    zooadapt bands sentinel1+sentinel2-l2a:B4,B3,B2,B8 --scheme nearest
    """
    from zooadapt.bands import parse
    from zooadapt.report import bands as report

    if bands is None:
        click.echo(report.listing())
        return OK
    told = report.spec if as_yaml else report.described
    try:
        click.echo(told(parse(bands), scheme).rstrip())
    except Unsupported as error:
        raise UsageError(f"{bands}: {error}") from error
    return OK


COMMANDS = (show_bands,)
