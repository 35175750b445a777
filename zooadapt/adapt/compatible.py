"""Check whether a scheme has a matrix for given channels, from the bands alone, without torch."""

from zooadapt.errors import Unsupported
from zooadapt.targets import Bands, get_scheme


def check(scheme: str, source: Bands, target: Bands) -> None:
    """Raise Unsupported, with the reason, if the scheme has no matrix for these channels.

    `source` lists the channels of the original weights, `target` those of the variant.
    """
    match get_scheme(scheme).name:
        case "nearest":
            _check_nearest(source, target)
        case "rgb-only":
            _check_rgb_only(source, target)


def _check_nearest(source: Bands, target: Bands) -> None:
    if not target.names:
        raise Unsupported("nearest needs named bands; give --bands")
    if not source.names:
        raise Unsupported(f"nearest needs named channels; the model's own {len(source)} have none")
    for band in target.channels:
        for name, _ in band.weights:
            if name not in source.names:
                raise Unsupported(
                    f"weights are given for the base channel {name}; the model has "
                    f"{', '.join(source.names)}"
                )


def _check_rgb_only(source: Bands, target: Bands) -> None:
    if source.rgb != source.names or not source.rgb:
        raise Unsupported("rgb-only needs a model with red, green and blue channels")
    if not target.rgb:
        raise Unsupported(f"rgb-only needs red, green and blue bands; {target.label} has none")
