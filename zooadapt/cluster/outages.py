"""What is out of reach, for all nodes or for one, and when a model is tried again.

An outage is no fault of a model, so one model tells little. But where the last look-ups of a source
have all failed, for many models and for a while, the source is down: then no more of its models are
begun. Look-ups, downloads and writes are counted apart, because a firewall may block only one of
them. Counting begins anew with every answer about a model, even if the model isn't there.

Once enough models have met an outage, the others are held back, and one goes first now and then, as
a probe. Its answer lets the others go on. Where only one node meets outages, it gets no more work.
"""

import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from zooadapt.types import Outage

ROW = 20
"""Models that must have met the same outage before a source or store is down; or all that remain,
where these are fewer."""
PATIENCE = 75.0
"""Seconds without an answer after which a source or store can be down: a short outage is waited
for."""
TRIES = 7
"""Tries after which a model is postponed to the next run, where others get answers. They take
longer than PATIENCE, after which a source that answers nobody is down."""
NODE_ROW = 5
"""Models that must have met outages on a node before the others are asked about it."""
_STRIKES = 2
"""A node gets no more work once others got answers this often while it met outages."""
_PROBE = 10.0
"""Most seconds between two probes. They are as far apart as the outage has lasted until then, so
that a short one holds nobody back for long."""
_LIMITS = 3
"""Limits of requests, one after the other without an answer, that are waited for."""
_PAUSE = 2.0
"""Seconds before the second try. The pause doubles with every further try."""
_LONGEST_PAUSE = 30.0
"""Most seconds between two tries."""

Model = tuple[str, str]
"""A model's zoo and name."""
Needed = tuple[str, str]
"""A place and a task, as `Outage` names them."""

_log = logging.getLogger("zooadapt")


@dataclass
class _Row:
    """Outages of the same kind, without an answer in between."""

    since: float
    models: set[Model] = field(default_factory=set)
    probe: float | None = None
    """When a probe goes, by the clock; None while the row is too short to hold models back."""


class Outages:
    """The outages of a run."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._chance = clock, chance
        self._rows: dict[Needed, _Row] = {}
        self._rows_of_nodes: dict[tuple[Needed, str], _Row] = {}
        self._suspects: dict[Needed, set[str]] = {}
        """The nodes that get no work until it is known whether others meet the same outages."""
        self._reasons: dict[str, Outage] = {}
        """The last outage that each suspected node has met."""
        self._strikes: Counter[str] = Counter()
        """How often others got answers while a node met outages."""
        self._limits: dict[str, float] = {}
        """Until when a place takes no requests, by the clock."""
        self._limits_in_row: Counter[str] = Counter()
        """How many limits a place has stated since its last answer."""
        self.down: dict[Needed, Outage] = {}
        """What is down."""
        self.cut_off: set[str] = set()
        """The ids of nodes that alone meet outages, of whatever kind."""
        self.without_store: set[str] = set()
        """Those of them that can't reach the mirror's store."""

    def now(self) -> float:
        """The time of the clock."""
        return self._clock()

    def answered(self, place: str, task: str, node: str = "", began: float = math.inf) -> None:
        """Note that a source or store did what was asked of it, or refused it for one model.

        `began` is when the work began that has ended: the answer came at some time since then. It
        ends only rows of outages that had begun by then.
        """
        needed = place, task
        if needed in self._rows and self._rows[needed].since <= began:
            del self._rows[needed]
        self._limits_in_row.pop(place, None)
        for suspect in [*self._suspects.get(needed, ())]:
            if suspect != node and self._rows_of_nodes[needed, suspect].since <= began:
                self._strike(needed, suspect)
        if node not in self.cut_off or node in self._suspects.get(needed, ()):
            self._release(needed, node)

    def met(self, outage: Outage, model: Model, remaining: int, node: str = "") -> bool:
        """Note that a model met an outage. Returns whether the source or store is down now.

        `remaining` models, this one included, still need it.
        """
        needed, now = (outage.place, outage.task), self._clock()
        self._judge(node, outage, model)
        row = self._rows.setdefault(needed, _Row(now))
        row.models.add(model)
        if len(row.models) >= min(ROW, remaining):
            row.probe = row.probe or self._next_probe(row)
            if now - row.since >= PATIENCE:
                self.down[needed] = outage
        return needed in self.down

    def is_limit(self, outage: Outage) -> bool:
        """Whether the source said when to come back, so that it is waited for; a line says so.

        After `_LIMITS` limits without an answer in between, a further one counts as an outage.
        """
        place, now = outage.place, self._clock()
        if outage.until and now >= self._limits.get(place, 0.0):  # others were under way until now
            self._limits_in_row[place] += 1
            if self._limits_in_row[place] <= _LIMITS:
                when = datetime.fromtimestamp(outage.until)
                _log.warning("%s takes no more requests until %s", place, f"{when:%H:%M:%S}")
                self._limits[place] = now + outage.until - time.time()
        return bool(outage.until) and self._limits_in_row[place] <= _LIMITS

    def _judge(self, node: str, outage: Outage, model: Model) -> None:
        """Suspect a node on which several models have met outages: the others shall tell.

        If a second node is suspected meanwhile, no node is to blame.
        """
        needed = outage.place, outage.task
        row = self._rows_of_nodes.setdefault((needed, node), _Row(self._clock()))
        row.models.add(model)
        if not node or node in self.cut_off or len(row.models) < NODE_ROW:
            return
        suspects = self._suspects.setdefault(needed, set())
        self._reasons[node] = outage
        if suspects:
            for suspect in [*suspects, node]:
                self._release(needed, suspect)
        else:
            suspects.add(node)
            self.cut_off.add(node)

    def _release(self, needed: Needed, node: str) -> None:
        """Let a node work that isn't to blame."""
        self._rows_of_nodes.pop((needed, node), None)
        if node in self._suspects.get(needed, ()):
            self._suspects[needed].remove(node)
            self.cut_off.discard(node)

    def _strike(self, needed: Needed, node: str) -> None:
        """Note that others got answers while the node met outages. The second time it is cut off:
        the first time the outage can have ended for all."""
        self._release(needed, node)
        self._strikes[node] += 1
        if self._strikes[node] < _STRIKES:
            return
        self.cut_off.add(node)
        self.without_store |= {node} if needed[1] == "write" else set()
        _log.warning(
            "node %s gets no more work: it can't reach %s (%s: %s), and other nodes can",
            node[:12], *needed, self._reasons[node].reason,
        )  # fmt: skip

    def doubts(self, place: str) -> bool:
        """Whether an outage of the place was met, and it gave no answer since."""
        return any(where == place for where, _ in self._rows)

    def is_closed(self, place: str, task: str) -> bool:
        """Whether models that need this are held back."""
        row = self._rows.get((place, task))
        return self._clock() < self._limits.get(place, 0.0) or bool(row and row.probe)

    def lets(self, place: str, task: str) -> bool:
        """Whether a model that needs this can begin now: any, or one as a probe."""
        if not self.is_closed(place, task):
            return True
        row, now = self._rows.get((place, task)), self._clock()
        if now < self._limits.get(place, 0.0) or not row or now < (row.probe or 0.0):
            return False
        row.probe = self._next_probe(row)
        return True

    def _next_probe(self, row: _Row) -> float:
        now = self._clock()
        return now + min(_PROBE, max(_PAUSE, now - row.since))

    def next_try(self, tries: int, needed: Iterable[Needed] = ()) -> float:
        """When a model that met `tries` outages is tried again, by the clock.

        That is not before the next probe, nor before the end of a limit. The pauses differ at
        random, so that not all models come back at once.
        """
        pause = min(_LONGEST_PAUSE, _PAUSE * 2.0 ** (tries - 1)) if tries else 0.0
        times = [self._clock() + pause]
        for place, task in needed:
            row = self._rows.get((place, task))
            times += [self._limits.get(place, 0.0), (row and row.probe) or 0.0]
        return max(times) + 0.5 * self._chance() * (pause or _PAUSE)

    def pause(self, until: float) -> float:
        """Seconds until a time of the clock; 0 if it is over."""
        return max(0.0, until - self._clock())
