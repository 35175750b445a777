"""Named bands: presets of real sensors, lists of names, and the user's own YAML files."""

import difflib
import hashlib
import importlib.resources
import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from zooadapt.errors import UsageError
from zooadapt.targets import Band, Bands

RGB = Bands(
    "rgb",
    (Band("R", 645.0, 50.0), Band("G", 555.0, 20.0), Band("B", 469.0, 20.0)),
    rgb=("R", "G", "B"),
)
"""The channels of an RGB model. Their wavelengths are those of the MODIS bands 1, 4 and 3, of which
its true-colour images are made (NASA, MODIS specifications)."""

COMMON = {
    band.name: band
    for band in (
        *RGB.channels,
        Band("RE", 705.0, 15.0),
        Band("NIR", 842.0, 115.0),
        Band("SWIR1", 1610.0, 90.0),
        Band("SWIR2", 2190.0, 180.0),
        Band("TIR", 10900.0, 600.0),
        Band("GREY", 550.0, 300.0),
        Band("VV"),
        Band("VH"),
    )
}
"""The bands that a plain list of names can contain, by name."""

_COLOURS = {"RED": "R", "GREEN": "G", "BLUE": "B", "GRAY": "GREY"}
"""Other spellings of common bands."""
_LABEL = 40
"""The longest label, in characters. A longer list of names is labelled by its length and a hash."""
_SHORTEST = 100.0
"""The shortest wavelength in nm; a smaller number is surely in another unit."""
_KEYS = {"title", "source", "rgb", "bands", "weights"}
_YAML = (".yaml", ".yml")
_SENSORS = (
    "grey", "hls", "landsat8-oli", "naip", "planetscope-superdove", "sentinel1", "sentinel2-l1c",
    "sentinel2-l2a", "worldview3", "landsat8-oli-tirs", "landsat-tm", "landsat-etm", "so2sat",
)  # fmt: skip
"""The presets that are searched, in this order, for names that are given without a preset."""
_SENSOR = re.compile("^E?TM_")
"""What comes before the names of Landsat's TM and ETM+, and may be left out."""
_BAND_KEYS = {"name", "wavelength", "width"}


ALIASES = {
    "bigearthnet-s2": "sentinel2-l2a",
    "ssl4eo-s2a": "sentinel2-l2a",
    "ssl4eo-s2c": "sentinel2-l1c",
    "torchgeo-sentinel2": "sentinel2-l1c",
}
"""Other names of presets: data sets and weights that have just these bands in this order, as
torchgeo 0.8 reads them."""


def parse(text: str, files: bool = True) -> Bands:
    """The bands that an option names, in order.

    They are a preset, ``PRESET:NAME,NAME…``, names, a YAML file, or several of these joined by
    ``+``. Names of presets and bands can be in any case, ``B1`` means ``B01``, and ``S2_`` can come
    before Sentinel-2's. Without `files` no file is read. Raises UsageError in one line
    that says what to do.
    """
    is_file = files and text.endswith(_YAML)
    if "+" in text and not (is_file and Path(text).exists()):
        return _together([parse(part.strip(), files) for part in text.split("+")])
    if is_file:
        return _from_file(Path(text))
    name, colon, subset = text.partition(":")
    name = ALIASES.get(name.lower(), name)
    if colon or name.lower() in presets():
        found = preset(name.lower())
        return _chosen(found, _names(subset)) if colon else found
    names = _names(text)
    if len(names) == 1 and names[0].upper() not in COMMON:
        preset(text)  # raises an error that lists the presets
    return _from_names(names)


def _together(parts: list[Bands]) -> Bands:
    """The bands of several sensors, one after the other."""
    channels = tuple(band for part in parts for band in part.channels)
    _check_unique("+".join(part.label for part in parts), [band.name for band in channels])
    rgb = next((part.rgb for part in parts if part.rgb), ())
    label = "-".join(part.label for part in parts)
    own = any(part.digest for part in parts)
    return Bands(label, channels, rgb, _digest([asdict(band) for band in channels]) if own else "")


def described(content: Any) -> Bands:
    """The bands that a model's own config names, in any of the forms that ``--bands`` takes.

    It is the name of a preset, ``PRESET:NAME,NAME…``, or a list: of names, which can be those of a
    preset, or of mappings like those in YAML files. No file is read. Raises UsageError, whose text
    goes on after the name of the key.
    """
    try:
        if isinstance(content, str):
            return base(parse(content, files=False).channels)
        if not isinstance(content, list):
            raise UsageError(f"{content!r:.40} is no preset, and no list of names or of mappings")
        names = [item for item in content if isinstance(item, str)]
        if names == content and any(name.upper() not in COMMON for name in names):
            return base(_of_a_preset(names))
        return base(_described({"bands": content}, "").channels)
    except UsageError as cause:
        raise UsageError(str(cause).removeprefix("--bands ").lstrip(" :")) from cause


def _of_a_preset(names: list[str]) -> tuple[Band, ...]:
    """The channels of the first preset that has all names. Raises UsageError if none has."""
    _check_unique("", names)
    for each in map(preset, _SENSORS):
        known = COMMON | {band.name: band for band in each.channels}
        if set(names) <= known.keys():
            return tuple(known[name] for name in names)
    raise UsageError(
        f"no preset has all of {', '.join(names)}; give a mapping with a name and a wavelength in "
        f"nm for each"
    )


def remembered(names: list[str]) -> Bands:
    """The bands of an existing variant, of which only the names are known.

    Their wavelengths come from the first preset that has all the names, else from `COMMON`. A name
    that neither has gets no wavelength.
    """
    sensors = [preset(name).channels for name in _SENSORS]
    rest = {*names} - COMMON.keys()  # as several sensors in one image can be named
    fitting = [channels for channels in sensors if rest <= {band.name for band in channels}]
    known = COMMON | {band.name: band for band in (fitting[0] if fitting else ())}
    return base(tuple(known.get(name, Band(name)) for name in names))


def base(channels: tuple[Band, ...]) -> Bands:
    """The bands of a model's own weights, from their named channels."""
    names = tuple(band.name for band in channels)
    return RGB if channels == RGB.channels else Bands(_label(names), channels)


def presets() -> list[str]:
    """The names of all presets."""
    files = importlib.resources.files("zooadapt.presets").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


@cache
def preset(name: str) -> Bands:
    """A sensor's bands in their native order. Raises UsageError for an unknown preset."""
    if name not in presets():
        begun = [each for each in presets() if each.startswith(name)]
        near = begun or difflib.get_close_matches(name, presets(), n=1)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"the presets are {', '.join(presets())}"
        )
        raise UsageError(f"--bands {name}: no such preset; {hint}")
    return replace(_described(stated(name), name), label=name)


def stated(name: str) -> dict[str, Any]:
    """What a preset's YAML file states: a title, a source and the bands."""
    file = importlib.resources.files("zooadapt.presets") / f"{name}.yaml"
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    return content


def short(names: str) -> str:
    """The preset that has just these comma-joined bands, else `names`."""
    return _sensors().get(names, names)


@cache
def _sensors() -> dict[str, str]:
    """The names of presets by their comma-joined bands, without presets of common bands only."""
    found = {preset(name).names: name for name in presets()}
    return {",".join(names): name for names, name in found.items() if {*names} - {*COMMON}}


def mixture(names: Iterable[str], shares: Iterable[float]) -> str:
    """What a band reads, such as ``0.5 R + G``: the channels' names and shares; "" for nothing."""
    parts = (
        name if share == 1 else f"{share:.3g} {name}"
        for name, share in zip(names, shares, strict=True)
        if share
    )
    return " + ".join(parts)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(
            f"--bands {text!r} is empty or has an empty name; give names such as R,G,B"
        )
    return names


def _from_names(names: list[str]) -> Bands:
    names = [_COLOURS.get(name.upper(), name) for name in names]
    unknown = [name for name in names if name.upper() not in COMMON]
    if unknown:
        near = difflib.get_close_matches(unknown[0].upper(), COMMON, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"--bands {','.join(names)}: unknown band {', '.join(unknown)}{hint}; the known names "
            f"are {', '.join(COMMON)}; for other bands give a preset ({', '.join(presets())}) or a "
            f"YAML file with their wavelengths"
        )
    channels = tuple(COMMON[name.upper()] for name in names)
    found = tuple(band.name for band in channels)
    _check_unique(",".join(names), list(found))
    rgb = RGB.rgb if set(RGB.rgb) <= set(found) else ()
    return Bands(_label(found), channels, rgb)


def _chosen(bands: Bands, names: list[str]) -> Bands:
    """The bands of a preset that `names` lists, in the order of `names`."""
    known = {_plain(_SENSOR.sub("", name)): name for name in bands.names}
    known |= {_plain(name): name for name in bands.names}
    if "B04" in bands.names:  # Sentinel-2's, alone or with Sentinel-1's
        known |= {f"S2_{plain}": name for plain, name in known.items()}
    missing = [name for name in names if _plain(name) not in known]
    names = [known.get(_plain(name), name) for name in names]
    if missing:
        raise UsageError(
            f"--bands {bands.label}: no band {', '.join(missing)}; it has {', '.join(bands.names)}"
        )
    _check_unique(bands.label, names)
    channels = tuple(bands.channels[bands.names.index(name)] for name in names)
    rgb = bands.rgb if set(bands.rgb) <= set(names) else ()
    if channels == bands.channels:
        return bands
    return Bands(f"{bands.label}-{_label(tuple(names))}", channels, rgb)


def _plain(name: str) -> str:
    """A band's name in capitals and without leading zeros."""
    return re.sub(r"^(S2_)?B0+(?=\d)", r"\1B", name.upper())


def _label(names: tuple[str, ...]) -> str:
    joined = "-".join(names)
    return joined if len(joined) <= _LABEL else f"{len(names)}bands-{_digest(names)}"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


def _from_file(file: Path) -> Bands:
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as cause:
        raise UsageError(f"--bands {file} can't be read: {cause.strerror}") from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise UsageError(f"--bands {file} isn't YAML: {' '.join(str(cause).split())}") from cause
    bands = _described(content, str(file))
    return replace(bands, label=file.stem, digest=_digest(asdict(replace(bands, label=""))))


def _described(content: Any, where: str) -> Bands:
    """The bands that the content of a YAML file describes. The caller sets their label."""
    if not isinstance(content, dict) or not isinstance(content.get("bands"), list | str):
        raise UsageError(f"--bands {where} must hold `bands:`, a list of names or of mappings")
    _check_keys(content, _KEYS, where)
    if isinstance(content["bands"], str):  # as on the command line
        _check_keys(content, _KEYS - {"rgb", "weights"}, where)
        return parse(content["bands"], files=False)
    weights = content.get("weights") or {}
    if not isinstance(weights, dict) or not isinstance(content.get("rgb") or [], list):
        raise UsageError(
            f"--bands {where}: weights must be a mapping by band, and rgb a list of three bands"
        )
    channels = tuple(_band(item, weights, where) for item in content["bands"])
    names = [band.name for band in channels]
    if not names:
        raise UsageError(f"--bands {where} lists no band")
    _check_unique(where, names)
    strange = [name for name in [*weights, *(content.get("rgb") or [])] if name not in names]
    if strange:
        raise UsageError(f"--bands {where}: {', '.join(map(str, strange))} isn't one of its bands")
    rgb = tuple(content.get("rgb") or (RGB.rgb if set(RGB.rgb) <= set(names) else ()))
    if len(rgb) not in (0, 3):
        raise UsageError(f"--bands {where}: rgb must name three bands: red, green and blue")
    return Bands(where, channels, rgb)


def _band(item: Any, weights: Any, where: str) -> Band:
    if isinstance(item, dict):
        _check_keys(item, _BAND_KEYS, where)
    elif not isinstance(item, str):
        raise UsageError(f"--bands {where}: {item!r} isn't the name of a band; put it in quotes")
    name = item if isinstance(item, str) else item.get("name")
    if not isinstance(name, str) or not name or set(name) & set(",/"):
        raise UsageError(f"--bands {where}: {name!r} can't name a band; use no commas or slashes")
    try:
        explicit = tuple((str(k), float(v)) for k, v in (weights.get(name) or {}).items())
        stated = item if isinstance(item, dict) else {}
        wavelength = stated.get("wavelength")
        wavelength = None if wavelength is None else float(wavelength)
        width = float(stated.get("width") or 0)
    except (AttributeError, TypeError, ValueError) as cause:
        raise UsageError(f"--bands {where}: band {name} has a value that isn't a number") from cause
    if not all(map(math.isfinite, [wavelength or 0, width, *(weight for _, weight in explicit)])):
        raise UsageError(f"--bands {where}: band {name} has a value that is not finite")
    if wavelength is not None and wavelength < _SHORTEST:
        raise UsageError(f"--bands {where}: band {name} at {wavelength:g}: wavelengths are in nm")
    if "wavelength" in stated or explicit:
        return Band(name, wavelength, width, explicit)
    if name.upper() not in COMMON:
        raise UsageError(
            f"--bands {where}: band {name} needs a wavelength in nm (null for a band without "
            f"one, such as radar) or weights"
        )
    return replace(COMMON[name.upper()], name=name)


def _check_keys(content: dict[Any, Any], known: set[str], where: str) -> None:
    unknown = sorted(map(str, content.keys() - known))
    if unknown:
        keys = ", ".join(sorted(known))
        raise UsageError(f"--bands {where}: unknown key {', '.join(unknown)}; the keys are {keys}")


def _check_unique(where: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"--bands {where}: {', '.join(twice)} is named twice")
