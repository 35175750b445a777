"""Whatever bytes a checkpoint has, it is read correctly or refused in one line."""

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import hostile, pickled
from zooadapt.checkpoints import checkpoint, pickles
from zooadapt.errors import CheckpointError


def read_or_refused(content: bytes) -> bool:
    """Whether a file is read. Asserts that it reads the same twice, or is refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pth"
        file.write_bytes(content)
        try:
            read = checkpoint.read(file)
        except CheckpointError as error:
            line = str(error)
            assert line.startswith("model.pth ") and "\n" not in line  # noqa: PT018
            return False
        again = checkpoint.read(file)
        for name, value in read.items():
            if isinstance(value, torch.Tensor):
                assert value.untyped_storage().nbytes() <= len(content)
                assert torch.equal(stored(value), stored(again[name]))
        return True


def stored(tensor: torch.Tensor) -> torch.Tensor:
    """All bytes of the tensor's storage, of which the tensor can show a part."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


GOOD = [
    hostile.safetensors({"w": hostile.info(0, 8)}, pickled.VALUES),
    pickled.zipped(pickled.weights(pickled.storage(2))),
    pickled.stacked(pickled.weights(pickled.legacy_storage(2))),
]
EDITS = st.lists(
    st.tuples(st.integers(0, 999), st.integers(0, 9), st.binary(max_size=9)), max_size=4
)


@given(st.sampled_from(GOOD), EDITS)
@settings(deadline=None, max_examples=500)
def test_a_damaged_file_is_refused_or_read_right(
    content: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    for position, length, put in edits:
        content = content[:position] + put + content[position + length :]
    read_or_refused(content)


SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "BOOL": 1, "F8_E4M3": 1, "C64": 8}
DTYPES = st.sampled_from(list(SIZES))
SHAPES = st.lists(st.integers(0, 4), max_size=3)
TENSORS = st.dictionaries(st.text(max_size=3), st.tuples(DTYPES, SHAPES), max_size=4)
LIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F4", "F6_E2M3", "F64", "none", None, 4]),
        "shape": st.lists(st.integers(-1, 9) | st.sampled_from([2**31, 2**63, 2**64]), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 99) | st.just(2**64), max_size=3),
    },
)


@given(TENSORS, LIES, st.integers(0, 2))
@settings(deadline=None, max_examples=500)
def test_a_header_is_refused_or_read_right(
    tensors: dict[str, tuple[str, list[int]]], lies: dict[str, Any], more: int
) -> None:
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + SIZES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    for name in list(header)[:1]:
        header[name].update(lies)
    was_read = read_or_refused(hostile.safetensors(header, bytes(end + more)))
    assert was_read or lies or more


VALUES = [
    *(b"N", b"\x88", b"]", b"}", pickled.EMPTY, pickled.laughs(40), pickled.nested(999)),
    *(pickled.text(name) for name in ("", "0", "w", "storage", "_metadata", "latin1")),
    *(pickled.number(value) for value in (0, 1, 2, -1, 2**31, 2**63, 2**2000)),
    *(pickled.named(name.replace(" ", ".")) for name in [*pickles.KNOWN, "os system"]),
    *(pickled.call("collections.OrderedDict"), pickled.storage(2), pickled.legacy_storage(2)),
    *(pickled.tensor(pickled.storage(2)), pickled.tensor(pickled.legacy_storage(2))),
]
STEPS = [b"(", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"Q", b"R", b"\x81", b"b"]
MEMO = [b"q\0", b"q\1", b"h\0", b"h\1"]
INSTRUCTIONS = st.sampled_from(VALUES) | st.sampled_from(STEPS) | st.sampled_from(MEMO)


@given(st.lists(INSTRUCTIONS, max_size=12).map(b"".join), st.booleans())
@settings(deadline=None, max_examples=500)
def test_a_pickle_is_refused_or_read_right(instructions: bytes, zipped: bool) -> None:
    content = b"}(" + pickled.text("w") + instructions + b"u"
    read_or_refused(pickled.zipped(content) if zipped else pickled.stacked(content))


FEW = st.integers(0, 3)
CLAIMS = st.tuples(FEW, st.sampled_from("01"), st.lists(FEW, max_size=2), st.lists(FEW, max_size=2))
KEYS = st.lists(st.sampled_from("01"), max_size=2)


@given(st.lists(CLAIMS, max_size=2), st.booleans(), KEYS, st.binary(max_size=12))
@settings(deadline=None, max_examples=500)
def test_a_claim_is_refused_or_read_right(
    claims: list[tuple[int, str, list[int], list[int]]], zipped: bool, keys: list[str], data: bytes
) -> None:
    storage = pickled.storage if zipped else pickled.legacy_storage
    made = [pickled.tensor(storage(length, key), *shape) for length, key, *shape in claims]
    content = pickled.entries({str(number): value for number, value in enumerate(made)})
    listed = b"](" + b"".join(map(pickled.text, keys)) + b"e"
    read_or_refused(
        pickled.zipped(content, data) if zipped else pickled.stacked(content, listed, data)
    )
