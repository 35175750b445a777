"""Read published objects back and verify their bytes, so that a proof is about what is stored."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
from torch import Tensor

from zooadapt.errors import ValidationError
from zooadapt.mirror.safetensors_file import leading_tensors
from zooadapt.names import CONFIG, WEIGHTS, companions, content_id
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
    """Reads a model's published variants back from the mirror."""

    store: Store
    folder: Path
    """A local folder for copies of objects. It must stay as long as the reader is used."""
    first: tuple[Path, int, dict[str, Tensor]] | None = None
    """The first variant that was read: its file, the shared part's first byte, its tensors."""
    _originals: dict[str, Tensor] = field(default_factory=dict)

    def read(self, variant: Published) -> tuple[dict[str, Tensor], str]:
        """The variant's tensors, and how it was read back: "full" or "composed".

        Leaves config.json and its companions in `folder`. Raises ValidationError where the stored
        bytes aren't the published ones.
        """
        key = f"{variant.folder}/{WEIGHTS}"
        if variant.seams and self.first:
            file, start, tensors = self.first
            sent = _composed(self.store, key, variant, file, start)
            tensors, verification = {**tensors, **leading_tensors(sent[: variant.head])}, "composed"
            same = hashlib.sha256(sent).hexdigest() == variant.sent_sha256
        else:
            file, digest = self.store.local_file(key, self.folder)
            tensors, verification = dict(safetensors.torch.load_file(file)), "full"
            same = digest == variant.sha256
        config = self.store.read(f"{variant.folder}/{CONFIG}")
        named = variant.folder.endswith(content_id(variant.sha256, config))
        if not same or not named:
            raise ValidationError(f"{variant.folder} {_OTHER_BYTES}")
        if self.first is None:
            self.first = file, variant.head, tensors
        (self.folder / CONFIG).write_bytes(config)
        for name, content in companions(json.loads(config)).items():
            (self.folder / name).write_bytes(content)
            if self.store.read(f"{variant.folder}/{name}") != content:
                raise ValidationError(f"{variant.folder}/{name} {_OTHER_BYTES}")
        return tensors, verification

    def originals(self, key: str) -> dict[str, Tensor]:
        """The tensors of the original stem at `key`. Only the first call reads them."""
        if not self._originals:
            self._originals = originals(self.store, key, self.folder)
        return self._originals


def _composed(store: Store, key: str, variant: Published, body: Path, start: int) -> bytes:
    """The bytes of a composed object that were sent to the store, not copied within it.

    `body` is the first variant's file, which was read back whole; its shared part begins at the
    byte `start`. Only the sent bytes, and 1 MiB on each side of each seam, are read from the
    composed object. The rest is known to equal `body`, because the store's checksums of the copied
    parts were right.

    Raises ValidationError where the bytes around a seam, or the object's size, are wrong.
    """
    head = variant.head
    with body.open("rb") as file:
        for seam in variant.seams:
            file.seek(start + seam - _MARGIN)
            wanted = file.read(2 * _MARGIN)
            begin = head + seam - _MARGIN
            if store.read_range(key, begin, begin + len(wanted)) != wanted:
                raise ValidationError(f"{key}, around byte {head + seam}, {_OTHER_BYTES}")
    if store.size(key) != variant.bytes:
        raise ValidationError(f"{key}, of {variant.bytes} bytes, {_OTHER_BYTES}")
    return store.read_range(key, 0, head + variant.seams[0])


def originals(store: Store, key: str, folder: Path) -> dict[str, Tensor]:
    """The tensors of the original stem at `key`. A remote object is copied below `folder`.

    Raises ValidationError where the bytes don't match the id in the key.
    """
    file, digest = store.local_file(key, folder)
    if content_id(digest) not in key:
        raise ValidationError(f"{key} {_OTHER_BYTES}")
    return dict(safetensors.torch.load_file(file))
