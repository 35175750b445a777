"""Images are the same everywhere; where M can make any image, they are mixed into a given one."""

import pytest
import torch

from zooadapt.adapt import schemes
from zooadapt.adapt.contract import mix_images
from zooadapt.proof.passes import images_for, seeded_images


def test_the_images_are_the_same_everywhere_and_differ() -> None:
    one, two = seeded_images(4, (8, 8)), seeded_images(4, (8, 8))
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("scheme", ["repeat", "pad"])
@pytest.mark.parametrize("target", [3, 4, 8, 25])
def test_they_are_mixed_into_what_was_asked_for(scheme: str, target: int) -> None:
    matrix, mixed = schemes.matrix(scheme, 3, target), seeded_images(3, (16, 16))
    images = images_for(mixed, matrix)
    assert images is not None
    assert images.shape == (2, target, 16, 16)
    assert torch.allclose(mix_images(images, matrix), mixed, atol=1e-5)
    flat = images.transpose(0, 1).flatten(1).double()
    assert torch.linalg.matrix_rank(flat) == target, "the channels differ in more than the mix"


@pytest.mark.parametrize(("scheme", "target"), [("repeat", 1), ("repeat", 2), ("mean", 8)])
def test_a_matrix_that_cannot_make_every_image(scheme: str, target: int) -> None:
    matrix = schemes.matrix(scheme, 3, target)
    assert images_for(seeded_images(3, (8, 8)), matrix) is None
