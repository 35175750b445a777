"""The bytes that all variants of a model end with. They are sent once; then the store copies them.

Only the first variant is sent as a whole. Of every other variant a head is sent, and the store
copies the rest from the first variant (`Store.compose`).
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

HEAD = 5 * 2**20
"""The least number of shared bytes that are sent: the first part on S3 needs 5 MiB or more."""
SMALLEST = 4 * HEAD
"""A shared part of fewer bytes isn't worth the requests that a copy takes."""
PART = 128 * 2**20
"""Bytes of a copied part. S3 takes 5 MiB to 5 GiB."""
_GRID = 4 * 2**20
"""Copied parts begin at a multiple of this many bytes of the source object. It is the size of
SeaweedFS's chunks: for a part of a chunk, SeaweedFS states the checksum of the whole chunk."""


@dataclass(frozen=True)
class SharedBytes:
    """The bytes that all variants of a model end with, in memory and in the first one's file."""

    chunks: Sequence[tuple[int, Callable[[], memoryview]]]
    """The bytes in order, such as a chunk for each tensor: its size, and a call that gives it."""
    key: str
    """The key of the first variant's file, which holds the bytes."""
    start: int
    """The offset in that file at which the bytes begin."""
    _known: dict[tuple[int, int, int], str] = field(default_factory=dict)
    """MD5s computed so far, by start, stop and chunk size; 0 for one MD5 of all bytes."""

    @property
    def size(self) -> int:
        """The number of shared bytes."""
        return sum(size for size, _ in self.chunks)

    @property
    def parts(self) -> list[tuple[int, int]]:
        """The start and stop of each part that the store copies; the bytes before them are sent."""
        first = HEAD + -(self.start + HEAD) % _GRID
        starts = [first + n * PART for n in range(max(1, (self.size - first) // PART))]
        return list(itertools.pairwise([*starts, self.size]))

    def bytes(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes from `start` to `stop`, counted from the beginning of the shared part."""
        return between(self.chunks, start, stop)

    def is_stated(self, etag: str, start: int, stop: int) -> bool | None:
        """Whether `etag` is the right checksum of these bytes; None if it is of an unknown kind.

        Known are the MD5 of the bytes (S3 without KMS), and the MD5 of the MD5s of their chunks,
        followed by a dash and the number of chunks (SeaweedFS).
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


def between(
    chunks: Sequence[tuple[int, Callable[[], memoryview]]], start: int, stop: int
) -> Iterator[memoryview]:
    """The bytes from `start` to `stop` of all chunks; each comes with its size."""
    begin = 0
    for size, chunk in chunks:
        end = begin + size
        if begin < stop and end > start:
            yield chunk()[max(start - begin, 0) : stop - begin]
        begin = end


def md5(data: bytes | memoryview) -> str:
    """The MD5 of `data` in hex, as S3 states it in an ETag."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
