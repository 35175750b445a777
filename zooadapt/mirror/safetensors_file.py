"""Tensors as the bytes of a safetensors file: the same tensors always give the same bytes.

A safetensors file is an 8-byte header length, a JSON header, and the tensors' bytes without gaps
(https://huggingface.co/docs/safetensors). The mirror's files hold the stems first, then the body.
Each of the two begins with its widest dtype, so that every tensor is aligned. The header's metadata
is exactly {"format": "pt"}.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zooadapt.errors import PublishError

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def arranged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the widest elements first, so that all are aligned; the sort is stable."""
    return {
        name: tensors[name]
        for name in sorted(tensors, key=lambda name: -tensors[name].element_size())
    }


def leading_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors that lie wholly in `data`, the first bytes of a safetensors file."""
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    dtypes = {name: dtype for dtype, name in _DTYPES.items()}
    return {
        name: torch.frombuffer(
            bytearray(data[begin + facts["data_offsets"][0] : begin + facts["data_offsets"][1]]),
            dtype=dtypes[facts["dtype"]],
        ).reshape(facts["shape"])
        for name, facts in header.items()
        if begin + facts["data_offsets"][1] <= len(data) and 0 not in facts["shape"]
    }


def tensor_names(file: Path) -> list[str]:
    """The names of a safetensors file's tensors, in the order in which `serialise` got them."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


def digest_of(tensors: Mapping[str, Tensor]) -> tuple[str, int]:
    """The sha256 (in hex) and the size (in bytes) of the file that `serialise` yields."""
    digest, size = hashlib.sha256(), 0
    for chunk in serialise(tensors):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def serialise(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file that holds the tensors in the given order.

    The first chunk is the header; each tensor is one more chunk. Raises PublishError for a dtype
    that the mirror can't store.
    """
    header = json.dumps(_header(tensors), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for tensor in tensors.values():
        yield bytes_of(tensor)


def pieces(tensors: Mapping[str, Tensor]) -> list[tuple[int, Callable[[], memoryview]]]:
    """The size of each tensor in bytes, and a call that gives its bytes."""
    return [(tensor.nbytes, partial(bytes_of, tensor)) for tensor in tensors.values()]


def bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's values as bytes; they are copied only if the tensor isn't contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _header(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise PublishError(f"{name} has dtype {tensor.dtype}, which the mirror can't store")
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    return header
