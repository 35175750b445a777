"""What is proved is what is stored: objects are read back, whole or where they were sewn."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.composed import BODY, change, key, two, variant
from zooadapt.errors import ValidationError
from zooadapt.mirror.read_back import Reader
from zooadapt.stores.opening import open_store
from zooadapt.types import Published


def test_a_composed_variant_is_read_back_in_parts(bucket: str, parts: None, tmp_path: Path) -> None:
    store = open_store(bucket)
    first, made = two(store)
    reader = Reader(store, tmp_path)
    assert reader.read(first)[1] == "full"
    tensors, verification = reader.read(made)
    assert verification == "composed"
    assert tensors["stem"].shape == (8, 5, 3, 3)
    assert torch.equal(tensors["a"], BODY["a"])


@pytest.mark.parametrize(
    "where",
    [
        lambda made: 100,
        lambda made: made.head + made.seams[0] - 1,
        lambda made: made.head + made.seams[1] + 1000,
    ],
)
def test_damage_where_it_was_sent_or_sewn_is_seen(
    where: Callable[[Published], int], bucket: str, parts: None, tmp_path: Path
) -> None:
    store = open_store(bucket)
    first, made = two(store)
    change(store, made, where(made))
    reader = Reader(store, tmp_path)
    reader.read(first)
    with pytest.raises(ValidationError):
        reader.read(made)


def test_damage_to_what_is_read_whole_is_seen(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    made = variant(store, 3)
    change(store, made, made.bytes - 1)
    with pytest.raises(ValidationError, match="other bytes than were written"):
        Reader(store, tmp_path).read(made)


@pytest.mark.parametrize("where", ["head", "body", "end"])
def test_damage_is_seen_by_who_published(where: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    made = variant(store, 3)
    reader = Reader(store, tmp_path, BODY)
    tensors, verification = reader.read(made)
    assert verification == "full"
    assert tensors["a"] is BODY["a"], "it is compared with what is in memory"
    change(store, made, {"head": 8, "body": made.head + 2**20 + 1, "end": made.bytes - 1}[where])
    with pytest.raises(ValidationError, match="other bytes than were written"):
        reader.read(made)


@pytest.mark.parametrize("change_length", [lambda data: data[:-1], lambda data: data + b"0"])
def test_another_length_is_seen_by_who_published(
    change_length: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "store"))
    made = variant(store, 3)
    store.write(key(made), [change_length(store.read(key(made)))])
    with pytest.raises(ValidationError, match="other bytes than were written"):
        Reader(store, tmp_path, BODY).read(made)


def test_another_config_is_seen(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    made = variant(store, 3)
    store.write(f"{made.folder}/config.json", [b"{}"])
    with pytest.raises(ValidationError, match="other bytes than were written"):
        Reader(store, tmp_path, BODY).read(made)


def test_without_a_whole_sibling_everything_is_read(bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket)
    _, made = two(store)
    assert Reader(store, tmp_path).read(made)[1] == "full"
