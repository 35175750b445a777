"""Share a machine's cores: a forward pass runs on its own core and on all that nobody else uses.

Every worker process holds the lock of one of the machine's cores while it works on models. Where
there are free ones, each of its threads that is busy meanwhile holds one more. For the time of a
forward pass it borrows all cores that nobody holds, and gives them back when the pass ends. The
system releases the locks of a process that dies. A process that never called `working` uses as many
threads as torch gives it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout


@dataclass(frozen=True)
class _Machine:
    """The locks of a machine's cores: those held while working, and those borrowed for a pass."""

    folder: Path
    cores: int

    def locks(self, kind: str) -> list[FileLock]:
        return [FileLock(self.folder / f"{kind}-{core}") for core in range(self.cores)]


_user = os.getuid() if hasattr(os, "getuid") else 0
_machine: _Machine | None = None
"""Set while this process works on models as one of several workers."""


@contextmanager
def working(cores: int, folder: Path | None = None) -> Iterator[None]:
    """Within the block, this process uses one of the machine's `cores`, and can borrow others.

    The processes that share the cores find each other's locks in `folder`.
    """
    global _machine
    folder = folder or Path(tempfile.gettempdir()) / f"zooadapt-cores-{_user}"
    with suppress(OSError):  # then no core is counted
        folder.mkdir(parents=True, exist_ok=True)
    before, threads = _machine, torch.get_num_threads()
    with ExitStack() as held:
        _machine = _Machine(folder, cores)
        torch.set_num_threads(1)
        try:
            _take(_machine.locks("worker"), 1, held, patience=0.05)  # others probe the locks
            yield
        finally:
            _machine = before
            torch.set_num_threads(threads)


@contextmanager
def used() -> Iterator[None]:
    """Within the block, this thread uses another of the cores, if one is free; it waits for none.

    A forward pass whose threads had to share a core with this one would take far longer: each waits
    for the slowest.
    """
    with ExitStack() as held:
        if _machine:
            _take(_machine.locks("worker"), 1, held)
        yield


@contextmanager
def borrowed() -> Iterator[None]:
    """Within the block, torch uses all cores that no other worker uses."""
    if _machine is None:
        yield
        return
    with ExitStack() as held:
        free = _machine.locks("borrowed")[: _machine.cores - _busy(_machine)]
        torch.set_num_threads(1 + _take(free, len(free), held))
        try:
            yield
        finally:
            torch.set_num_threads(1)


def _take(locks: list[FileLock], most: int, held: ExitStack, patience: float = 0) -> int:
    """Take up to `most` of the locks that are free within some seconds; returns how many."""
    taken = 0
    for lock in locks:
        if taken == most:
            break
        try:
            held.enter_context(lock.acquire(timeout=patience, poll_interval=0.005))
            taken += 1
        except (Timeout, OSError):
            continue
    return taken


def _busy(machine: _Machine) -> int:
    """The number of cores in use, this process's own included."""
    locks = machine.locks("worker")
    with ExitStack() as held:
        return max(1, len(locks) - _take(locks, len(locks), held))
