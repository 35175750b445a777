"""Estimate, before a run, what it will take: requests, bytes, hours and storage.

"What a dry run estimates" in jobs/README.md has the formulas for one model with a checkpoint of S
bytes and N variants. Models for larger images, such as 512 pixels, take longer than estimated. Left
out are the stems, which have a few kB, and whatever fails and is tried again.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from zooadapt import costs
from zooadapt.ranges import BLOCK
from zooadapt.stores import multipart, shared_bytes

SENT = 9_000_000
"""Bytes sent for a composed variant: the average that was measured, see jobs/README.md."""
_SEAM = 2 * 2**20
"""Bytes read back around each seam of a composed variant."""


@dataclass(frozen=True)
class Estimate:
    """What one model takes, or several models together."""

    lookups: int = 0
    """Requests to sources that locate a checkpoint."""
    source_reads: int = 0
    """Requests to sources for a range of a checkpoint."""
    writes: int = 0
    """Requests that write an object to the store, or copy it within the store."""
    reads: int = 0
    """Requests to the store for an object, or for its size or version."""
    bytes_in: int = 0
    """Bytes read from sources."""
    bytes_sent: int = 0
    """Bytes sent to the store."""
    bytes_back: int = 0
    """Bytes read back from the store."""
    stored: int = 0
    """Bytes that the variants take up in the store."""
    gpu_seconds: float = 0.0
    """Seconds for which GPUs are held, where there are some."""
    cpu_seconds: float = 0.0
    """Seconds of CPUs, without proofs."""
    proof_seconds: float = 0.0
    """Seconds of CPUs that the proofs take where there is no GPU."""

    def __add__(self, other: "Estimate") -> "Estimate":
        names = [field.name for field in fields(self)]
        return Estimate(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def moved(self) -> int:
        """Bytes that cross the network, in either direction."""
        return self.bytes_in + self.bytes_sent + self.bytes_back

    def seconds(self, bandwidth: float) -> float:
        """Seconds to move these bytes one after the other, at `bandwidth` MB a second."""
        return self.moved / (bandwidth * 1e6)


@dataclass(frozen=True)
class Wall:
    """How long a run takes, and what it waits for."""

    seconds: float
    bound_by: str


def wall(cost: Estimate, cpus: int, gpus: int, bandwidth: float) -> Wall:
    """The time of a run on that many CPUs and GPUs, and `bandwidth` MB a second in all.

    What takes longest hides all else.
    """
    proofs = 0 if gpus else cost.proof_seconds
    times = {
        "the network": cost.seconds(bandwidth),
        "the CPUs": (cost.cpu_seconds + proofs) / cpus,
        "the GPUs": cost.gpu_seconds / gpus if gpus else 0.0,
    }
    longest = max(times, key=lambda name: times[name])
    return Wall(times[longest], longest)


@dataclass(frozen=True)
class Prices:
    """What things cost, in any currency; None where that isn't known."""

    cpu_hour: float | None = None
    gpu_hour: float | None = None
    gb_month: float | None = None
    """A month of 10⁹ bytes in the store."""

    def run(self, seconds: float, cpus: int, gpus: int) -> float | None:
        """What a run of so many seconds costs; None where no price is known."""
        if self.cpu_hour is None and self.gpu_hour is None:
            return None
        hourly = cpus * (self.cpu_hour or 0) + gpus * (self.gpu_hour or 0)
        return seconds / 3600 * hourly

    def month(self, stored: int) -> float | None:
        """What a month of storage costs."""
        return None if self.gb_month is None else stored / 1e9 * self.gb_month


def total(estimates: Iterable[Estimate]) -> Estimate:
    """The sum of the estimates."""
    return sum(estimates, Estimate())


def of_model(size: int, variants: int, composes: bool) -> Estimate:
    """The estimate for one checkpoint of `size` bytes, in a store that composes or doesn't."""
    others = variants - 1
    composed = composes and size >= shared_bytes.SMALLEST
    seams = max(1, size // shared_bytes.PART)
    sent = min(SENT, size) if composed else size
    back = sent + seams * _SEAM if composed else size
    per_other = 3 + seams if composed else _puts(size)  # begin, head, copies, complete
    reads = 3 + seams if composed else _ranges(size)  # version, head, seams, size
    return Estimate(
        lookups=1,
        source_reads=_ranges(size),
        writes=2 + _puts(size) + others * per_other + variants,
        reads=2 + _ranges(size) + others * reads + variants,
        bytes_in=size,
        bytes_sent=size + others * sent,
        bytes_back=size + others * min(back, size),
        stored=variants * size,
        gpu_seconds=costs.gpu_seconds(size, variants),
        cpu_seconds=costs.cpu_seconds(size, variants),
        proof_seconds=costs.proof_seconds(size, variants),
    )


def _puts(size: int) -> int:
    """Requests that send an object: one, or one for each part, one to begin and one to complete."""
    parts = math.ceil(size / multipart.PART)
    return parts + 2 if parts > 1 else 1


def _ranges(size: int) -> int:
    """Requests that read an object of `size` bytes."""
    return max(1, math.ceil(size / BLOCK))
