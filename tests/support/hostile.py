"""Checkpoints that are made to run code, to take all memory or time, or to be misread."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.pickled import (
    BUILD,
    EMPTY,
    NEWOBJ,
    REDUCE,
    START,
    STOP,
    VALUES,
    call,
    entries,
    laughs,
    legacy_storage,
    named,
    nested,
    number,
    several,
    stacked,
    storage,
    tensor,
    text,
    weights,
    zipped,
)

Cases = dict[str, tuple[bytes, str]]
"""Files, each with a pattern that its error must match, by a name for what is wrong."""

_UTILS = "torch._utils"
_REBUILD = f"{_UTILS}._rebuild_tensor_v2"
_SQUARE = (10**5, 10**5)
"""The shape of a float32 tensor of 40 GB."""


def calling(canary: Path) -> Cases:
    """Pickles that would touch the canary."""
    command, code = text(f"touch {canary}"), text(f"open({str(canary)!r}, 'w')")
    inner = START + call("os.system", command) + STOP
    data = call("_codecs.encode", text(inner.decode("latin1")), text("latin1"))
    resolved = call("pkgutil.resolve_name", text("os:system")) + several(command) + REDUCE
    pickles = {
        "os.system": call("os.system", command),
        "posix.system": call("posix.system", command),
        "__builtin__.eval": call("__builtin__.eval", code),
        "builtins.exec": call("builtins.exec", code),
        "pkgutil.resolve_name": resolved,
        "subprocess.Popen": named("subprocess.Popen") + several(command) + NEWOBJ,
        "_pickle.loads": call("_pickle.loads", data),
        "functools.partial": call("functools.partial", named("os.system"), command),
    }
    files = {
        f"{name} {form.__name__}": (form(content), rf"would run code \({name}\)")
        for name, content in pickles.items()
        for form in (zipped, stacked)
    }
    second = stacked(entries({}), keys=call("os.system", command))
    return {**files, "in the last pickle": (second, r"would run code \(os.system\)")}


def greedy_pickles() -> Cases:
    """Pickles that would take all memory or time."""
    encoded = call("_codecs.encode", text("a" * 16), text("latin1"))
    for _ in range(33):
        encoded = call("_codecs.encode", encoded, text("hex"))
    start, rest = (storage(2), number(0)), (several(), b"\x89", EMPTY)
    laughing, long = several(number(10**9), laughs(60)), several(*[number(2**2000)] * 30_000)
    square, meta = several(*map(number, _SQUARE)), f"{_UTILS}._rebuild_meta_tensor_no_storage"
    pickles = {
        "an array of bytes": (call("__builtin__.bytearray", number(10**11)), "bytearray"),
        "a new tensor": (call("torch.FloatTensor", *map(number, _SQUARE)), "FloatTensor"),
        "hex of hex": (encoded, "_codecs.encode"),
        "laughs for a key": (b"}" + laughs(60) + b"Ns", "keys"),
        "a deep key": (b"}" + nested(200_000) + b"Ns", "keys"),
        "laughs for a list": (call("collections.OrderedDict", b"]" + laughs(60) + b"a"), "Ordered"),
        "laughs for a function": (laughs(60) + EMPTY + REDUCE, "damaged"),
        "laughs for a size": (call(_REBUILD, *start, laughing, *rest), "whole numbers"),
        "a long size": (call(_REBUILD, *start, long, *rest), "whole numbers"),
        "an expanded tensor": (weights(storage(2), size=_SQUARE, stride=(0, 0)), "larger than"),
        "a meta tensor": (call(meta, named("torch.int8"), square, square, b"\x89"), "meta_tensor"),
        "many empty tuples": (EMPTY * 2**24, "data.pkl has more"),
    }
    return {name: (zipped(content), message) for name, (content, message) in pickles.items()}


def greedy_legacy_pickles() -> Cases:
    """Pickles of torch before 1.6 that would take all memory or time."""
    view = several(laughs(60), number(0), number(2))
    magic = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)
    keys = b"](" + text("0") + laughs(60) + b"e"
    large = {"size": _SQUARE, "stride": (0, 0)}
    return {
        "a large claim": (stacked(weights(legacy_storage(10**11))), "larger than the file"),
        "an expanded one": (stacked(weights(legacy_storage(2), **large)), "larger than the file"),
        "laughs for a view": (stacked(weights(legacy_storage(2, view=view))), "part of a storage"),
        "laughs for storages": (stacked(weights(legacy_storage(2)), keys), "no values"),
        "laughs for a protocol": (magic + START + laughs(60) + STOP, "torch.save didn't write"),
    }


def greedy_archives() -> Cases:
    """Archives and headers that would unfold to any size."""
    words, zeros = entries({"w": text("a" * 2**26)}), b"\0" * 2**26
    bomb = zipped(weights(storage(2**24)), zeros, compression=zipfile.ZIP_DEFLATED)
    header = b'{"w":[' + b"[]," * 2**22 + b"[]]}"
    return {
        "a compressed pickle": (zipped(words, compression=zipfile.ZIP_DEFLATED), "more than"),
        "compressed values": (bomb, "more than entries"),
        "overlapping entries": (overlapping(), "overlap"),
        "a long list of entries": (listing(200_000), "read at once"),
        "a long header": (safetensors(header), "header would have"),
    }


def misleading_pickles() -> Cases:
    """Pickles that don't hold what they claim, or that hold more than plain tensors."""
    negated = weights(storage(2)).replace(b"(tRtR", b"(tR}" + text("neg") + b"\x88stR")
    shadowed = call("collections.OrderedDict") + entries({"keys": named("torch.device")}) + BUILD
    quantised = call(f"{_UTILS}._rebuild_qtensor", storage(2, kind="torch.QInt8Storage"))
    # When an empty storage is named again, torch makes a new one and doesn't fill it.
    none, empty = legacy_storage(0), tensor(legacy_storage(0), (0,))
    growing = entries({"w": empty, "v": tensor(none)})
    renamed = entries({"w": empty, "v": tensor(legacy_storage(2))})
    typed = call("torch._tensor._rebuild_from_type_v2", EMPTY)
    return {
        "values left out": (stacked(weights(legacy_storage(2)), keys=b"]"), "no values"),
        "other names for values": (
            stacked(named_in_two_codes(), b"]" + text("é") + b"a"),
            "STRING",
        ),
        "fewer values": (zipped(weights(storage(20))), "hasn't the stated 80 bytes"),
        "more values": (zipped(weights(storage(1), size=(1,))), "hasn't the stated 4 bytes"),
        "no values": (zipped(weights(storage(2)), None), "hasn't the stated 8 bytes"),
        "a step out of the values": (zipped(weights(storage(2), stride=(9,))), "than its values"),
        "values that grow": (stacked(growing, data=b""), "larger than its values"),
        "values of two lengths": (stacked(renamed, data=b""), "two lengths"),
        "a negated tensor": (zipped(negated), "_rebuild_tensor_v2"),
        "a tensor with attributes": (zipped(typed), "_rebuild_from_type_v2"),
        "a quantised tensor": (zipped(quantised), "_rebuild_qtensor"),
        "a sparse tensor": (saved({"w": torch.zeros(2, 2).to_sparse()}), "_rebuild_sparse"),
        "a dictionary's methods": (zipped(shadowed), "sets attributes"),
        "a newer protocol": (pickle.dumps({"w": 1}, 4), "FRAME"),
        "no checkpoint": (pickle.dumps({"w": 1}, 2), "torch.save didn't write"),
    }


def named_in_two_codes() -> bytes:
    """Two names that torch tells apart, but a reader that decodes the second as Latin-1 doesn't."""
    one, other = legacy_storage(2, "Ã©"), legacy_storage(2, "é")
    other = other.replace(text("é"), b"U\x02" + "é".encode())
    return entries({"w": tensor(one), "v": tensor(other)})


def misleading_archives() -> Cases:
    """Archives that torch didn't write, that are damaged, or that are two in one."""
    pickle, good = weights(storage(2)), zipped(weights(storage(2)))
    at = good.index(VALUES)
    npz = io.BytesIO()
    np.savez(npz, a=np.array([{"w": 1}], dtype=object))
    deflated = zipped(pickle, b"ab" * 4, compression=zipfile.ZIP_DEFLATED)
    return {
        "a wrong checksum": (good[:at] + b"\1" + good[at + 1 :], "checksum of archive/data/0"),
        "a way out": (zipped(pickle, extra={"archive/../../evil": b""}), "outside its folder"),
        "a way to the root": (zipped(pickle, extra={"/etc/passwd": b""}), "outside its folder"),
        "twins": (zipped(pickle, extra={"archive/DATA.pkl": b"N."}), "of one name"),
        "compressed entries": (deflated, "is compressed"),
        "a comment": (good[:-2] + struct.pack("<H", 4) + b"more", "more than entries"),
        "an archive for a comment": (good[:-2] + struct.pack("<H", len(good)) + good, "more than"),
        "an archive behind another": (good + good, "more than entries"),
        "TorchScript": (
            zipped(pickle, extra={"archive/constants.pkl": b"N."}),
            "it is TorchScript",
        ),
        "objects of numpy": (npz.getvalue(), "it holds a.npy"),
        "a tar": (tar("storages"), "a tar archive"),
        "a tar that begins as a pickle": (tar("\x80storages"), "damaged"),
    }


def headers() -> Cases:
    """Malformed safetensors files."""
    one = {"w": info(0, 8)}
    entry, other = json.dumps(info(0, 8)).encode(), json.dumps(info(8, 16)).encode()
    deep = b'{"w":' + b"[" * 10**5 + b"]" * 10**5 + b"}"
    return {
        "no header": (safetensors(b"", b"{}"), "damaged"),
        "a header longer than the file": (safetensors(one, VALUES, length=10**6), "header length"),
        "a header of an exabyte": (safetensors(one, VALUES, length=2**60), "unknown format"),
        "cut JSON": (safetensors(b'{"w":'), "invalid JSON"),
        "deep JSON": (safetensors(deep), "recursion limit"),
        "no UTF-8": (safetensors(b'{"\xff":1}'), "UTF-8"),
        "an overlap": (safetensors({**one, "v": info(4, 12)}, VALUES * 2), "invalid offset"),
        "the same bytes": (safetensors({**one, "v": info(0, 8)}, VALUES), "invalid offset"),
        "a gap": (safetensors({**one, "v": info(12, 20)}, VALUES * 3), "invalid offset"),
        "a gap in front": (safetensors({"w": info(4, 12)}, VALUES * 2), "invalid offset"),
        "a negative offset": (safetensors({"w": info(-8, 0)}, VALUES), "expected usize"),
        "reversed offsets": (safetensors({"w": info(8, 0)}, VALUES), "invalid offset"),
        "offsets out of the file": (safetensors({"w": info(0, 80, [20])}, VALUES), "not fully"),
        "a larger shape": (safetensors({"w": info(0, 8, [3])}, VALUES), "invalid shape"),
        "a negative shape": (safetensors({"w": info(0, 8, [-2])}, VALUES), "expected usize"),
        "an overflowing shape": (safetensors({"w": info(0, 0, [0, 2**63, 2**63])}), "verflow"),
        "another dtype": (safetensors({"w": info(0, 8, dtype="F99")}, VALUES), "unknown variant"),
        "trailing bytes": (safetensors(one, VALUES + b"x"), "not fully"),
        "a name twice": (safetensors(b'{"w":%s,"\\u0077":%s}' % (entry, entry), VALUES), "twice"),
        "two of a name": (safetensors(b'{"w":%s,"w":%s}' % (entry, other), VALUES * 2), "twice"),
    }


def info(
    start: int, stop: int, shape: list[int] | None = None, dtype: str = "F32"
) -> dict[str, Any]:
    """A tensor's entry in a safetensors header."""
    return {"dtype": dtype, "shape": shape or [2], "data_offsets": [start, stop]}


def safetensors(
    header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None
) -> bytes:
    """A safetensors file with this header, which may lie about its own length."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def saved(content: Any) -> bytes:
    """The bytes that torch itself writes for `content`."""
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def overlapping() -> bytes:
    """A zip whose last entry begins in the right place and ends beyond the file."""
    good = zipped(weights(storage(2)))
    sizes = good.rindex(b"PK\1\2") + 20
    return good[:sizes] + struct.pack("<2I", len(good), len(good)) + good[sizes + 8 :]


def listing(number: int) -> bytes:
    """A zip that lists one entry `number` times."""
    good = zipped(weights(storage(2)))
    start = int.from_bytes(good[-6:-2], "little")
    listed = good[start:-22] + good[good.rindex(b"PK\1\2") : -22] * number
    most = 2**16 - 1
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, most, most, len(listed), start, 0)
    return good[:start] + listed + end


def tar(first: str) -> bytes:
    """A checkpoint as torch before 0.1.10 wrote it, with a first member of this name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="latin1") as made:
        member = tarfile.TarInfo(first)
        member.size = len(VALUES)
        made.addfile(member, io.BytesIO(VALUES))
    return out.getvalue()
