"""Find a model's tensors in what a training script saved.

Scripts save more than the weights: timm and many others a dictionary with the key ``state_dict``,
Lightning the model as the attribute ``model`` of another one, torch's averaged models a counter,
and profilers such as thop counters for each layer.
"""

import re
from collections.abc import Iterator, Mapping, Set
from typing import Any

from torch import Tensor

from zooadapt.errors import CheckpointError, some

_FIRST = ("state_dict_ema", "model_ema", "state_dict", "model")
"""The keys that timm looks for, in its order: an average of the weights goes first."""
_COUNTER = re.compile(r"(^|\.)(n_averaged|total_ops|total_params)$")
"""Names of counters that ``AveragedModel`` and thop add to a model."""

Tensors = Mapping[str, Any]


def found(content: Tensors, learnt: Set[str]) -> tuple[Tensors, str]:
    """The model's part of a checkpoint's content, and how it was found; "" where it is all of it.

    `learnt` are the names of the tensors that the model learns. The part is the one that has most
    of them. What the part lacks, and names that the model doesn't know, stay for the caller to see.

    Raises CheckpointError where several parts have as many, or where there are other tensors beside
    the part, so that it isn't certain what the checkpoint is of.
    """
    parts = [
        (len(learnt & {name.removeprefix(prefix) for name in inner}), key, prefix)
        for key, inner in _dictionaries(content)
        for prefix in _prefixes(inner, learnt)
    ]
    most = max((has for has, *_ in parts), default=0)
    best = [(key, prefix) for has, key, prefix in parts if has == most]
    if 2 * most < len(learnt) or ("", "") in best:
        return _without_counters(content)
    known = [part for first in _FIRST for part in best if part[0] == first]
    if len(best) > 1 and not known:
        where = " and ".join(f"{key}{'.' * bool(key and prefix)}{prefix}" for key, prefix in best)
        raise CheckpointError(
            f"the checkpoint holds the model more than once, under {where}: save the one that you "
            f"want alone, with torch.save(model.state_dict(), …)"
        )
    return _part(content, *(known or best)[0])


def _part(content: Tensors, key: str, prefix: str) -> tuple[Tensors, str]:
    inner = content[key] if key else content
    tensors, counters = _without_counters(inner)
    beside = sorted(
        name
        for name, value in tensors.items()
        if isinstance(value, Tensor) and not name.startswith(prefix)
    )
    if beside:
        raise CheckpointError(
            f"the checkpoint holds the model under {prefix!r}, beside {some(beside)}: save the "
            f"model alone, with torch.save(model.state_dict(), …)"
        )
    part = {name[len(prefix) :]: value for name, value in tensors.items()
            if name.startswith(prefix)}  # fmt: skip
    said = [f"its {key}"] * bool(key) + [f"without the prefix {prefix}"] * bool(prefix)
    return part, ", ".join([*said, *[counters] * bool(counters)])


def _dictionaries(content: Tensors) -> Iterator[tuple[str, Tensors]]:
    """The content itself, as "", and every dictionary in it by its key."""
    yield "", {name: value for name, value in content.items() if isinstance(name, str)}
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield key, {name: each for name, each in value.items() if isinstance(name, str)}


def _prefixes(inner: Tensors, learnt: Set[str]) -> set[str]:
    """What comes before the names of the model's tensors, such as "" or ``model.``."""
    ends = sorted(learnt, key=len)[-1:]
    starts = {name[: -len(end)] for end in ends for name in inner if name.endswith(end)}
    return {"", *(start for start in starts if start.endswith("."))}


def _without_counters(tensors: Tensors) -> tuple[Tensors, str]:
    counters = [name for name in tensors if isinstance(name, str) and _COUNTER.search(name)]
    if not counters:
        return tensors, ""
    left = {name: value for name, value in tensors.items() if name not in counters}
    return left, f"without the counters {some(counters, 2)}"
