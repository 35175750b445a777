"""What people write about their own models, in one grammar for all zoos."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zooadapt import bands
from zooadapt.bands import RGB
from zooadapt.errors import CheckpointError, UsageError
from zooadapt.targets import Bands


def for_each(values: Sequence[float], chans: int, name: str) -> tuple[float, ...]:
    """The mean or std of each channel: the values' average where their number isn't `chans`.

    timm and transformers keep RGB's values in the config of a model that they build for other
    channels. `name` is what the values are called. Raises CheckpointError for other values than
    finite numbers from 0.
    """
    try:
        numbers = tuple(map(float, values))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(math.isfinite(value) and value >= 0 for value in numbers):
        raise CheckpointError(f"{name} is {values!r:.40} instead of finite numbers >= 0")
    if len(numbers) == chans:
        return numbers
    return (sum(numbers) / len(numbers),) * chans


def bands_of(config: Mapping[str, Any], chans: int, noted: Sequence[str] = ()) -> Bands:
    """The bands of the key `bands`, else those of the variant that the model was tuned from.

    The latter are in the key `zooadapt`, or `noted` elsewhere; they count only where their number
    is `chans`. Else the bands are RGB where there are three channels, and any other number is only
    counted. Raises CheckpointError where the key `bands` can't be understood, or has another
    number of bands.
    """
    named, ours = config.get("bands"), config.get("zooadapt")
    made_for = [*((ours.get("bands") if isinstance(ours, dict) else None) or noted)]
    if not all(isinstance(name, str) for name in made_for):
        raise CheckpointError(f"its key zooadapt has {made_for!r:.40} instead of names of bands")
    if not named and len(made_for) != chans:
        return RGB if chans == 3 else Bands.counted(chans)
    try:
        found = bands.described(named) if named else bands.remembered(made_for)
    except UsageError as cause:
        raise CheckpointError(f"its key bands: {cause}") from cause
    if len(found) != chans:
        raise CheckpointError(f"bands names {len(found)} channels, and the model has {chans}")
    return found
