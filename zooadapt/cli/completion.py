"""What a shell completes: names of models and presets. `zooadapt -h` says how to turn it on."""

from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from zooadapt import bands
from zooadapt.errors import ZooadaptError


def models(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of timm's and torchvision's models, and of those in mirrors on this machine."""
    from zooadapt.reader.mirror import open_mirror
    from zooadapt.zoos import registry

    names: set[str] = set()
    for zoo in ("timm", "torchvision"):
        with suppress(ZooadaptError):  # its library isn't installed
            names |= {entry.name for entry in registry.list_models(zoo)}
    with suppress(Exception):  # a shell that completes prints no errors
        names |= {*open_mirror(offline=True).manifest()["model"]}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def presets(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of presets of bands, with what each is."""
    return [
        CompletionItem(name, help=bands.stated(name)["title"])
        for name in bands.presets()
        if name.startswith(incomplete)
    ]
