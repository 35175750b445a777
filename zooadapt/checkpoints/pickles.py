"""Find out what a pickle would do when loaded, from its instructions, without doing it.

torch runs no code of a pickle (``weights_only``). But it takes as much memory and time as a pickle
asks for, and leaves values that the file lacks undefined. A pickle is therefore read twice: first
here, where objects are only names, and then by torch.
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
"""The most bytes of a pickle; each tensor takes some 250. Loading can need 70 times as many."""

_MOST_DIMENSIONS = 64  # torch's own limit
_KINDS = {
    1: "Bool Byte Char",
    2: "BFloat16 Half Short",
    4: "Float Int",
    8: "ComplexFloat Double Long",
    16: "ComplexDouble",
}
"""The kinds of torch's storages, by the bytes of an item."""
_ITEM_BYTES = {"torch.storage UntypedStorage": 1} | {
    f"torch {kind}Storage": size for size, kinds in _KINDS.items() for kind in kinds.split()
}


@dataclass(frozen=True)
class Storage:
    """Values that, as a pickle says, are stored elsewhere in its file."""

    key: str
    bytes: int
    item_bytes: int


@dataclass(frozen=True)
class _Named:
    """A class or function, by its module and name."""

    name: str


@dataclass(frozen=True)
class _Made:
    """The object that a class or function would make."""

    by: str


def examine(stream: io.BytesIO, most: int) -> tuple[Any, list[Storage]]:
    """The content of the next pickle, with names for its objects, and the storages it claims.

    Raises CheckpointError if the pickle needs more than plain tensors and containers, or if a
    tensor reaches beyond its storage or repeats it to more than `most` values. The message begins
    with the verb, for the caller to put the file's name before it. A malformed pickle can raise any
    exception.
    """
    examination = _Examination(most)
    for opcode, argument, _ in pickletools.genops(stream):
        examination.step(opcode.name, argument)
    return examination.stack.pop(), list(examination.storages.values())


class _Examination:
    """The stack and memo that torch's unpickler would have."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, instruction: str, argument: Any) -> None:
        """Change the stack as the instruction would."""
        match instruction:
            case "PROTO" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                self.stack.append(_NEW[instruction]())
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                self.stack.append(argument)
            case "SHORT_BINSTRING" if argument.isascii():  # torch decodes others in another way
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
        """Pop the items that an instruction takes: a fixed number, or all since the mark."""
        number = _TAKES.get(instruction)
        if number is None:
            items, self.stack = self.stack, self.below.pop()
            return items
        items = self.stack[-number:]
        del self.stack[-number:]
        return items

    def claim(self, storage: Storage) -> Storage:
        """Note a storage. Raises CheckpointError if two of one key differ, which torch ignores."""
        if self.storages.setdefault(storage.key, storage) != storage:
            raise _refused("has two lengths for the same values")
        return storage

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """The result of a call. Raises CheckpointError unless the call is known to be harmless."""
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
    """Whether a container of these items has only plain keys, which are quick to compare."""
    if isinstance(items, list):
        return all(_plain(item[0] if isinstance(item, list) else item) for item in items)
    return isinstance(items, dict) or items == ()


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


_TENSORS: dict[str, Callable[..., bool]] = {
    # One more argument would negate or conjugate the tensor.
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
"""All names that a pickle can contain."""


def _named(name: str) -> _Named:
    if name not in KNOWN:
        raise _foreign(name)
    return _Named(name)


def _extend(items: list[Any], container: Any) -> None:
    if type(container) is not list:
        raise TypeError(f"it appends to a {type(container).__name__}")
    container.extend(items)


def _update(items: list[Any], container: Any) -> None:
    keys = items[::2]
    if not all(map(_plain, keys)):
        raise _refused("has a dictionary with keys that aren't plain")
    if isinstance(container, dict):
        container.update(dict.fromkeys(keys))


def _build(state: Any, made: Any) -> None:
    """Allow the metadata that ``state_dict`` adds to an OrderedDict, and a Namespace's content."""
    metadata = made.by == "collections OrderedDict" and state.keys() <= {"_metadata"}
    if not metadata and not (made.by == "argparse Namespace" and isinstance(state, dict)):
        raise _refused(f"sets attributes of {_dotted(made.by)}")


def _storage(_: Any, kind: Any, key: Any, device: Any, length: Any, *view: Any) -> Storage:
    """The storage of a persistent id. torch before 0.4 could also name a part of a storage."""
    if any(part is not None for part in view):
        raise _refused("names a part of a storage")
    if not isinstance(key, str) or not isinstance(length, int) or length < 0:
        raise TypeError("a storage's key isn't text, or its length isn't a whole number")
    item_bytes = _ITEM_BYTES[kind.name]
    return Storage(key, length * item_bytes, item_bytes)


def _check_tensor(
    most: int, storage: Storage, offset: Any, size: Any, stride: Any, *more: Any
) -> None:
    """Check that a tensor fits into its storage: torch extends a legacy one by undefined values."""
    numbers = (offset, *size, *stride)
    if len(size) > _MOST_DIMENSIONS or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise TypeError("a tensor's size isn't made of whole numbers")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    item_bytes = _DTYPES[more[2].name] if len(more) == 3 else storage.item_bytes
    if 0 not in size and (last + 1) * item_bytes > storage.bytes:
        raise _refused("has a tensor that is larger than its values")
    if math.prod(size) > most:
        raise _refused("has a tensor that is larger than the file")


REMEDY = (
    "ask its author for safetensors, or if it is yours save the weights alone, with "
    "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
)
"""What to do about a file that holds more than tensors."""


def _foreign(name: str) -> CheckpointError:
    return CheckpointError(
        f"would run code ({_dotted(name)}) when unpickled, so it was not opened; {REMEDY}"
    )


def _refused(reason: str) -> CheckpointError:
    return CheckpointError(f"{reason}, unlike a checkpoint of plain tensors; {REMEDY}")


def _dotted(name: str) -> str:
    return name.replace(" ", ".")
