"""What `zooadapt bands` prints: the order of a sensor's bands, and what each of them reads."""

from collections.abc import Sequence

import yaml

from zooadapt import bands
from zooadapt.report import tables
from zooadapt.targets import Bands, Target


def listing() -> str:
    """All presets with their number of bands, and their other names."""
    names = bands.presets()
    found = [bands.preset(name) for name in names]
    return tables.aligned(
        {
            "preset": names,
            "bands": [str(len(each)) for each in found],
            "what it is": [bands.stated(name)["title"] for name in names],
            "also called": [", ".join(_also_called(name)) for name in names],
        }
    )


def described(of: Bands, scheme: str | None) -> str:
    """The bands in order, each with what it reads of an RGB model under the scheme."""
    target = Target.of(of, scheme).for_base(bands.RGB)
    reads = _reads(target)
    columns = {
        "channel": [str(number) for number in range(len(of))],
        "band": list(of.names),
        "nm": [f"{band.wavelength:g}" if band.wavelength else "none" for band in of.channels],
        "width": [f"{band.width:g}" if band.width else "" for band in of.channels],
        "reads": [
            bands.mixture(weights, weights.values()) or "nothing: starts at zero"
            for weights in reads
        ],
    }
    lines = [tables.aligned(columns), "", f"what each band reads is by the scheme {target.scheme}"]
    return "\n".join([*lines, *([target.caution] * bool(target.caution)), *_notes(of)])


def spec(of: Bands, scheme: str | None) -> str:
    """A YAML file for ``--bands`` with these bands and with what they read as weights."""
    target = Target.of(of, scheme).for_base(bands.RGB)
    listed = [
        {"name": band.name, "wavelength": band.wavelength, "width": band.width}
        for band in of.channels
    ]
    weights = {
        name: read or dict.fromkeys(bands.RGB.names, 0.0)
        for name, read in zip(of.names, _reads(target), strict=True)
    }
    content = {"rgb": list(of.rgb), "bands": listed, "weights": weights}
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)


def _reads(target: Target) -> list[dict[str, float]]:
    """For each band, the RGB filters that it takes, and the share of each."""
    from zooadapt.adapt import schemes  # it imports torch, which the list of presets doesn't need

    matrix = schemes.matrix(target.scheme, bands.RGB, target.bands).T.tolist()
    return [
        {
            name: round(share, 6)
            for name, share in zip(bands.RGB.names, column, strict=True)
            if share
        }
        for column in matrix
    ]


def _notes(of: Bands) -> list[str]:
    """Where the bands come from, and which presets have the same bands in another order."""
    if of.digest or of.label not in bands.presets():
        return []
    others = [
        name
        for name in bands.presets()
        if {*bands.preset(name).names} == {*of.names} and bands.preset(name).names != of.names
    ]
    notes = [f"{of.label}: {bands.stated(of.label)['title']}"]
    notes += [f"source: {bands.stated(of.label)['source']}"]
    notes += [f"also called: {', '.join(_also_called(of.label))}"] * bool(_also_called(of.label))
    return notes + [f"the same bands in another order: {', '.join(others)}"] * bool(others)


def _also_called(preset: str) -> Sequence[str]:
    return [alias for alias, name in bands.ALIASES.items() if name == preset]
