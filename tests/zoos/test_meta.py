"""Models on the meta device have the right shapes; tensors elsewhere are initialised as ever."""

import pytest
import timm
import torch

from zooadapt.zoos.meta import shapes_only


@pytest.mark.parametrize("architecture", ["test_vit", "test_convnext", "test_efficientnet"])
def test_a_model_without_values_has_the_names_shapes_and_dtypes(architecture: str) -> None:
    with shapes_only():
        empty = timm.create_model(architecture)
    full = timm.create_model(architecture)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    assert str(empty) == str(full)
    kinds = [
        {
            name: (t.shape, t.stride(), t.dtype)
            for name, t in [*m.named_parameters(), *m.named_buffers()]
        }
        for m in (empty, full)
    ]
    assert kinds[0] == kinds[1]


def test_what_has_values_is_computed_with_there_too() -> None:
    ones = torch.ones(3)
    with shapes_only():
        ones.mul_(3).add_(1)
        torch.nn.init.uniform_(drawn := torch.zeros(3, device="cpu"), 1, 2)
        assert torch.nn.init.normal_(nothing := torch.empty(3)) is nothing
    assert ones.tolist() == [4, 4, 4]
    assert drawn.min() >= 1
