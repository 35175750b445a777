"""The bytes of a variant: plain safetensors, the same every time, named by their content."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from zooadapt.errors import PublishError
from zooadapt.mirror import publish, safetensors_file
from zooadapt.stores.opening import open_store
from zooadapt.targets import Bands, Target

STEMS = {"stem": torch.randn(4, 2, 3, 3, dtype=torch.float16)}
BODY = {
    "mask": torch.tensor([True, False, True]),
    "half": torch.randn(3, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "weight": torch.randn(5, 4).t(),
    "empty": torch.zeros(0, 3),
}
TENSORS = {**STEMS, **safetensors_file.arranged(BODY)}
TWO = Target(Bands.counted(2), "repeat")


def data() -> bytes:
    return b"".join(bytes(chunk) for chunk in safetensors_file.serialise(TENSORS))


def test_safetensors_reads_what_is_written() -> None:
    read = safetensors.torch.load(data())
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_stems_come_first_and_every_tensor_is_aligned() -> None:
    header = json.loads(data()[8 : 8 + int.from_bytes(data()[:8], "little")])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert next(iter(header)) == "stem"
    body = [entry for name, entry in header.items() if name != "stem"]
    widths = {"I64": 8, "F32": 4, "BF16": 2, "BOOL": 1}
    assert [widths[entry["dtype"]] for entry in body] == [8, 4, 4, 2, 1]
    assert len(data()[8:]) % 8 == sum(t.nbytes for t in TENSORS.values()) % 8


def test_the_digest_is_that_of_the_bytes() -> None:
    assert safetensors_file.digest_of(TENSORS) == (hashlib.sha256(data()).hexdigest(), len(data()))


def test_a_variant_lies_under_its_content_s_name(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    config = {"architecture": "a"}
    body = safetensors_file.arranged(BODY)
    made = publish.publish_variant(store, "weights/z/m", TWO, STEMS, body, config)
    text = store.read(f"{made.folder}/config.json")
    name = hashlib.sha256(made.sha256.encode() + text).hexdigest()[:16]
    assert made.folder == f"weights/z/m/2ch-repeat-{name}"
    assert json.loads(text) == config
    weights = (tmp_path / made.folder / "model.safetensors").read_bytes()
    assert weights == data()
    assert (hashlib.sha256(weights).hexdigest(), len(weights)) == (made.sha256, made.bytes)
    assert safetensors_file.leading_tensors(weights[: made.head]).keys() == STEMS.keys()
    assert torch.equal(safetensors_file.leading_tensors(weights)["weight"], BODY["weight"])


def test_another_config_is_another_variant(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    folders = {
        publish.publish_variant(store, "w", TWO, STEMS, BODY, {"mean": mean}).folder
        for mean in (0.4, 0.5)
    }
    assert len(folders) == 2


def test_a_dtype_that_cannot_be_stored_is_named() -> None:
    with pytest.raises(PublishError, match="spectrum has dtype"):
        list(safetensors_file.serialise({"spectrum": torch.zeros(2, dtype=torch.complex64)}))
