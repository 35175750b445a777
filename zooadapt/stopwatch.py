"""How long each stage takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds that stages take, those that end with an error included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """By stage, in the order in which they began."""

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        started = time.monotonic()
        self.seconds.setdefault(stage, 0.0)
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - started
