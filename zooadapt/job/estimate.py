"""Estimate, before a run, what it will take: requests, bytes, hours and storage.

"What a dry run estimates" in jobs/README.md has the formulas for one model with a checkpoint of S
bytes and N variants. Models for larger images, such as 512 pixels, take longer than estimated. Left
out are the stems, which have a few kB, and whatever fails and is tried again.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from zooadapt.cluster.schedule import PER_GPU
from zooadapt.ranges import BLOCK
from zooadapt.stores import multipart, shared_bytes

SENT = 9_000_000
"""Bytes sent for a composed variant: the average that was measured, see jobs/README.md."""
_SEAM = 2 * 2**20
"""Bytes read back around each seam of a composed variant."""
_BUILDING = 0.2
"""Seconds of a CPU to build a model for its proof, see `reader.parameter_counts`."""
_OPERATIONS = 400
"""Floating point operations per parameter and image."""
_SPEED = 1e13
"""Floating point operations that a GPU does in a second, in float32 without TF32; assumed."""


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
    """Seconds for which GPUs are held."""

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
        gpu_seconds=gpu_seconds(size, variants),
    )


def gpu_seconds(size: int, variants: int) -> float:
    """Seconds for which a GPU is held to prove the variants of a checkpoint of `size` bytes."""
    return building_seconds(variants) / PER_GPU + running_seconds(size, variants)


def building_seconds(variants: int) -> float:
    """Seconds that a validator takes to build the base and each variant."""
    return _BUILDING * (1 + variants)


def running_seconds(size: int, variants: int) -> float:
    """Seconds that a GPU takes to run the images of all proofs."""
    return _OPERATIONS * (size / 4) * (3 + variants) / _SPEED


def _puts(size: int) -> int:
    """Requests that send an object: one, or one for each part, one to begin and one to complete."""
    parts = math.ceil(size / multipart.PART)
    return parts + 2 if parts > 1 else 1


def _ranges(size: int) -> int:
    """Requests that read an object of `size` bytes."""
    return max(1, math.ceil(size / BLOCK))
