"""Read the config.json of a fine-tuned timm checkpoint as timm does, or say what is wrong with it.

Anybody can have written it. Whatever it contains, an error is one line, and the memory and time
that it can ask for are bounded.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import timm
import timm.layers
from timm.models._hub import _parse_model_cfg
from timm.models._pretrained import PretrainedCfg
from torch import nn

from zooadapt.errors import CheckpointError, FetchError, Unsupported, reason
from zooadapt.names import CONFIG, NOTE
from zooadapt.types import ModelFacts
from zooadapt.zoos import meta, timm_releases
from zooadapt.zoos.described import bands_of, for_each

_OURS = ("bands", "zooadapt")
"""Keys of zooadapt, which timm doesn't know."""
_UNREAD = "zooadapt couldn't read it"
"""The only key of the text that stands for a config.json that couldn't be read; see `unread`."""
_NAMED_BY_TIMM = ("act_layer", "norm_layer")
_FLAT = {"architecture", "num_features", "labels", *(f.name for f in fields(PretrainedCfg))}
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
    config: Any = None
    try:
        config = json.loads(text)
        if isinstance(config, dict) and config.keys() == {_UNREAD}:
            raise FetchError(config[_UNREAD])
        architecture = config["architecture"]
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        theirs = isinstance(config, dict) and "model_type" in config
        remedy = "; it is one of transformers: use --zoo transformers:URL" if theirs else ""
        raise CheckpointError(
            f"its {CONFIG} isn't one that timm writes: {reason(cause)}{remedy}"
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
    if theirs.get("model_args", {}) is None:  # as transformers' TimmWrapper writes it
        del theirs["model_args"]
    if "pretrained_cfg" not in theirs:  # timm's older, flat form, with keys that timm has dropped
        theirs = {name: value for name, value in theirs.items() if name in _FLAT}
    stated, architecture, arguments = _parse_model_cfg(json.loads(json.dumps(theirs)), {})
    cfg = PretrainedCfg(**stated)
    _check_arguments(arguments)
    size = _size(cfg, arguments)
    facts = ModelFacts(
        bands=bands_of(config, size[0], _noted(cfg)),
        height=size[1],
        width=size[2],
        mean=for_each(cfg.mean, size[0], "mean"),
        std=for_each(cfg.std, size[0], "std"),
        num_classes=_classes(cfg, arguments),
        # timm can't build from a folder's config alone what needs classes
        min_timm="" if layers(arguments) else timm_releases.min_timm(architecture),
    )
    return Described(theirs, arguments, facts)


def layers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The classes of ``timm.layers`` that arguments name, such as ``"mlp_layer": "SwiGLUPacked"``.

    Cards of models on the Hub tell their users to give these classes in Python; JSON can't hold
    them. timm itself takes names only for the arguments in `_NAMED_BY_TIMM`.
    """
    named = {
        key: getattr(timm.layers, value, None)
        for key, value in arguments.items()
        if key.endswith("_layer") and key not in _NAMED_BY_TIMM and isinstance(value, str)
    }
    return {key: kind for key, kind in named.items() if _is_layer(kind)}


def _is_layer(kind: Any) -> bool:
    """Whether this makes a module: a class, or one with some arguments, as timm's SwiGLUPacked."""
    kind = kind.func if isinstance(kind, partial) else kind
    return isinstance(kind, type) and issubclass(kind, nn.Module)


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


def _noted(cfg: PretrainedCfg) -> list[str]:
    """The names of the bands of the variant that a model was tuned from; [] where there are none.

    timm keeps the notes of its ``pretrained_cfg``, and no key of zooadapt, when it saves a model.
    """
    notes = [note for note in cfg.notes or () if isinstance(note, str) and note.startswith(NOTE)]
    return notes[-1].removeprefix(NOTE).split(",") if notes else []
