"""Read the config.json of a fine-tuned timm checkpoint as timm does, or say what is wrong with it.

Anybody can have written it. Whatever it contains, an error is one line, and the memory and time
that it can ask for are bounded.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
from timm.models._hub import _parse_model_cfg
from timm.models._pretrained import PretrainedCfg

from zooadapt import bands
from zooadapt.bands import RGB
from zooadapt.errors import CheckpointError, FetchError, Unsupported, UsageError, reason
from zooadapt.names import CONFIG
from zooadapt.targets import Bands
from zooadapt.types import ModelFacts
from zooadapt.zoos import meta, timm_releases

_OURS = ("bands", "zooadapt")
"""Keys of zooadapt, which timm doesn't know."""
_UNREAD = "zooadapt couldn't read it"
"""The only key of the text that stands for a config.json that couldn't be read; see `unread`."""
_MOST_CLASSES = 10**7
"""The largest number of classes that is accepted."""


@dataclass(frozen=True)
class Described:
    """What a config.json says of its checkpoint."""

    config: Mapping[str, Any]
    """The config.json without the keys of zooadapt, as timm reads it."""
    arguments: Mapping[str, Any]
    """The arguments with which timm builds the model."""
    facts: ModelFacts


def stated(text: str) -> dict[str, str]:
    """The `architecture`, `tag` and `license` that a config.json names, if any. Never raises."""
    try:
        config = json.loads(text)
        named = {**config.get("pretrained_cfg", config), "architecture": config["architecture"]}
    except Exception:  # `described` says what is wrong
        return {}
    names = ("architecture", "tag", "license")
    return {name: named[name] for name in names if isinstance(named.get(name), str)}


def unread(why: str) -> str:
    """A text in place of a config.json that couldn't be read, with the reason."""
    return json.dumps({_UNREAD: why})


def described(text: str) -> Described:
    """What the text of a config.json says of its checkpoint.

    Raises CheckpointError where it can't be understood, FetchError where it is that of `unread`,
    and Unsupported for an architecture that the installed timm doesn't know.
    """
    if not text:
        raise CheckpointError(f"its {CONFIG} couldn't be read; run again with --retry-failed")
    try:
        config = json.loads(text)
        if isinstance(config, dict) and config.keys() == {_UNREAD}:
            raise FetchError(config[_UNREAD])
        architecture = config["architecture"]
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise CheckpointError(
            f"its {CONFIG} isn't one that timm writes: {reason(cause)}"
        ) from cause
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise Unsupported(f"timm {timm.__version__} knows no architecture {architecture!r}")
    try:
        return _described(config)
    except CheckpointError as error:
        raise CheckpointError(f"its {CONFIG} is refused: {error}") from error.__cause__
    except Exception as cause:
        raise CheckpointError(f"its {CONFIG} can't be understood: {reason(cause)}") from cause


def _described(config: dict[str, Any]) -> Described:
    theirs = {name: value for name, value in config.items() if name not in _OURS}
    stated, architecture, arguments = _parse_model_cfg(json.loads(json.dumps(theirs)), {})
    cfg = PretrainedCfg(**stated)
    _check_arguments(arguments)
    size = _size(cfg, arguments)
    facts = ModelFacts(
        bands=_bands(config, size[0]),
        height=size[1],
        width=size[2],
        mean=_for_each(cfg.mean, size[0], "mean"),
        std=_for_each(cfg.std, size[0], "std"),
        num_classes=_classes(cfg, arguments),
        min_timm=timm_releases.min_timm(architecture),
    )
    return Described(theirs, arguments, facts)


def _check_arguments(arguments: Any) -> None:
    if not isinstance(arguments, dict):
        raise CheckpointError(f"model_args is {arguments!r:.40} instead of a mapping")
    absurd = [n for n in _numbers(arguments) if not abs(n) <= _MOST_CLASSES]
    absurd += [n for n in _numbers({**arguments, "num_classes": 0}) if abs(n) > meta.MOST]
    if absurd:
        raise CheckpointError(f"model_args has {absurd[0]:g}, and no model is that large")


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON value, at any depth of nesting."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


def _size(cfg: PretrainedCfg, arguments: Mapping[str, Any]) -> tuple[int, int, int]:
    """The (channels, height, width) of the model's images."""
    chans, *size = cfg.input_size
    own = arguments.get("img_size") or size
    height, width = (own, own) if isinstance(own, int) else own
    found = arguments.get("in_chans") or chans, height, width
    meta.check_image(found)
    return found


def _classes(cfg: PretrainedCfg, arguments: Mapping[str, Any]) -> int:
    number = arguments.get("num_classes", cfg.num_classes)
    if not isinstance(number, int) or not number <= _MOST_CLASSES:
        raise CheckpointError(f"num_classes is {number!r:.40} instead of a number of classes")
    return max(0, number)


def _for_each(values: Sequence[float], chans: int, name: str) -> tuple[float, ...]:
    """The mean or std of each channel: the values' average where their number isn't `chans`.

    timm keeps RGB's values in the config of a model that it builds for other channels.
    """
    if not values or not all(math.isfinite(value) and value >= 0 for value in values):
        raise CheckpointError(f"{name} is {values!r:.40} instead of finite numbers >= 0")
    if len(values) == chans:
        return tuple(map(float, values))
    return (sum(values) / len(values),) * chans


def _bands(config: Mapping[str, Any], chans: int) -> Bands:
    """The bands of the key `bands`, else those of the variant that the model was tuned from.

    Else RGB where there are three channels, and any other number is only counted.
    """
    named, ours = config.get("bands"), config.get("zooadapt")
    made_for = ours.get("bands") if isinstance(ours, dict) else None
    if not named and not made_for:
        return RGB if chans == 3 else Bands.counted(chans)
    try:
        found = bands.described(named, "its") if named else bands.remembered(list(made_for or ()))
    except UsageError as cause:
        raise CheckpointError(str(cause).removeprefix("--bands ")) from cause
    if len(found) != chans:
        raise CheckpointError(f"bands names {len(found)} channels, and the model has {chans}")
    return found
