"""What a pickle would do when loaded, told from its instructions without doing it.

torch runs no code of a pickle (``weights_only``). But it takes whatever memory and time a pickle
asks for, and leaves values that the file lacks as the memory happened to be. So a pickle is gone
through twice: here, where objects are no more than names, and then by torch.
"""

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from zooadapt.errors import CheckpointError

LARGEST = 8 * 2**20
"""Bytes of a pickle, which has some 250 for each tensor. Loaded, it may take 70 times as much."""

_MOST_DIMENSIONS = 64  # torch's own limit
_KINDS = {
    1: "Bool Byte Char",
    2: "BFloat16 Half Short",
    4: "Float Int",
    8: "ComplexFloat Double Long",
    16: "ComplexDouble",
}
_ITEM_BYTES = {"torch.storage UntypedStorage": 1} | {
    f"torch {kind}Storage": size for size, kinds in _KINDS.items() for kind in kinds.split()
}


@dataclass(frozen=True)
class Storage:
    """Values that a pickle says lie elsewhere in its file."""

    key: str
    bytes: int
    item_bytes: int


@dataclass(frozen=True)
class _Named:
    """A class or function, by its module and name."""

    name: str


@dataclass(frozen=True)
class _Made:
    """What a class or function would make."""

    by: str


def examine(stream: io.BytesIO, most: int) -> tuple[Any, list[Storage]]:
    """The next pickle of the stream, its objects only named, and the storages that it claims.

    Raises CheckpointError, whose message lacks the subject, where the pickle needs more than plain
    tensors and containers, or has a tensor that reaches beyond its storage or repeats it to more
    than `most` values. Where it makes no sense, anything may be raised.
    """
    examination = _Examination(most)
    for opcode, argument, _ in pickletools.genops(stream):
        examination.step(opcode.name, argument)
    return examination.stack.pop(), list(examination.storages.values())


class _Examination:
    """A pickle's stack and memo, as torch's unpickler would have them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, instruction: str, argument: Any) -> None:
        """Do to the stack what an instruction does."""
        match instruction:
            case "PROTO" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                self.stack.append(_NEW[instruction]())
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                self.stack.append(argument)
            case "SHORT_BINSTRING" if argument.isascii():  # torch has others read differently
                self.stack.append(argument)
            case "GLOBAL":
                self.stack.append(_named(argument))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = tuple(self.take(instruction))
                self.stack.append(items)
            case "APPEND" | "APPENDS":
                _extend(self.take(instruction), self.stack[-1])
            case "SETITEM" | "SETITEMS":
                _update(self.take(instruction), self.stack[-1])
            case "BINPERSID":
                self.stack.append(self.claim(_storage(*self.stack.pop())))
            case "REDUCE" | "NEWOBJ":
                arguments, function = self.stack.pop(), self.stack.pop()
                self.stack.append(self.call(function.name, arguments))
            case "BUILD":
                _build(self.stack.pop(), self.stack[-1])
            case _:
                raise _refused(f"needs the pickle instruction {instruction}")

    def take(self, instruction: str) -> list[Any]:
        """The items of the stack that an instruction takes: so many, or all since the mark."""
        number = _TAKES.get(instruction)
        if number is None:
            items, self.stack = self.stack, self.below.pop()
            return items
        items = self.stack[-number:]
        del self.stack[-number:]
        return items

    def claim(self, storage: Storage) -> Storage:
        """The storage, which is the same at each mention: torch doesn't look whether it is."""
        if self.storages.setdefault(storage.key, storage) != storage:
            raise _refused("has two lengths for the same values")
        return storage

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What a call would make. Raises CheckpointError where it isn't known to be harmless."""
        if name not in _CALLS or not _CALLS[name](*arguments):
            raise _foreign(name)
        if name in _TENSORS:
            _check_tensor(self.most, *arguments)
        return arguments[0] if name == "torch Size" else _Made(name)


_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}


def _keyed(items: Any = ()) -> bool:
    """Whether a container of these would have plain keys, which take no time to be told apart."""
    if isinstance(items, list):
        return all(_plain(item[0] if isinstance(item, list) else item) for item in items)
    return isinstance(items, dict) or items == ()


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


_TENSORS: dict[str, Callable[..., bool]] = {
    # One more argument would make the tensor negated or conjugated.
    "torch._utils _rebuild_tensor": lambda *arguments: len(arguments) == 4,
    "torch._utils _rebuild_tensor_v2": lambda *arguments: len(arguments) == 6,
    "torch._utils _rebuild_tensor_v3": lambda *arguments: len(arguments) == 7,
}
_CALLS: dict[str, Callable[..., bool]] = {
    **_TENSORS,
    "torch._utils _rebuild_parameter": lambda *_: True,
    "torch Size": lambda size: isinstance(size, tuple),
    "torch device": lambda *arguments: all(map(_plain, arguments)),
    "collections OrderedDict": _keyed,
    "collections Counter": _keyed,
    "__builtin__ set": _keyed,
    "argparse Namespace": lambda: True,
    "_codecs encode": lambda text, codec: isinstance(text, str) and codec == "latin1",  # bytes
}
_DTYPES = {
    f"torch {name}": value.itemsize
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype)
}
KNOWN = _CALLS.keys() | _ITEM_BYTES.keys() | _DTYPES.keys()
"""All that a pickle may name."""


def _named(name: str) -> _Named:
    if name not in KNOWN:
        raise _foreign(name)
    return _Named(name)


def _extend(items: list[Any], of: Any) -> None:
    if type(of) is not list:
        raise TypeError(f"a {type(of).__name__} can't be appended to")
    of.extend(items)


def _update(items: list[Any], of: Any) -> None:
    keys = items[::2]
    if not all(map(_plain, keys)):
        raise _refused("has a dictionary with keys that aren't plain")
    if isinstance(of, dict):
        of.update(dict.fromkeys(keys))


def _build(state: Any, of: Any) -> None:
    """What ``state_dict`` hangs on an OrderedDict, or the content of a Namespace."""
    metadata = of.by == "collections OrderedDict" and state.keys() <= {"_metadata"}
    if not metadata and not (of.by == "argparse Namespace" and isinstance(state, dict)):
        raise _refused(f"sets attributes of {_dotted(of.by)}")


def _storage(_: Any, kind: Any, key: Any, device: Any, length: Any, *view: Any) -> Storage:
    """What a persistent id stands for. torch below 0.4 could name a part of a storage, too."""
    if any(part is not None for part in view):
        raise _refused("has a part of some values under another name")
    if not isinstance(key, str) or not isinstance(length, int) or length < 0:
        raise TypeError("a storage's key or length is of another kind")
    item_bytes = _ITEM_BYTES[kind.name]
    return Storage(key, length * item_bytes, item_bytes)


def _check_tensor(
    most: int, storage: Storage, offset: Any, size: Any, stride: Any, *more: Any
) -> None:
    """The tensor lies in its storage: torch would make a legacy one longer, with what was there."""
    numbers = (offset, *size, *stride)
    if len(size) > _MOST_DIMENSIONS or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise TypeError("a tensor's size is of another kind")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    item_bytes = _DTYPES[more[2].name] if len(more) == 3 else storage.item_bytes
    if 0 not in size and (last + 1) * item_bytes > storage.bytes:
        raise _refused("has a tensor that is larger than its values")
    if math.prod(size) > most:
        raise _refused("has a tensor that is larger than the file")


def _foreign(name: str) -> CheckpointError:
    return CheckpointError(
        f"would run code ({_dotted(name)}) when unpickled, so it was not opened; ask its "
        f"author for safetensors"
    )


def _refused(reason: str) -> CheckpointError:
    return CheckpointError(
        f"{reason}, as no checkpoint of plain tensors does; ask its author for safetensors"
    )


def _dotted(name: str) -> str:
    return name.replace(" ", ".")
