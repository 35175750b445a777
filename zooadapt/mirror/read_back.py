"""Read published objects back and verify their bytes, so that a proof is about what is stored."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor

from zooadapt.errors import ValidationError
from zooadapt.mirror.safetensors_file import leading_tensors, pieces, tensor_names
from zooadapt.names import CONFIG, WEIGHTS, companions, content_id
from zooadapt.stores.shared_bytes import between
from zooadapt.stores.store import Store
from zooadapt.types import Published

_OTHER_BYTES = (
    "was read back with other bytes than were written; check the store, then run the job again "
    "with --retry-failed"
)
_MARGIN = 2**20
"""The number of bytes that are read back on each side of a seam."""


@dataclass
class Reader:
    """Reads a model's published variants back from the mirror.

    The process that published them has the `body`, the tensors that all variants share, in the
    order of the file: what is stored is compared with it. Any other process learns the body from
    the first variant that it reads, whose hash must be right.
    """

    store: Store
    folder: Path
    """A local folder for copies of objects. It must stay as long as the reader is used."""
    body: Mapping[str, Tensor] | None = None
    _originals: dict[str, Tensor] = field(default_factory=dict)

    def read(self, variant: Published) -> tuple[dict[str, Tensor], str]:
        """The variant's tensors, and how it was read back: "full" or "composed".

        Leaves config.json and its companions in `folder`. Raises ValidationError where the stored
        bytes aren't the published ones.
        """
        key = f"{variant.folder}/{WEIGHTS}"
        verification = "composed" if variant.seams and self.body is not None else "full"
        head = self.store.read_range(key, 0, variant.head)
        if hashlib.sha256(head).hexdigest() != variant.head_sha256:
            raise ValidationError(f"{key} {_OTHER_BYTES}")
        stems = leading_tensors(head)
        if self.body is None:
            self.body = self._learnt(key, variant, stems)
        elif variant.seams:
            _check_seams(self.store, key, variant, self.body)
        elif not _equal(self.store.chunks(key, variant.head), _bytes(self.body)):
            raise ValidationError(f"{key} {_OTHER_BYTES}")
        self._read_config(variant)
        return {**stems, **self.body}, verification

    def _learnt(
        self, key: str, variant: Published, stems: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The body of the first variant, which is read whole. Raises ValidationError."""
        file, digest = self.store.local_file(key, self.folder)
        if digest != variant.sha256:
            raise ValidationError(f"{key} {_OTHER_BYTES}")
        loaded = safetensors.torch.load_file(file)
        return {name: loaded[name] for name in tensor_names(file) if name not in stems}

    def _read_config(self, variant: Published) -> None:
        config = self.store.read(f"{variant.folder}/{CONFIG}")
        if not variant.folder.endswith(content_id(variant.sha256, config)):
            raise ValidationError(f"{variant.folder} {_OTHER_BYTES}")
        (self.folder / CONFIG).write_bytes(config)
        for name, content in companions(json.loads(config)).items():
            (self.folder / name).write_bytes(content)
            if self.store.read(f"{variant.folder}/{name}") != content:
                raise ValidationError(f"{variant.folder}/{name} {_OTHER_BYTES}")

    def originals(self, key: str) -> dict[str, Tensor]:
        """The tensors of the original stem at `key`. Only the first call reads them."""
        if not self._originals:
            self._originals = originals(self.store, key, self.folder)
        return self._originals


def _check_seams(store: Store, key: str, variant: Published, body: Mapping[str, Tensor]) -> None:
    """Raise ValidationError where a composed object isn't what was published.

    Only the bytes before the first seam, which were sent to the store, and 1 MiB on each side of
    each seam are read. The rest is known to be right, because the store's checksums of the copied
    parts were.
    """
    size = variant.bytes - variant.head
    parts = [(0, variant.seams[0]), *((seam - _MARGIN, seam + _MARGIN) for seam in variant.seams)]
    for start, stop in ((max(0, start), min(stop, size)) for start, stop in parts):
        stored = store.read_range(key, variant.head + start, variant.head + stop)
        if not _equal([stored], between(pieces(body), start, stop)):
            raise ValidationError(f"{key}, around byte {variant.head + stop}, {_OTHER_BYTES}")
    if store.size(key) != variant.bytes:
        raise ValidationError(f"{key}, of {variant.bytes} bytes, {_OTHER_BYTES}")


def _bytes(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    return (read() for _, read in pieces(tensors))


def _equal(stored: Iterable[bytes], wanted: Iterator[memoryview]) -> bool:
    """Whether both are the same bytes, in whatever pieces they come."""
    rest = memoryview(b"")
    for piece in stored:
        view = memoryview(piece)
        while view:
            while not rest:
                following = next(wanted, None)
                if following is None:
                    return False
                rest = following
            size = min(len(view), len(rest))
            if not np.array_equal(_array(view[:size]), _array(rest[:size])):
                return False
            view, rest = view[size:], rest[size:]
    return not rest and not any(map(len, wanted))


def _array(view: memoryview) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    return np.frombuffer(view, dtype=np.uint8)  # comparing memoryviews takes 40 times as long


def originals(store: Store, key: str, folder: Path) -> dict[str, Tensor]:
    """The tensors of the original stem at `key`. A remote object is copied below `folder`.

    Raises ValidationError where the bytes don't match the id in the key.
    """
    file, digest = store.local_file(key, folder)
    if content_id(digest) not in key:
        raise ValidationError(f"{key} {_OTHER_BYTES}")
    return dict(safetensors.torch.load_file(file))
