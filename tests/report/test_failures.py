"""Failures are grouped by cause, and a reason is shown as it was recorded."""

from typing import Any

import pytest

from zooadapt.report.failures import failure_table, grouped


def failure(model: str, error: str, in_chans: int = 4) -> dict[str, Any]:
    where = {"status": "failed", "stage": "fetch"}
    return {"model": model, "error": error, "in_chans": in_chans, **where}


@pytest.mark.parametrize(
    "error",
    [
        "the Hub at https://hub.example/{model}/resolve doesn't answer",
        "{model} isn't there",
        "hf://timm/{model}@0f3a9c1/model.safetensors has 1{number} bytes, not 2{number}",
        "/data/zoo/{model}/model.safetensors can't be read: [Errno 5] Input/output error",
        "head.weight has shape (1000, {number}) where the model wants (10, {number})",
    ],
)
def test_what_differs_by_model_alone_is_one_cause(error: str) -> None:
    names = ["resnet50.a1_in1k", "s", "m.1", "vit_base_patch16_224.augreg"]
    rows = [failure(name, error.format(model=name, number=n)) for n, name in enumerate(names)]
    (group,) = grouped(rows)
    assert list(group.models) == names
    assert group.reason == f"for example: {rows[0]['error']}"


def test_other_words_are_other_causes() -> None:
    rows = [failure("a", "the file is empty"), failure("b", "the file is an HTML page")]
    assert len(grouped(rows)) == 2


@pytest.mark.parametrize("model", ["s", "model", "float8", "the"])
def test_a_reason_is_never_garbled_by_a_model_s_name(model: str) -> None:
    error = "the checkpoint has tensors the model doesn't: s.weight (https://host/s/model.bin)"
    assert f"fetch            1  {error}\n" in failure_table([failure(model, error)])
