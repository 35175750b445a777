"""The bytes that all variants of a model end with, so that a store sends them once and copies them.

Only the first variant is sent whole. Of each other the store is sent a head, and copies the rest
from the first (`Store.compose`).
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

HEAD = 5 * 2**20
"""Bytes of the shared part that are sent at least: S3 wants a first part of 5 MiB or more."""
SMALLEST = 4 * HEAD
"""A shared part of fewer bytes isn't worth the requests of a copy."""
PART = 128 * 2**20
"""Bytes of a copied part; S3 takes 5 MiB to 5 GiB."""
_GRID = 4 * 2**20
"""Copied parts begin on this grid of the source object. It is the grid of SeaweedFS's chunks; for a
part of a chunk SeaweedFS states the checksum of the whole chunk."""


@dataclass(frozen=True)
class SharedBytes:
    """The bytes that all variants of a model end with, in memory and in the first one's object."""

    chunks: Sequence[memoryview]
    """The bytes in order, such as one chunk for each tensor."""
    key: str
    """The key of the object that holds them."""
    start: int
    """The byte of that object at which they begin."""
    _known: dict[tuple[int, int, int], str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of shared bytes."""
        return sum(chunk.nbytes for chunk in self.chunks)

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Start and stop of each part that the store copies; what lies before them is sent."""
        first = HEAD + -(self.start + HEAD) % _GRID
        starts = [first + n * PART for n in range(max(1, (self.size - first) // PART))]
        return list(itertools.pairwise([*starts, self.size]))

    def bytes(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes from `start` to `stop`, counted from the beginning of the shared part."""
        begin = 0
        for chunk in self.chunks:
            end = begin + chunk.nbytes
            if begin < stop and end > start:
                yield chunk[max(start - begin, 0) : stop - begin]
            begin = end

    def is_stated(self, etag: str, start: int, stop: int) -> bool | None:
        """Whether a store's checksum of a copied part is that of these bytes; None if unknown.

        An ETag is the part's MD5 (S3 without KMS), or the MD5 of its chunks' MD5s and, behind a
        dash, their number (SeaweedFS).
        """
        digest, _, chunks = etag.strip('"').partition("-")
        if len(digest) != 32:
            return None
        if not chunks:
            return digest == self._md5(start, stop)
        bounds = [*range(start, stop, _GRID), stop]
        if int(chunks) != len(bounds) - 1:
            return None
        if (start, stop, _GRID) not in self._known:
            chunked = itertools.pairwise(bounds)
            joined = b"".join(bytes.fromhex(self._md5(*chunk)) for chunk in chunked)
            self._known[start, stop, _GRID] = md5(joined)
        return digest == self._known[start, stop, _GRID]

    def _md5(self, start: int, stop: int) -> str:
        if (start, stop, 0) not in self._known:
            digest = hashlib.md5(usedforsecurity=False)
            for chunk in self.bytes(start, stop):
                digest.update(chunk)
            self._known[start, stop, 0] = digest.hexdigest()
        return self._known[start, stop, 0]


def md5(data: bytes | memoryview) -> str:
    """The MD5 in hex, as S3 states it in an ETag."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
