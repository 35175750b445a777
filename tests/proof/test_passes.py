"""The images of proofs: the same everywhere, generic, and mixed into those that variants share."""

import pytest
import torch

from zooadapt.adapt import schemes
from zooadapt.adapt.contract import mix_images
from zooadapt.proof.passes import coloured, grey, image_for, noise

SIZE = (16, 16)


def test_the_images_are_the_same_everywhere_and_differ() -> None:
    assert torch.equal(coloured(4, SIZE), coloured(4, SIZE))
    assert not torch.equal(coloured(4, SIZE), noise(4, SIZE, 2))
    assert not torch.equal(grey(4, SIZE)[:, 0], coloured(4, SIZE)[:, 0])
    assert torch.equal(grey(4, SIZE)[:, 0], grey(4, SIZE)[:, 3])


@pytest.mark.parametrize("scheme", ["repeat", "pad"])
@pytest.mark.parametrize("target", [3, 4, 8, 25])
def test_where_any_image_can_be_made_it_is_the_coloured_one(scheme: str, target: int) -> None:
    matrix = schemes.matrix(scheme, 3, target)
    image = image_for(matrix, SIZE)
    assert (image.kind, image.x.shape) == ("coloured", (1, target, *SIZE))
    assert torch.equal(image.mixed, coloured(3, SIZE))
    assert torch.allclose(mix_images(image.x, matrix), image.mixed)
    assert channels(image.x) == target, "the channels differ in more than the mix"


@pytest.mark.parametrize(("scheme", "target"), [("repeat", 1), ("mean", 4), ("mean", 8)])
def test_where_only_grey_can_be_made_it_is_the_grey_one(scheme: str, target: int) -> None:
    matrix = schemes.matrix(scheme, 3, target)
    image = image_for(matrix, SIZE)
    assert image.kind == "grey"
    assert torch.equal(image.mixed, grey(3, SIZE))
    assert torch.allclose(mix_images(image.x, matrix), image.mixed)
    assert channels(image.x) == target


def test_any_other_matrix_has_an_image_of_its_own() -> None:
    matrix = schemes.matrix("repeat", 3, 2)
    image = image_for(matrix, SIZE)
    assert image.kind == "own"
    assert torch.equal(image.mixed, mix_images(image.x, matrix))


def channels(image: torch.Tensor) -> int:
    """The number of channels that aren't mixed from others."""
    return int(torch.linalg.matrix_rank(image[0].flatten(1)))
