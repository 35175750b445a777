"""Check that ``torch.save`` or safetensors wrote a file, before either of them loads it.

Each function raises CheckpointError if the file claims more than it holds, would run code, or is
damaged or ambiguous in a way that its loader doesn't notice. The message begins with the verb, for
the caller to put the file's name before it. A malformed file can raise any exception.
"""

import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from zooadapt.checkpoints import pickles
from zooadapt.errors import CheckpointError

_LARGEST_HEADER = 8 * 2**20
"""The most bytes of a safetensors header. It has some 100 a tensor."""


def safetensors(file: Path) -> None:
    """Check that the header is short and has no name twice; safetensors checks the rest."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _LARGEST_HEADER:
            raise _damaged(f"its header would have {length} bytes")
        header = opened.read(length)
    with suppress(ValueError, RecursionError):  # isn't JSON: safetensors itself says where
        json.loads(header, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _damaged("its header has a name twice")
    return found


class _Sipped(io.FileIO):
    """A file that refuses long reads, because zipfile reads a list of entries of any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size > pickles.LARGEST:
            raise _damaged(f"{size} bytes of it would have to be read at once")
        return super().read(size)


def archive(file: Path) -> None:
    """Check a zip: stored entries, right checksums, and a pickle that claims only these."""
    size = file.stat().st_size
    with _Sipped(file) as source, zipfile.ZipFile(source) as opened:
        odd = _oddity(opened, size)
        if odd:
            raise CheckpointError(f"is a zip that torch.save didn't write: {odd}; {pickles.REMEDY}")
        damaged = opened.testzip()
        if damaged:
            raise _damaged(f"the checksum of {damaged} is wrong")
        data = f"{_root(opened)}/data"
        pickle = io.BytesIO(opened.read(f"{data}.pkl"))
        sizes = {entry.filename: entry.file_size for entry in opened.infolist()}
    _, storages = pickles.examine(pickle, size)
    for storage in storages:
        if sizes.get(f"{data}/{storage.key}") != storage.bytes:
            raise _damaged(f"its tensor {storage.key} hasn't the stated {storage.bytes} bytes")


def _oddity(opened: zipfile.ZipFile, size: int) -> str | None:
    """The reason why torch can't have written this zip; None if it can.

    Such a zip could unfold to any size, or be two different files to two readers.
    """
    entries, root = opened.infolist(), _root(opened)
    names = [entry.filename for entry in entries]
    if f"{root}/constants.pkl" in names:
        return "it is TorchScript, which is a program"
    if f"{root}/data.pkl" not in names:
        return f"it holds {', '.join(names[:3])}"
    if len({name.lower() for name in names}) < len(names):
        return "it has several entries of one name"
    if opened.comment or entries[0].header_offset or sum(e.file_size for e in entries) > size:
        return "its entries overlap, or it holds more than entries"
    if opened.getinfo(f"{root}/data.pkl").file_size > pickles.LARGEST:
        return f"its data.pkl has more than {pickles.LARGEST} bytes"
    for entry in entries:
        if not entry.filename.startswith(f"{root}/") or ".." in entry.filename.split("/"):
            return f"its entry {entry.filename} is outside its folder"
        if entry.compress_type != zipfile.ZIP_STORED:
            return f"its entry {entry.filename} is compressed"
    return None


def _root(opened: zipfile.ZipFile) -> str:
    """The folder of the first entry; all entries have to be in it."""
    return opened.infolist()[0].filename.partition("/")[0]


def stacked(file: Path) -> None:
    """Check the five pickles of torch before 1.6: they claim only the values after them."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        stream = io.BytesIO(opened.read(pickles.LARGEST))
    for number in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION):
        if pickles.examine(stream, size)[0] != number:
            raise CheckpointError(f"is a pickle that torch.save didn't write; {pickles.REMEDY}")
    pickles.examine(stream, size)  # about the system that wrote the file
    _, storages = pickles.examine(stream, size)
    keys, _ = pickles.examine(stream, size)
    if not all(isinstance(key, str) for key in keys) or set(keys) != {s.key for s in storages}:
        raise _damaged("it has no values for some of its tensors")
    if sum(storage.bytes for storage in storages) > size:
        raise _damaged("its tensors are larger than the file")


def _damaged(how: str) -> CheckpointError:
    return CheckpointError(f"is damaged: {how}; fetch it again, or ask its author for safetensors")
