"""Takedowns: standing removals of variants from a mirror, as its records state them.

The record that `zooadapt remove` writes has a list ``removed`` of patterns, each ``{"in_chans",
"bands", "reason"}``, where None stands for any value. The record that ``--undo`` writes has its
patterns in a list ``restored``. The latest pattern that matches a variant decides about it.

A takedown stands until it is undone. It outweighs every success, recorded before or after it, such
as by a job that was running at the time. After it is undone, successes recorded before that stay
void, because their objects are gone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zooadapt.types import Row

LISTS = ("removed", "restored")
"""The names of a record's lists of patterns."""


@dataclass(frozen=True)
class Event:
    """A takedown, or the undoing of one."""

    place: int
    """The position of the event's record among all records, the oldest first."""
    removes: bool
    """Whether this is a takedown; False for the undoing of one."""
    in_chans: int | None
    """The number of channels that it is about; None for any."""
    bands: str | None
    """The comma-joined names of the bands that it is about; None for any."""
    reason: str
    run_id: str
    created_at: str
    """ISO 8601."""

    def meets(self, in_chans: int | None, bands: str | None) -> bool:
        """Whether the event can be about a variant with these values; None stands for any value."""
        pairs = (self.in_chans, in_chans), (self.bands, bands)
        return all(None in pair or pair[0] == pair[1] for pair in pairs)

    def covers(self, in_chans: int | None, bands: str | None) -> bool:
        """Whether the event is about all variants with these values; None stands for any value."""
        return self.in_chans in (None, in_chans) and self.bands in (None, bands)


class Takedowns:
    """The takedowns of a mirror, from its records. These must come oldest first."""

    def __init__(self, records: Iterable[Row]) -> None:
        self._of: dict[tuple[str, str], list[Event]] = {}
        for place, record in enumerate(records):
            for kind in LISTS:
                for pattern in record.get(kind, ()):
                    self._add(place, kind == "removed", record, pattern)

    def _add(self, place: int, removes: bool, record: Row, pattern: Row) -> None:
        stated = {name: pattern[name] for name in ("in_chans", "bands", "reason")}
        when = {name: record[name] for name in ("run_id", "created_at")}
        event = Event(place, removes, **stated, **when)
        self._of.setdefault((record["zoo"], record["model"]), []).append(event)

    def last(self, zoo: str, model: str, in_chans: int, bands: str) -> Event | None:
        """The latest event that is about a variant; None where there is none."""
        events = self._of.get((zoo, model), ())
        return next((event for event in reversed(events) if event.meets(in_chans, bands)), None)

    def of(self, row: Row) -> Event | None:
        """The latest event that is about the variant of a row; None where there is none."""
        return self.last(row["zoo"], row["model"], row["in_chans"], row["bands"])

    def removed(self, row: Row) -> bool:
        """Whether the variant of a row is taken down."""
        event = self.of(row)
        return bool(event and event.removes)

    def voids(self, place: int, row: Row) -> bool:
        """Whether the record at `place` no longer counts for the variant of a row.

        That is so if the variant is taken down, or if a takedown was undone after the record.
        """
        event = self.of(row)
        return bool(event and (event.removes or event.place > place))

    def holds(self, zoo: str, model: str, in_chans: int | None, bands: str | None) -> bool:
        """Whether all of the model's variants with these values are already taken down."""
        for event in reversed(self._of.get((zoo, model), ())):
            if not event.removes and event.meets(in_chans, bands):
                return False
            if event.removes and event.covers(in_chans, bands):
                return True
        return False


def check(record: Row) -> None:
    """Raise TypeError or KeyError where a pattern of the record is malformed."""
    for kind in LISTS:
        patterns: Sequence[Row] = record.get(kind, [])
        for pattern in patterns:
            types = {"in_chans": int | None, "bands": str | None, "reason": str}
            for name, type_ in types.items():
                if not isinstance(pattern[name], type_):
                    raise TypeError(f"{kind} has a pattern whose {name} is {pattern[name]!r}")
