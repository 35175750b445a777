"""What a model that anybody may have described can't be: larger than any there is."""

import math
from collections.abc import Sequence

from zooadapt.errors import CheckpointError

MOST = 65_536
"""For a number that a model is built by: there is no such depth or width, nor so many channels."""
_MOST_VALUES = 2**27
"""Of an image."""


def check_image(shape: Sequence[int]) -> None:
    """Raise CheckpointError for a shape, channels first, that no model takes images of."""
    if not all(isinstance(n, int) and n > 0 for n in shape) or math.prod(shape) > _MOST_VALUES:
        raise CheckpointError(f"its images are of {tuple(shape)}: channels, height, width")
