"""Published objects, read back from the mirror and verified: what is proved is what is stored."""

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

_MARGIN = 2**20
"""Bytes read back on both sides of a seam."""


@dataclass
class Reader:
    """Reads a model's published variants back from the mirror."""

    store: Store
    folder: Path
    """For copies of the objects, as long as the reader is used."""
    first: tuple[Path, int, dict[str, Tensor]] | None = None
    """A variant that was read whole: its file, where its shared part begins, its tensors."""
    _originals: dict[str, Tensor] = field(default_factory=dict)

    def read(self, variant: Published) -> tuple[dict[str, Tensor], str]:
        """The published tensors, and how much was read; leaves config.json in the folder.

        Raises ValidationError where the bytes aren't those that were published.
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
            raise ValidationError(
                f"{variant.folder} was read back with other bytes than were written; check the "
                f"store, then --retry-failed"
            )
        if self.first is None:
            self.first = file, variant.head, tensors
        (self.folder / CONFIG).write_bytes(config)
        for name, content in companions(json.loads(config)).items():
            (self.folder / name).write_bytes(content)
            if self.store.read(f"{variant.folder}/{name}") != content:
                raise ValidationError(f"{variant.folder}/{name} was read back with other bytes")
        return tensors, verification

    def originals(self, key: str) -> dict[str, Tensor]:
        """The tensors of the original stem; read once."""
        if not self._originals:
            self._originals = originals(self.store, key, self.folder)
        return self._originals


def _composed(store: Store, key: str, variant: Published, body: Path, start: int) -> bytes:
    """The sent part of a composed object.

    `body` is the first object as a local file that was read back whole, in which the shared part
    begins at `start`. What was sent is read, and the MiB on both sides of each seam; for the rest
    the local copy stands, as the store's checksums were those of its bytes.

    Raises ValidationError where a seam or the size isn't what it should be.
    """
    head = variant.head
    with body.open("rb") as file:
        for seam in variant.seams:
            file.seek(start + seam - _MARGIN)
            wanted = file.read(2 * _MARGIN)
            begin = head + seam - _MARGIN
            if store.read_range(key, begin, begin + len(wanted)) != wanted:
                raise ValidationError(f"{key} isn't what was composed, at byte {head + seam}")
    if store.size(key) != variant.bytes:
        raise ValidationError(f"{key} has not the {variant.bytes} bytes that were composed")
    return store.read_range(key, 0, head + variant.seams[0])


def originals(store: Store, key: str, folder: Path) -> dict[str, Tensor]:
    """The tensors of an original stem in the mirror; `folder` is for a copy.

    Raises ValidationError where the bytes aren't those that the key was made from.
    """
    file, digest = store.local_file(key, folder)
    if content_id(digest) not in key:
        raise ValidationError(f"{key} has other bytes than were written; check the store")
    return dict(safetensors.torch.load_file(file))
