"""A large object made of a small head and the end of another one, which the store copies itself.

The variants of a model share all but their first bytes. So only the first is sent whole; of the
others the store is sent a head, and copies the rest from the first.
"""

import errno
import hashlib
import itertools
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from zooadapt.errors import PublishError
from zooadapt.stores.multipart import multipart, place
from zooadapt.stores.store import LocalStore, S3Store, Store

HEAD = 5 * 2**20
"""Bytes of the shared part that are sent at least: S3 wants a first part of 5 MiB or more."""
SMALLEST = 4 * HEAD
"""A shared part of fewer bytes isn't worth the requests."""
_COPIES = 4
"""Parts copied at once."""
PART = 128 * 2**20
"""Bytes of a copied part; S3 takes 5 MiB to 5 GiB."""
_GRID = 4 * 2**20
"""Copied parts begin on this grid of the source object: it is that of SeaweedFS's chunks, and for a
part of a chunk SeaweedFS states the checksum of the whole chunk."""


@dataclass(frozen=True)
class Shared:
    """The bytes that all variants of a model end with, in memory and in the first one's object."""

    tensors: Mapping[str, Tensor]
    key: str
    """Of the object that holds them."""
    start: int
    """Where in that object they begin."""
    _known: dict[tuple[int, int, int], str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Start and stop of the copied parts; what lies before them is sent."""
        first = HEAD + -(self.start + HEAD) % _GRID
        starts = [first + n * PART for n in range(max(1, (self.size - first) // PART))]
        return list(itertools.pairwise([*starts, self.size]))

    def bytes(self, start: int, stop: int) -> Iterator[memoryview]:
        """Those from `start` to `stop`, counted from the beginning of the shared part."""
        begin = 0
        for tensor in self.tensors.values():
            end = begin + tensor.nbytes
            if begin < stop and end > start:
                flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
                yield flat.data[max(start - begin, 0) : stop - begin]
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
            self._known[start, stop, _GRID] = _md5(joined)
        return digest == self._known[start, stop, _GRID]

    def _md5(self, start: int, stop: int) -> str:
        if (start, stop, 0) not in self._known:
            digest = hashlib.md5(usedforsecurity=False)
            for chunk in self.bytes(start, stop):
                digest.update(chunk)
            self._known[start, stop, 0] = digest.hexdigest()
        return self._known[start, stop, 0]


def compose(store: Store, key: str, head: bytes, shared: Shared) -> bool | None:
    """Write `head` and all of `shared` as one object, the second by a copy within the store.

    Returns True where the store stated a checksum of every copied part and it was right, False
    where it stated none, and None where the store can't copy and nothing was written. The object
    becomes visible whole, at the end, or not at all. Raises PublishError where a checksum is wrong.
    """
    if isinstance(store, LocalStore):
        return _locally(store, key, head, shared)
    if isinstance(store, S3Store):
        return _on_s3(store, key, head, shared)
    return None


def _locally(store: LocalStore, key: str, head: bytes, shared: Shared) -> bool | None:
    """The kernel copies, sharing the blocks where the filesystem can."""
    if not hasattr(os, "copy_file_range"):  # Linux only
        return None
    final = Path(store.path(key))
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f"{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        with partial.open("wb") as out, Path(store.path(shared.key)).open("rb") as source:
            out.write(head)
            out.flush()
            source.seek(shared.start)
            while os.copy_file_range(source.fileno(), out.fileno(), 2**30):
                pass
        partial.replace(final)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise
    finally:
        partial.unlink(missing_ok=True)
    return False


def _on_s3(store: S3Store, key: str, head: bytes, shared: Shared) -> bool | None:
    """The head and the first bytes of the shared part are sent, the rest is copied."""
    source, etag = place(store.fs, store.path(shared.key)), store.version(shared.key)
    sent = b"".join([head, *shared.bytes(0, shared.parts[0][0])])
    try:
        with multipart(store.fs, store.path(key)) as made, ThreadPoolExecutor(_COPIES) as pool:
            md5s = made.send(1, sent).strip('"') == _md5(sent)

            def copied(number: int, start: int, stop: int) -> bool | None:
                first, last = shared.start + start, shared.start + stop
                stated = made.copy(number, source, etag, first, last)
                return shared.is_stated(stated, start, stop) if md5s else None

            verdicts = list(pool.map(copied, itertools.count(2), *zip(*shared.parts, strict=True)))
            if False in verdicts:
                raise PublishError(f"the store copied other bytes into {key} than {shared.key} has")
            made.complete(len(head) + shared.size)
    except OSError:  # perhaps the store can't copy: it is sent whole instead
        return None
    return all(verdicts)


def _md5(data: bytes | memoryview) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
