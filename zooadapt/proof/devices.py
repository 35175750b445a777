"""The device on which models are run, and taking turns on a GPU that several processes share."""

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
            torch.cuda.empty_cache()


@contextmanager
def waiting(file: Path, alone: bool) -> Iterator[None]:
    """Hold a lock on the file within the block: exclusive if `alone`, else shared with others."""
    import fcntl  # GPUs are shared on Linux only; a CPU is used on any system

    with file.open("a") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
