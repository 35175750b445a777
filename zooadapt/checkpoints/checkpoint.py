"""Read named tensors from a checkpoint, and assign them to a model. Its code is never run."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn

from zooadapt.checkpoints import vetting
from zooadapt.errors import CheckpointError, one_line, some

Build = Callable[[], nn.Module]

_LFS = b"version https://git-lfs.github.com/spec/"
_OF_A_HEAD = 2
"""The most tensors of a classifier: a weight and a bias."""
_STATISTICS = ("running_mean", "running_var")
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def read(file: Path) -> dict[str, Any]:
    """The dictionary in a checkpoint: tensors by name, or what the zoo converts into them.

    safetensors files and zip-format pickles are mapped into memory; legacy pickles are copied into
    it. The content decides which format a file has, never its name. A file is vetted before it is
    loaded, so that it can't take much more memory than it has bytes, and no value of a tensor is
    left undefined. Pickles are loaded with ``weights_only=True`` and hold only plain tensors and
    containers, and ``argparse.Namespace``, which runs no code and which timm allows too.

    Raises CheckpointError for any other file, such as an HTML page or a pickle that needs code.
    """
    with file.open("rb") as opened:
        head = opened.read(512)
    vet, load = _reader(file, head)
    try:
        vet(file)
        content = load(file)
    except CheckpointError as error:
        raise CheckpointError(f"{file.name} {error}") from error.__cause__
    except Exception as cause:
        raise CheckpointError(
            f"{file.name} is a damaged checkpoint: {one_line(cause)}; fetch it again"
        ) from cause
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file.name} holds a {type(content).__name__} instead of a dictionary of tensors; "
            f"check its source"
        )
    return content


def _reader(file: Path, head: bytes) -> tuple[Callable[[Path], None], Callable[[Path], Any]]:
    """The functions that vet and load a file that begins with `head`. Raises CheckpointError."""
    if _is_safetensors(head):
        return vetting.safetensors, safetensors.torch.load_file
    if head.startswith(b"PK\x03\x04"):
        return vetting.archive, _map_pickle
    if head.startswith(b"\x80"):
        return vetting.stacked, _read_pickle
    if head.startswith(_LFS):
        raise CheckpointError(
            f"{file.name} is a git-LFS pointer, not the file that it stands for: run git lfs pull "
            f"in the repository that it is in"
        )
    raise CheckpointError(f"{file.name} is {_described(head)}, not a checkpoint; check its source")


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**30


def _described(head: bytes) -> str:
    if not head:
        return "empty"
    if head.lstrip().startswith(b"<"):
        return "an HTML or XML page"
    if head[257:262] == b"ustar":
        return "a tar archive"
    return f"a file of an unknown format (it begins with {head[:8]!r})"


def _map_pickle(file: Path) -> Any:
    if file.suffix == ".safetensors":  # torch would believe this name
        return _read_pickle(file)
    return _load_tensors(file, mmap=True)


def _read_pickle(file: Path) -> Any:
    with file.open("rb") as opened:
        return _load_tensors(opened, mmap=False)


def _load_tensors(source: Path | BinaryIO, mmap: bool) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)


def assign(
    model: nn.Module, tensors: Mapping[str, Any], strict: bool, rebuild: Build
) -> tuple[str, ...]:
    """Put the tensors, uncopied, into `model` (on the meta device); returns the names it filled in.

    A tensor that the checkpoint lacks is filled in from the model itself if two builds with
    different seeds agree on its values, and, if `strict`, only if the model doesn't learn it.
    `rebuild` builds the model with real values.

    Raises CheckpointError if the checkpoint lacks any other tensor, and, if `strict`, if it has a
    tensor that the model doesn't have. Raises it also for an entry that isn't a tensor, has another
    shape than the model's, has NaN, has infinite values for a weight, or has integers, 8-bit or
    complex numbers for a weight.
    """
    _check(model, tensors, strict)
    known = {name: tensors[name] for name in model.state_dict().keys() & tensors.keys()}
    model.load_state_dict(known, strict=False, assign=True)
    filled = tuple(sorted(model.state_dict().keys() - tensors.keys()))
    _fill(model, rebuild)
    return filled


def learnt(model: nn.Module) -> set[str]:
    """The names of the tensors that a model learns: its parameters, and statistics of batches."""
    parameters = {name for name, _ in model.named_parameters()}
    return {n for n in model.state_dict() if n in parameters or n.endswith(_STATISTICS)}


def _check(model: nn.Module, tensors: Mapping[str, Any], strict: bool) -> None:
    expected = model.state_dict()
    extra = sorted(map(str, tensors.keys() - expected.keys()))
    if extra and strict:
        adapters = any("lora_" in name for name in extra)
        remedy = "; merge its adapters first, with peft's merge_and_unload()" if adapters else ""
        raise CheckpointError(
            f"the checkpoint has tensors the model doesn't: {some(extra)}{remedy}"
        )
    parameters = {name for name, _ in model.named_parameters()}
    known = learnt(model)
    absent = sorted(name for name in expected if name in known and name not in tensors)
    if absent and strict:
        raise CheckpointError(
            f"the checkpoint lacks {some(absent)}, which the model learns{_remedy(absent)}"
        )
    for name in expected.keys() & tensors.keys():
        _check_tensor(name, tensors[name], expected[name])
        _check_values(name, tensors[name], finite=name in parameters)


def _remedy(absent: Sequence[str]) -> str:
    """What to do about the lack of these tensors, where they can be a classifier."""
    if len({name.partition(".")[0] for name in absent}) == 1 and len(absent) <= _OF_A_HEAD:
        return '; if it has no classifier, state "num_classes": 0 in its config.json'
    return ""


def _check_tensor(name: str, tensor: Any, wanted: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise CheckpointError(f"{name} is a {type(tensor).__name__} instead of a tensor")
    if tensor.is_meta:
        raise CheckpointError(f"{name} got no values from the zoo's conversion of the checkpoint")
    if tensor.shape != wanted.shape:
        raise CheckpointError(
            f"{name} has shape {tuple(tensor.shape)} where the model wants {tuple(wanted.shape)}"
        )
    if wanted.is_floating_point() and tensor.dtype not in _FLOATS:
        raise CheckpointError(f"{name} is of {tensor.dtype}, which can't be a weight of the model")


def _check_values(name: str, tensor: Tensor, finite: bool) -> None:
    """Raise CheckpointError for NaN, and for infinity where all values must be `finite`.

    A buffer can hold infinity on purpose, as a mask or as the bounds of a range.
    """
    if not tensor.is_floating_point() or bool(tensor.sum().isfinite()):
        return  # a finite sum proves it, in a twentieth of the time
    if finite and not bool(tensor.isfinite().all()):
        raise CheckpointError(f"{name} has NaN or infinite values")
    if bool(tensor.isnan().any()):
        raise CheckpointError(f"{name} has NaN")


def _fill(model: nn.Module, rebuild: Build) -> None:
    """Give values to tensors still on the meta device. Raises CheckpointError for random ones."""
    absent = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if not absent:
        return
    first, second = (_seeded(rebuild, seed).state_dict() for seed in (0, 1))
    random = [name for name in absent if not torch.equal(first[name], second[name])]
    if random:
        raise CheckpointError(f"the checkpoint lacks {some(random)}, which would be left random")
    model.load_state_dict({name: first[name] for name in absent}, strict=False, assign=True)


def _seeded(rebuild: Build, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return rebuild()
