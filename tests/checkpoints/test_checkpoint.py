"""Checkpoints are read without running code, and no tensor is left random."""

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from zooadapt.checkpoints import checkpoint
from zooadapt.errors import CheckpointError

TENSORS = {"weight": torch.randn(4, 3), "bias": torch.randn(4)}


class Net(nn.Module):
    """A model with a linear layer, a buffer that it computes, and a parameter that is random."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.register_buffer("computed", torch.arange(4.0))
        self.drawn = nn.Parameter(torch.randn(2))


def linear() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(3, 4)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "wrong.txt"])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_every_format_is_told_by_its_content(tmp_path: Path, form: str, name: str) -> None:
    file = tmp_path / name
    if form == "safetensors":
        safetensors.torch.save_file(TENSORS, file)
    else:
        torch.save(TENSORS, file, _use_new_zipfile_serialization=form == "zip")
    read = checkpoint.read(file)
    assert all(torch.equal(read[key], TENSORS[key]) for key in TENSORS)


def test_a_training_checkpoint_with_a_namespace_is_read(tmp_path: Path) -> None:
    content = {"model": TENSORS, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, tmp_path / "a.pth")
    assert checkpoint.read(tmp_path / "a.pth").keys() == content.keys()


class Malicious:
    """An object that touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_never_run(tmp_path: Path, zipped: bool) -> None:
    canary, file = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({"w": Malicious(canary)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"would run code .*posix\.system"):
        checkpoint.read(file)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><p>Sign in</p>", "an HTML or XML page"),
        (b"", "is empty"),
        (b"what is this? nothing we know of", "unknown format"),
        (b"\x80\x02truncated", "evil.pth"),
        (b"PK\x03\x04truncated", "damaged"),
        ((100).to_bytes(8, "little") + b'{"w": 1', "damaged .* header"),
    ],
)
def test_anything_else_is_said_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "evil.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.read(tmp_path / "evil.pth")
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    for name, save in (("a.safetensors", safetensors.torch.save_file), ("a.pth", torch.save)):
        save(TENSORS, tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-20])
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.read(tmp_path / name)


def test_a_pickled_list_is_not_a_checkpoint(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        checkpoint.read(tmp_path / "list.pth")


def test_assigning_takes_the_tensors_as_they_are() -> None:
    model, tensors = linear(), {name: tensor.half() for name, tensor in TENSORS.items()}
    assert checkpoint.assign(model, tensors, strict=True, rebuild=linear) == ()
    assert model.state_dict()["weight"].data_ptr() == tensors["weight"].data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weight": torch.zeros(4, 5)},
            r"weight has shape \(4, 5\) where the model wants \(4, 3\)",
        ),
        ({"weight": "a string"}, "weight is a str instead of a tensor"),
        ({"bias": torch.tensor([0, torch.nan, 0, 0])}, "bias has NaN or infinite"),
        ({"bias": torch.tensor([0, torch.inf, 0, 0])}, "bias has NaN or infinite"),
        ({"weight": torch.zeros(4, 3, dtype=torch.int8)}, "weight is of torch.int8"),
        ({"weight": torch.zeros(4, 3, dtype=torch.complex64)}, "weight is of torch.complex64"),
        ({"weight": torch.zeros(4, 3).to(torch.float8_e4m3fn)}, "weight is of torch.float8"),
        ({"more": torch.zeros(1), 7: 1}, "tensors the model doesn't: 7, more"),
        ({"weight": torch.zeros(4, 3, device="meta")}, "weight got no values"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[Any, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.assign(linear(), {**TENSORS, **change}, strict=True, rebuild=linear)


def test_extra_tensors_are_dropped_where_the_zoo_allows() -> None:
    model = linear()
    tensors: dict[Any, Any] = {**TENSORS, "more": torch.zeros(1), 7: "a string"}
    checkpoint.assign(model, tensors, strict=False, rebuild=linear)
    assert model.state_dict().keys() == TENSORS.keys()


def test_what_the_model_computes_is_filled_and_told() -> None:
    with torch.device("meta"):
        model = Net()
    tensors = {name: t for name, t in Net().state_dict().items() if name != "computed"}
    assert checkpoint.assign(model, tensors, strict=True, rebuild=Net) == ("computed",)
    assert torch.equal(model.state_dict()["computed"], torch.arange(4.0))


def test_what_would_be_random_is_an_error() -> None:
    with torch.device("meta"):
        model = Net()
    tensors = {name: t for name, t in Net().state_dict().items() if name != "drawn"}
    with pytest.raises(CheckpointError, match="lacks drawn, which would be left random"):
        checkpoint.assign(model, tensors, strict=False, rebuild=Net)


@pytest.mark.parametrize("name", ["weight", "running_mean"])
def test_what_is_learnt_is_not_filled_though_it_begins_as_a_constant(name: str) -> None:
    def norm() -> nn.Module:
        return nn.BatchNorm1d(3)

    tensors = {key: tensor for key, tensor in norm().state_dict().items() if key != name}
    with torch.device("meta"):
        model, lenient = norm(), norm()
    with pytest.raises(CheckpointError, match=f"lacks {name}, which the model learns"):
        checkpoint.assign(model, tensors, strict=True, rebuild=norm)
    assert checkpoint.assign(lenient, tensors, strict=False, rebuild=norm) == (name,)


def test_filling_leaves_the_global_seed_alone() -> None:
    tensors = {name: t for name, t in Net().state_dict().items() if name != "computed"}
    with torch.device("meta"):
        model = Net()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    checkpoint.assign(model, tensors, strict=True, rebuild=Net)
    assert torch.rand(1) == expected
