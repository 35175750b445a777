"""Find a model's tensors in what a training script saved.

Scripts save more than the weights: timm and many others a dictionary with the key ``state_dict``,
Lightning the model as the attribute ``model`` of another one, torch's averaged models a counter,
and profilers such as thop counters for each layer.
"""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zooadapt.errors import CheckpointError, some

_FIRST = ("state_dict_ema", "model_ema", "state_dict", "model")
"""The keys that timm looks for, in its order: an average of the weights goes first."""
_WRAPPER = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What ``torch.compile``, FSDP and activation checkpointing add to names, anywhere in them."""
_COUNTER = re.compile(r"(^|\.)(n_averaged|total_ops|total_params)$")
"""Names of counters that ``AveragedModel`` and thop add to a model."""

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class _Part:
    """A part of a checkpoint's content that may be the model."""

    key: str
    """Where its dictionary is, such as ``state_dict``; "" for the content itself."""
    tensors: Tensors
    prefix: str
    """What comes before the names of the model's tensors, such as ``model.``."""

    @property
    def where(self) -> str:
        return ".".join(filter(None, (self.key, self.prefix.rstrip("."))))

    def named(self) -> dict[str, Any]:
        """The tensors under the prefix, by their names after it."""
        cut = len(self.prefix)
        return {n[cut:]: each for n, each in self.tensors.items() if n.startswith(self.prefix)}


def found(content: Tensors, learnt: Set[str]) -> tuple[Tensors, str]:
    """The model's part of a checkpoint's content, and how it was found; "" where it is all of it.

    `learnt` are the names of the tensors that the model learns. The part is the one that has most
    of them. What the part lacks, and names that the model doesn't know, stay for the caller to see.

    Raises CheckpointError where several parts have as many, or where there are other tensors beside
    the part, so that it isn't certain what the checkpoint is of.
    """
    parts = [
        _Part(key, inner, prefix)
        for key, inner in _dictionaries(content)
        for prefix in _prefixes(inner, learnt)
    ]
    counts = [len(learnt & part.named().keys()) for part in parts]
    most = max(counts, default=0)
    best = [part for part, has in zip(parts, counts, strict=True) if has == most]
    if not most or 2 * most < len(learnt):
        return _without_counters(content)
    plain = [part for part in best if not part.key and not part.prefix]
    first = [part for key in _FIRST for part in best if part.key.rpartition(".")[2] == key]
    if len(best) > 1 and not first and not plain:
        where = " and ".join(part.where for part in best)
        raise CheckpointError(
            f"the checkpoint holds the model more than once, under {where}: save the one that you "
            f"want alone, with torch.save(model.state_dict(), …)"
        )
    return _opened((first or plain or best)[0])


def _opened(part: _Part) -> tuple[Tensors, str]:
    tensors, counters = _without_counters(part.tensors)
    beside = sorted(
        name
        for name, value in tensors.items()
        if isinstance(value, Tensor) and not name.startswith(part.prefix)
    )
    if beside:
        raise CheckpointError(
            f"the checkpoint holds the model under {part.prefix!r}, beside {some(beside)}: save "
            f"the model alone, with torch.save(model.state_dict(), …)"
        )
    said = [f"its {part.key}"] * bool(part.key)
    said += [f"without the prefix {part.prefix}"] * bool(part.prefix)
    said += [counters] * bool(counters)
    return _Part(part.key, tensors, part.prefix).named(), ", ".join(said)


def _dictionaries(content: Tensors, key: str = "") -> Iterator[tuple[str, Tensors]]:
    """The content itself, as "", and every dictionary in it, two deep, by its key.

    In the names what torch's wrappers add between the names of modules is left out.
    """
    yield key, {_WRAPPER.sub("", n): each for n, each in content.items() if isinstance(n, str)}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping) and key.count(".") < 1:
            yield from _dictionaries(value, f"{key}.{name}" if key else name)


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
