"""Which sources and stores are out of reach, and when a model that met an outage is tried again.

An outage is no fault of a model, so one model tells little. But where the last look-ups of a source
have all failed, for many models and for a while, the source is down: then no more of its models are
begun. Look-ups, downloads and writes are counted apart, because a firewall may block only one of
them. Counting begins anew with every answer about a model, even if the model isn't there.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from zooadapt.types import Outage

ROW = 20
"""Models that must have met the same outage before a source or store is down; or all that remain,
where these are fewer."""
PATIENCE = 75.0
"""Seconds without an answer after which a source or store can be down: a short outage is waited
for."""
TRIES = 5
"""Tries after which a model is postponed to the next run, where others get answers."""
_PAUSE = 5.0
"""Seconds before the second try. The pause doubles with every further try."""

Model = tuple[str, str]
"""A model's zoo and name."""


@dataclass
class _Row:
    """Outages of the same kind, without an answer in between."""

    since: float
    models: set[Model] = field(default_factory=set)


class Outages:
    """The outages of a run."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._chance = clock, chance
        self._rows: dict[tuple[str, str], _Row] = {}
        self.down: dict[tuple[str, str], Outage] = {}
        """What is down, by place and task."""

    def answered(self, place: str, task: str) -> None:
        """Note that a source or store did what was asked of it, or refused it for one model."""
        self._rows.pop((place, task), None)

    def met(self, outage: Outage, model: Model, remaining: int) -> bool:
        """Note that a model met an outage. Returns whether the source or store is down now.

        `remaining` models, this one included, still need it.
        """
        key = outage.place, outage.task
        row = self._rows.setdefault(key, _Row(self._clock()))
        row.models.add(model)
        long = self._clock() - row.since >= PATIENCE
        if long and len(row.models) >= min(ROW, remaining):
            self.down[key] = outage
        return key in self.down

    def next_try(self, tries: int) -> float:
        """When a model that was tried `tries` times is tried again, by the clock.

        The pauses differ at random, so that not all models come back at once.
        """
        pause: float = _PAUSE * 2 ** (tries - 1)
        return self._clock() + pause * (1 + 0.5 * self._chance())

    def pause(self, until: float) -> float:
        """Seconds until a time of the clock; 0 if it is over."""
        return max(0.0, until - self._clock())
