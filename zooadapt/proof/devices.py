"""The device on which models are run, and taking turns on a GPU that several processes share."""

import gc
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from zooadapt.errors import UsageError, one_line


def best() -> torch.device:
    """The GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named(name: str) -> torch.device:
    """The CPU, or the GPU that torch knows by this name. Raises UsageError if it isn't here."""
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"device {name}: variants are proved on cpu, or on cuda or cuda:N")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as cause:
        raise UsageError(
            f"device {name} can't be used here: {one_line(cause)}; leave it out for the CPU"
        ) from cause
    return device


def name(device: torch.device) -> str:
    """The device's name in the manifest's column `checked_on`: the GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def is_full(error: BaseException | None) -> bool:
    """Whether the error or one of its causes says that the device has no memory left."""
    while error is not None:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            return True
        error = error.__cause__
    return False


@contextmanager
def full_float32() -> Iterator[None]:
    """Within the block, float32 is computed as such: without TF32, and without bfloat16.

    Torch has an older interface for it and a newer one. It raises an error where it is asked by the
    older one for what the newer one has changed:
    https://docs.pytorch.org/docs/stable/notes/cuda.html#tf32-on-ampere
    """
    cudnn = torch.backends.cudnn
    parts = _parts()
    newer = [part.fp32_precision for part in parts]
    try:
        older = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:
        older = None
    try:
        if older:
            torch.set_float32_matmul_precision("highest")
            cudnn.allow_tf32 = False
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        if older:
            torch.set_float32_matmul_precision(older[0])
            cudnn.allow_tf32 = older[1]
        for part, precision in zip(parts, newer, strict=True):
            part.fp32_precision = precision


def _parts() -> list[Any]:
    """The parts of torch that the newer interface sets; [] before torch 2.9, which hasn't it."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return []
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    return [
        backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn,
    ]  # fmt: skip


@contextmanager
def turn(device: torch.device, alone: bool = False) -> Iterator[None]:
    """Wait until this process may use the device, and use it within the block.

    Other processes of this machine can use a GPU at the same time unless `alone`. After the block,
    torch gives a GPU's unused memory back. There is no waiting for a CPU.
    """
    if device.type != "cuda":
        yield
        return
    identity = torch.cuda.get_device_properties(device).uuid
    with waiting(Path(tempfile.gettempdir()) / f"zooadapt-{identity}.lock", alone):
        try:
            yield
        finally:
            gc.collect()
            if sys.exception():  # CUDA may be broken: the block's own error tells it
                with suppress(RuntimeError):
                    torch.cuda.empty_cache()
            else:
                torch.cuda.empty_cache()


@contextmanager
def waiting(file: Path, alone: bool) -> Iterator[None]:
    """Hold a lock on the file within the block: exclusive if `alone`, else shared with others."""
    import fcntl  # GPUs are shared on Linux only; a CPU is used on any system

    with file.open("a") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
