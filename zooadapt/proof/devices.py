"""Where models are run: the GPU that this process may use, else the CPU."""

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def best() -> torch.device:
    """The GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def name(device: torch.device) -> str:
    """What the manifest's `checked_on` says: the GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def is_full(error: BaseException | None) -> bool:
    """Whether the error, or what it came from, is that the device has no memory left."""
    while error is not None:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            return True
        error = error.__cause__
    return False


@contextmanager
def turn(device: torch.device, alone: bool = False) -> Iterator[None]:
    """A block in which the device is used, beside other processes' of this machine, or `alone`.

    Whatever torch keeps of a GPU's memory is given back at its end. A CPU is never waited for.
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
    """A block that excludes all others on the same file if `alone`, else those that are alone."""
    import fcntl  # GPUs are shared on Linux only; a CPU is used on any system

    with file.open("a") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
