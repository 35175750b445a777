"""Read and change the config.json and preprocessor_config.json of a model of transformers."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import transformers
from transformers import CONFIG_MAPPING

from zooadapt.errors import CheckpointError, Unsupported
from zooadapt.types import ModelFacts
from zooadapt.zoos import meta
from zooadapt.zoos.described import bands_of, for_each

_CODE = (
    "auto_map", "custom_pipelines", "trust_remote_code", "attn_implementation",
    "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "_experts_implementation", "use_kernels",
)  # fmt: skip
"""Keys that would make transformers run code from a repository; kernels are code too."""
_SIZES = ("num_", "layer", "depth", "size", "dim", "channel")
"""Parts of the keys whose numbers set the size of the model that is built."""
_ORIGIN = ("_name_or_path", "_commit_hash", "torch_dtype")
"""Keys about the original checkpoint's origin or dtype, which would be wrong for a variant."""
_CLASSIFIERS = ("ForImageClassification", "ForSemanticSegmentation")
"""The ends of the names of classes that have a classifier."""
_OURS = ("bands", "preprocessor", "zooadapt")
"""Keys that zooadapt adds to a variant's config.json, and transformers doesn't know."""
_ANY_SIZE = 224
"""Height and width in pixels for models whose files state no size."""


def architecture(config: Mapping[str, Any]) -> str:
    """The name of the class that the weights are for; "" where the config names none."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def cleaned(config: Any) -> Any:
    """The config without the keys in `_CODE` and `_ORIGIN`, at any depth of nesting."""
    if isinstance(config, Mapping):
        kept = {key: cleaned(value) for key, value in config.items()}
        return {key: value for key, value in kept.items() if key not in (*_CODE, *_ORIGIN)}
    return [cleaned(item) for item in config] if isinstance(config, list) else config


def read(config: Mapping[str, Any]) -> Any:
    """transformers' own config object, made from the content of a config.json.

    Raises Unsupported where transformers doesn't know the model_type, or would build a model of
    another library; CheckpointError where a number is larger than in any real model.
    """
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise Unsupported(f"the installed transformers knows no model_type {kind!r}")
    _check(config)
    own = {key: value for key, value in cleaned(config).items() if key not in _OURS}
    return CONFIG_MAPPING[kind].from_dict(own)


def _check(config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if isinstance(value, Mapping):
            _check(value)
        elif (key == "backbone" and value) or (key == "model_type" and wraps_timm(value)):
            raise Unsupported(f"its {key}, {value!r:.60}, stands for a model of another library")
        elif any(word in str(key) for word in _SIZES) and key != "vocab_size":
            numbers = value if isinstance(value, list) else [value]
            if any(isinstance(n, int | float) and not abs(n) <= meta.MOST for n in numbers):
                raise CheckpointError(f"{key} is {value!r:.60}, and no model is that large")


def wraps_timm(model_type: Any) -> bool:
    """Whether models of this type wrap a timm model, which their config names."""
    return str(model_type).startswith("timm_")


def with_channels(config: Mapping[str, Any], chans: int) -> dict[str, Any]:
    """The config with every ``num_channels`` set to `chans`, in nested configs too.

    Where a ``num_channels`` was left to the default of the model's type, it is added. Raises
    Unsupported where neither the config nor its defaults have one.
    """
    changed = _changed(config, _full(config), chans)
    if changed is None:
        raise Unsupported("its config has no num_channels: its class is made for 3 channels")
    return changed


def _changed(
    config: Mapping[str, Any], full: Mapping[str, Any], chans: int
) -> dict[str, Any] | None:
    """The changed config; None where `full`, the config with its defaults, has no num_channels."""
    changes: dict[str, Any] = {"num_channels": chans} if "num_channels" in full else {}
    for key, inner in full.items():
        if isinstance(inner, Mapping) and key not in _OURS:
            stated = config.get(key) or inner
            if (changed := _changed(stated, inner, chans)) is not None:
                changes[key] = changed
    return {**config, **changes} if changes else None


def _full(config: Mapping[str, Any]) -> dict[str, Any]:
    return _full_of(json.dumps(cleaned(config), sort_keys=True))


@lru_cache
def _full_of(text: str) -> dict[str, Any]:
    """The config in a JSON text, completed with the defaults of its model_type."""
    full: dict[str, Any] = read(json.loads(text)).to_dict()
    return full


def facts(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> ModelFacts:
    """The channels, size, mean, std and classes that a model's two JSON files state.

    Raises CheckpointError where a number is larger than in any real model, or something else than
    what can be.
    """
    try:
        full = _full(config)
    except Unsupported:
        full = dict(config)
    chans = _channels(full) or 3
    height, width = _size(preprocessor) or _pixels(_image_size(full)) or (_ANY_SIZE,) * 2
    meta.check_image((chans, height, width))
    mean, std = (_statistics(preprocessor, of, chans) for of in ("image_mean", "image_std"))
    return ModelFacts(
        bands=bands_of(config, chans),
        height=height,
        width=width,
        mean=mean,
        std=std,
        num_classes=_classes(full) if architecture(config).endswith(_CLASSIFIERS) else 0,
    )


def _channels(full: Mapping[str, Any]) -> int | None:
    """The config's own ``num_channels``, else the first one in its nested configs."""
    if isinstance(full.get("num_channels"), int):
        return int(full["num_channels"])
    inner = (_channels(value) for value in full.values() if isinstance(value, Mapping))
    return next((chans for chans in inner if chans), None)


def _classes(full: Mapping[str, Any]) -> int:
    labels = full.get("id2label")
    return len(labels) if labels else int(full.get("num_labels", 2))


def _statistics(preprocessor: Mapping[str, Any], of: str, chans: int) -> tuple[float, ...]:
    """The ``image_mean`` or ``image_std`` of each channel; () where nothing states it.

    What the file leaves out is stated by the class that it names. Without normalisation the values
    are 0 and 1. Raises CheckpointError for values that aren't numbers.
    """

    def stated(key: str) -> Any:
        value = preprocessor.get(key)
        return _default(preprocessor, key) if value is None else value

    if not preprocessor:
        return ()
    if stated("do_normalize") is False:
        return (0.0 if of == "image_mean" else 1.0,) * chans
    values = stated(of)
    if values is None:
        return ()
    return for_each(values if isinstance(values, list | tuple) else [values], chans, of)


def _default(preprocessor: Mapping[str, Any], key: str) -> Any:
    """What the class of an image processor states for a key; None where it states nothing."""
    named = preprocessor.get("image_processor_type") or preprocessor.get("feature_extractor_type")
    name = str(named).replace("FeatureExtractor", "ImageProcessor")
    try:
        kind = getattr(transformers, name) if name.isidentifier() else None
        return getattr(kind, key, None)
    except Exception:  # what the class needs may not be installed
        return None


def _size(preprocessor: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) that the image processor crops to, else resizes to; None if unstated."""
    cropped = None if preprocessor.get("do_center_crop") is False else preprocessor.get("crop_size")
    return _pixels(cropped) or _pixels(preprocessor.get("size"))


def _image_size(full: Mapping[str, Any]) -> Any:
    """The config's own ``image_size``, else the first one in its nested configs."""
    if full.get("image_size"):
        return full["image_size"]
    inner = (_image_size(value) for value in full.values() if isinstance(value, Mapping))
    return next((size for size in inner if size), None)


def _pixels(size: Any) -> tuple[int, int] | None:
    """(height, width) from any of the forms in which a size is stated; None if it isn't one."""
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge") or size.get("longest_edge")
        size = [size.get("height") or edge, size.get("width") or edge]
    elif isinstance(size, int):
        size = [size, size]
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(size):
        return None
    return int(size[0]), int(size[1])
