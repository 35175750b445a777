"""Pickles made of single instructions, as no pickler writes them. Each function gives some."""

import io
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping

import torch

VALUES = struct.pack("<2f", 1, 2)
"""The bytes of two float32 values."""

START, STOP = b"\x80\x02", b"."
EMPTY = b")"
"""The instruction for an empty tuple."""
REDUCE, NEWOBJ, BUILD = b"R", b"\x81", b"b"


def named(name: str) -> bytes:
    """The instructions for a class or function."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    """The instructions for a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """The instructions for an integer."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def several(*items: bytes) -> bytes:
    """The instructions for a tuple."""
    return b"(" + b"".join(items) + b"t"


def call(name: str, *arguments: bytes) -> bytes:
    """The instructions for calling a function."""
    return named(name) + several(*arguments) + REDUCE


def entries(items: Mapping[str, bytes]) -> bytes:
    """The instructions for a dictionary."""
    return b"}(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def storage(length: int, key: str = "0", kind: str = "torch.FloatStorage") -> bytes:
    """The instructions for values that are stored elsewhere, as zips refer to them."""
    return several(text("storage"), named(kind), text(key), text("cpu"), number(length)) + b"Q"


def legacy_storage(length: int, key: str = "0", view: bytes = b"N") -> bytes:
    """The instructions for values that are stored elsewhere, as in torch before 1.6."""
    parts = text("storage"), named("torch.FloatStorage"), text(key), text("cpu"), number(length)
    return several(*parts, view) + b"Q"


def tensor(values: bytes, size: Iterable[int] = (2,), stride: Iterable[int] = (1,)) -> bytes:
    """The instructions for a tensor of values that are stored elsewhere."""
    shape, steps = several(*map(number, size)), several(*map(number, stride))
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", values, number(0), shape, steps, b"\x89", hooks)


def laughs(doublings: int) -> bytes:
    """A tuple of one tuple twice, of one tuple twice …: few bytes that take for ever to read."""
    pairs = (b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(doublings))
    return EMPTY + b"".join(pairs)


def nested(depth: int) -> bytes:
    """A tuple in a tuple in …, deeper than a recursion has stack for."""
    return EMPTY + b"\x85" * depth


def zipped(
    content: bytes,
    data: bytes | None = VALUES,
    extra: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """A checkpoint as torch writes it now, with `content` as its pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("archive/data.pkl", START + content + STOP)
        if data is not None:
            archive.writestr("archive/data/0", data)
        archive.writestr("archive/version", "3\n")
        for name, more in (extra or {}).items():
            archive.writestr(name, more)
    return out.getvalue()


def stacked(content: bytes, keys: bytes = b"]" + text("0") + b"a", data: bytes = VALUES) -> bytes:
    """A checkpoint as torch wrote it before 1.6, with `content` as its pickle."""
    numbers = torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION
    pickles = [pickle.dumps(value, 2) for value in (*numbers, "the system")]
    pickles += [START + content + STOP, START + keys + STOP]
    return b"".join(pickles) + struct.pack("<q", len(data) // 4) + data


def weights(values: bytes, **shape: Iterable[int]) -> bytes:
    """The instructions for a dictionary with one tensor, `w`."""
    return entries({"w": tensor(values, **shape)})
