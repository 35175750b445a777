"""What was removed from a mirror on request and must stay away, as its records say it.

A record of `zooadapt remove` has a list ``removed`` of patterns, each ``{"in_chans", "bands",
"reason"}`` where None stands for any; that of ``--undo`` has them under ``restored``. Of what
matches a variant the latest counts. A removal holds whatever was or is still recorded as a success,
by a job that was at work at the time say, until it is undone; what was recorded before is void for
ever, as its objects are gone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zooadapt.types import Row

LISTS = ("removed", "restored")
"""Of a record, that hold patterns."""


@dataclass(frozen=True)
class Event:
    """A removal, or that it was undone."""

    place: int
    """Of its record among all, the oldest first."""
    removes: bool
    in_chans: int | None
    """None: any."""
    bands: str | None
    """Comma-joined names; None: any."""
    reason: str
    run_id: str
    created_at: str
    """ISO 8601."""

    def meets(self, in_chans: int | None, bands: str | None) -> bool:
        """Whether some variant is meant by both; None stands for any."""
        pairs = (self.in_chans, in_chans), (self.bands, bands)
        return all(None in pair or pair[0] == pair[1] for pair in pairs)

    def covers(self, in_chans: int | None, bands: str | None) -> bool:
        """Whether all that the other two mean is meant."""
        return self.in_chans in (None, in_chans) and self.bands in (None, bands)


class Takedowns:
    """The removals of a mirror, of all its records, the oldest first."""

    def __init__(self, records: Iterable[Row]) -> None:
        self._of: dict[tuple[str, str], list[Event]] = {}
        for place, record in enumerate(records):
            for kind in LISTS:
                for pattern in record.get(kind, ()):
                    self._add(place, kind == "removed", record, pattern)

    def _add(self, place: int, removes: bool, record: Row, pattern: Row) -> None:
        told = {name: pattern[name] for name in ("in_chans", "bands", "reason")}
        when = {name: record[name] for name in ("run_id", "created_at")}
        event = Event(place, removes, **told, **when)
        self._of.setdefault((record["zoo"], record["model"]), []).append(event)

    def last(self, zoo: str, model: str, in_chans: int, bands: str) -> Event | None:
        """The latest that is about a variant."""
        events = self._of.get((zoo, model), ())
        return next((event for event in reversed(events) if event.meets(in_chans, bands)), None)

    def of(self, row: Row) -> Event | None:
        """The latest that is about the variant of a row."""
        return self.last(row["zoo"], row["model"], row["in_chans"], row["bands"])

    def removed(self, row: Row) -> bool:
        """Whether the variant of a row is to stay away."""
        event = self.of(row)
        return bool(event and event.removes)

    def voids(self, place: int, row: Row) -> bool:
        """Whether what the record at that place said of a variant counts no more."""
        event = self.of(row)
        return bool(event and (event.removes or event.place > place))

    def holds(self, zoo: str, model: str, in_chans: int | None, bands: str | None) -> bool:
        """Whether all that the pattern means is removed already."""
        for event in reversed(self._of.get((zoo, model), ())):
            if not event.removes and event.meets(in_chans, bands):
                return False
            if event.removes and event.covers(in_chans, bands):
                return True
        return False


def check(record: Row) -> None:
    """Raise TypeError or KeyError where a record's patterns aren't as they should be."""
    for kind in LISTS:
        patterns: Sequence[Row] = record.get(kind, [])
        for pattern in patterns:
            kinds = {"in_chans": int | None, "bands": str | None, "reason": str}
            for name, type_ in kinds.items():
                if not isinstance(pattern[name], type_):
                    raise TypeError(f"{name} is {pattern[name]!r}")
