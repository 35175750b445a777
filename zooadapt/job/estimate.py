"""What a run will take, estimated before it: requests, bytes, hours and storage, by formulas.

Of a model with a checkpoint of S bytes of which N variants are made, counting MB as 10^6 bytes:

- read from the source: S, in ranges of 16 MiB, after one look-up;
- sent to the store: S + (N - 1) x V. V is 9 MB, as measured, where the store copies what the
  variants share (S3 and local folders, from 20 MiB on), else S;
- read back, to be proved: S + (N - 1) x R, where R is V and 2 MiB for each copied part of 128 MiB;
- stored: N x S. A copy is billed, and lies on a disk, like what was sent;
- requests to the store: parts of 32 MiB sent and of 128 MiB copied, with two more for each object
  of several parts; a config.json each; the original stem and the record; reads in ranges of 16 MiB;
- a GPU's seconds: 0.1 for the base and for each variant, as building one takes 0.2 and two
  validators share a GPU; and the floating point operations of 2 + 4 N images, 400 a parameter and
  image (a ResNet-50 at 224 pixels has 320, a ViT-B 400), at 10^13 a second. Parameters are S / 4.

So larger images, as of models for 512 pixels, take longer than estimated; the stems, a few kB, and
what fails and is tried again are left out.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from zooadapt.cluster.schedule import PER_GPU
from zooadapt.ranges import BLOCK
from zooadapt.stores import multipart, shared_bytes

SENT = 9_000_000
"""Bytes sent for a variant that is composed: measured on average, see the README."""
_SEAM = 2 * 2**20
"""Bytes read back around each seam of such a variant."""
_BUILDING = 0.2
"""Seconds of a CPU to build a model for its proof, see `parameters`."""
_OPERATIONS = 400
"""Floating point operations a parameter and image."""
_SPEED = 1e13
"""Floating point operations that a GPU does in a second, in float32 without TF32; assumed."""


@dataclass(frozen=True)
class Estimate:
    """What a model takes, or several together."""

    lookups: int = 0
    """Requests that find a checkpoint."""
    source_reads: int = 0
    """Requests for a range of one."""
    writes: int = 0
    """Requests that put something into the store, or copy within it."""
    reads: int = 0
    """Requests for something in the store, or for what is known of it."""
    bytes_in: int = 0
    """Read from the source."""
    bytes_sent: int = 0
    """To the store."""
    bytes_back: int = 0
    """Read back from it."""
    stored: int = 0
    """Bytes."""
    gpu_seconds: float = 0.0

    def __add__(self, other: "Estimate") -> "Estimate":
        names = [field.name for field in fields(self)]
        return Estimate(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def moved(self) -> int:
        """Bytes on the network, whichever way."""
        return self.bytes_in + self.bytes_sent + self.bytes_back

    def seconds(self, bandwidth: float) -> float:
        """To move them one after the other, at so many MB a second."""
        return self.moved / (bandwidth * 1e6)


def total(estimates: Iterable[Estimate]) -> Estimate:
    """All together."""
    return sum(estimates, Estimate())


def of_model(size: int, variants: int, composes: bool) -> Estimate:
    """Of a checkpoint of `size` bytes, and a store that composes or doesn't."""
    others = variants - 1
    composed = composes and size >= shared_bytes.SMALLEST
    seams = max(1, size // shared_bytes.PART)
    sent = min(SENT, size) if composed else size
    back = sent + seams * _SEAM if composed else size
    per_other = 3 + seams if composed else _puts(size)  # begun, head, copies, completed
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
    """For which a GPU is held to prove so many variants of a checkpoint of `size` bytes."""
    return building_seconds(variants) / PER_GPU + running_seconds(size, variants)


def building_seconds(variants: int) -> float:
    """A validator's, to build the base and each variant."""
    return _BUILDING * (1 + variants)


def running_seconds(size: int, variants: int) -> float:
    """A GPU's, to run the images of all proofs."""
    return _OPERATIONS * (size / 4) * (2 + 4 * variants) / _SPEED


def _puts(size: int) -> int:
    """Requests that send an object: one, or its parts with a beginning and an end."""
    parts = math.ceil(size / multipart.PART)
    return parts + 2 if parts > 1 else 1


def _ranges(size: int) -> int:
    """Requests that read an object."""
    return max(1, math.ceil(size / BLOCK))
