"""What the config.json of a fine-tuned timm checkpoint states, as timm reads it, or why it can't.

Anybody may have written it: what isn't as it should be is one line, and nothing it asks for takes
memory or time without bound.
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
"""Keys that say more than timm knows."""
_UNREAD = "zooadapt couldn't read it"
_MOST_CLASSES = 10**7


@dataclass(frozen=True)
class Described:
    """A checkpoint by its config.json."""

    config: Mapping[str, Any]
    """For timm."""
    arguments: Mapping[str, Any]
    """With which timm builds the model."""
    facts: ModelFacts


def stated(text: str) -> dict[str, str]:
    """What a config.json names, for a list: `architecture`, `tag`, `license`. Never raises."""
    try:
        config = json.loads(text)
        named = {**config.get("pretrained_cfg", config), "architecture": config["architecture"]}
    except Exception:  # whatever it is, `described` says it
        return {}
    names = ("architecture", "tag", "license")
    return {name: named[name] for name in names if isinstance(named.get(name), str)}


def unread(why: str) -> str:
    """What stands for a config.json that couldn't be read."""
    return json.dumps({_UNREAD: why})


def described(text: str) -> Described:
    """All that a model's config.json says.

    Raises CheckpointError where it can't be understood, FetchError where it is `unread`, and
    Unsupported for an architecture that the installed timm doesn't know.
    """
    if not text:
        raise CheckpointError(f"its {CONFIG} couldn't be read; the same with --retry-failed")
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
        raise CheckpointError(f"model_args has {absurd[0]:g}, and no model is so large")


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON value."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


def _size(cfg: PretrainedCfg, arguments: Mapping[str, Any]) -> tuple[int, int, int]:
    """(channels, height, width)."""
    chans, *size = cfg.input_size
    own = arguments.get("img_size") or size
    height, width = (own, own) if isinstance(own, int) else own
    found = arguments.get("in_chans") or chans, height, width
    meta.check_image(found)
    return found


def _classes(cfg: PretrainedCfg, arguments: Mapping[str, Any]) -> int:
    number = arguments.get("num_classes", cfg.num_classes)
    if not isinstance(number, int) or not number <= _MOST_CLASSES:
        raise CheckpointError(f"num_classes is {number!r:.40}")
    return max(0, number)


def _for_each(values: Sequence[float], chans: int, name: str) -> tuple[float, ...]:
    """The mean or std of each channel; of another number of channels the average.

    timm leaves those of RGB in the description of a model that it made for other channels.
    """
    if not values or not all(math.isfinite(value) and value >= 0 for value in values):
        raise CheckpointError(f"{name} is {values!r:.40}")
    if len(values) == chans:
        return tuple(map(float, values))
    return (sum(values) / len(values),) * chans


def _bands(config: Mapping[str, Any], chans: int) -> Bands:
    """By the key `bands`, or what a variant of ours was made for; RGB where there are three."""
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
