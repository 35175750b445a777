"""What is said of variants and changes while their weights don't: licences, and sources that went.

What `--check-sources` does beside asking whether checkpoints changed. A source is gone when its zoo
lists the model no longer, or when the place that its variants were made from answers that it isn't
there: a place that is silent, or refuses, says nothing. What is gone is kept and marked, and is
unmarked when it is back. Only models that the options' globs mean are looked at, and of a zoo that
lists a place only those that were made from there.

Each change is a record that ``amends``: it changes columns of a row, and only while the row is of
the weights that it was written for. So jobs that overlap lose nothing of each other.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

import click

from zooadapt.checkpoints import sources
from zooadapt.errors import Absent, FetchError, Unreachable, UsageError, redact
from zooadapt.job.options import Config
from zooadapt.mirror import columns, manifest
from zooadapt.mirror.columns import stated
from zooadapt.mirror.records import write_record
from zooadapt.stores.store import Store
from zooadapt.types import Job, ModelEntry, Row, Source
from zooadapt.urls import absolute
from zooadapt.zoos import registry

_LOOKUPS = 16
"""Sources asked at once."""

Found = Mapping[ModelEntry, Source | FetchError]
"""What the source of each selected model says, or why it says nothing."""


def ask(entries: Sequence[ModelEntry], config: Config, job: Job) -> Found:
    """What the sources say now, if the options ask for it; how many say nothing is printed."""
    if not config.check_sources:
        return {}
    now = dict(zip(entries, look_up(entries, job), strict=True))
    silent = [
        (entry.name, error)
        for entry, error in now.items()
        if isinstance(error, FetchError) and not isinstance(error, Absent)
    ]
    if silent:
        name, error = silent[0]
        click.echo(f"{len(silent)} sources couldn't be checked, among them {name}: {error}")
    return now


def look_up(entries: Sequence[ModelEntry], job: Job) -> list[Source | FetchError]:
    """What each source says of its checkpoint, or why it says nothing.

    If the first source can't even be reached, the others aren't asked.
    """

    def one(entry: ModelEntry) -> Source | FetchError:
        try:
            return sources.locate(entry, job).source
        except FetchError as error:
            return error

    first = one(entries[0]) if entries else None
    if isinstance(first, Unreachable):
        return [first] * len(entries)
    with ThreadPoolExecutor(_LOOKUPS) as pool:
        return list(pool.map(one, entries))


def differs(found: Found) -> Callable[[ModelEntry, str], bool]:
    """Whether a model's source now states another identity than the recorded one."""

    def changed(entry: ModelEntry, recorded: str) -> bool:
        source = found.get(entry)
        return isinstance(source, Source) and source.identity != recorded

    return changed


@dataclass(frozen=True)
class View:
    """What the zoos and the sources say now."""

    config: Config
    listed: Sequence[ModelEntry]
    """All models of the zoos, selected or not."""
    found: Found
    """Of those that the options select."""


@dataclass(frozen=True)
class Followed:
    """What changed, in models."""

    licences: int = 0
    gone: tuple[str, ...] = ()
    """Newly marked."""
    back: int = 0

    def __str__(self) -> str:
        parts = [f"models with another licence: {self.licences}"] if self.licences else []
        gone = f"gone, kept and marked: {len(self.gone)} ({_some(self.gone)})"
        parts += [gone] if self.gone else []
        parts += [f"back again: {self.back}"] if self.back else []
        return "; ".join(parts)


def _some(names: Sequence[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


class Follower:
    """Records anew, weights untouched, the variants of which something else is said now."""

    def __init__(self, store: Store, view: View, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._judge, self._now = _Judge(view), datetime.now(UTC)
        self._licences: set[str] = set()
        self._gone: set[str] = set()
        self._back: set[str] = set()

    def through(self, histories: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """The histories as they come: each is of one model, its records the oldest first."""
        for history in histories:
            self._follow(history)
            yield history

    def _follow(self, history: Sequence[Row]) -> None:
        changes = list(_changes(history, self._judge, self._now))
        for row, _, changed in changes:
            name = f"{row['zoo']}/{row['model']}"
            if "license" in changed:
                self._licences.add(name)
            if "source_gone" in changed:
                (self._gone if changed["source_gone"] else self._back).add(name)
        _amend(self._store, changes, self._run_id, self._now)

    @property
    def followed(self) -> Followed:
        """What has changed so far."""
        return Followed(len(self._licences), tuple(sorted(self._gone)), len(self._back))


Change = tuple[Row, Row, Row]
"""A variant's row, the record that tells how it was made, and the columns that change."""


def _changes(records: Sequence[Row], judge: "_Judge", now: datetime) -> Iterator[Change]:
    holders = _holders(records)
    for row in manifest.merge(records).usable:
        record = holders[columns.key(row), row["folder"]]
        is_gone = judge.gone(row, record["source"]["location"])
        before, stated = row.get("source_gone"), judge.licence(row)
        mark = before if is_gone is None else _mark(before, now) if is_gone else None
        changed = {"license": stated} if stated != row["license"] else {}
        changed |= {"source_gone": mark} if mark != before else {}
        if changed:
            yield row, record, changed


def _amend(store: Store, changes: Iterable[Change], run_id: str, now: datetime) -> None:
    """One record for all the changes to variants of one."""
    by_record: dict[int, list[Change]] = {}
    for change in changes:
        by_record.setdefault(id(change[1]), []).append(change)
    for of_one in by_record.values():
        record = of_one[0][1]
        variants = [{**_stated(record, row), **changed} for row, _, changed in of_one]
        content = {**record, "created_at": now.isoformat(), "variants": variants, "failures": []}
        content["amends"] = sorted({column for _, _, changed in of_one for column in changed})
        write_record(store, record["zoo"], record["model"], run_id, content)


def _mark(before: str | None, now: datetime) -> str:
    return before or now.isoformat(timespec="seconds")


def _holders(records: Iterable[Row]) -> dict[tuple[object, str], Row]:
    """For each variant's key and folder the latest record that tells how it was made."""
    holders: dict[tuple[object, str], Row] = {}
    for record in records:
        for variant in record["variants"]:
            name = columns.key({**record, **variant}), variant["folder"]
            if not record.get("amends") or name not in holders:
                holders[name] = record
    return holders


def _stated(record: Row, row: Row) -> Row:
    """What a record states for the variant of a row, as the row has it now."""
    before = next(each for each in record["variants"] if each["folder"] == row["folder"])
    return {**before, **stated(row)}


class _Judge:
    """Says of a row what its zoo and its source say now."""

    def __init__(self, view: View) -> None:
        self._config = view.config
        self._listed = {(entry.zoo, entry.name) for entry in view.listed}
        self._found = {(e.zoo, e.name): (e, found) for e, found in view.found.items()}
        self._places = [_place(spec) for spec in view.config.zoo]

    def licence(self, row: Row) -> str | None:
        """As the zoo states it; as it was where the model isn't one that is looked at."""
        entry, _ = self._found.get((row["zoo"], row["model"]), (None, None))
        was: str | None = row["license"]
        return entry.license if entry else was

    def gone(self, row: Row, location: str) -> bool | None:
        """Whether the source is gone; None where nobody can tell."""
        name = row["zoo"], row["model"]
        if name in self._found:
            entry, found = self._found[name]
            if _location(entry, self._config) != location:
                return None
            return None if not isinstance(found, Source | Absent) else isinstance(found, Absent)
        is_asked = name not in self._listed and self._is_meant(row) and self._is_of(row, location)
        return True if is_asked else None

    def _is_meant(self, row: Row) -> bool:
        """Whether the options would select it if its zoo listed it."""

        def means(globs: Sequence[str]) -> bool:
            return any(registry.named(row["zoo"], row["model"], glob) for glob in globs)

        options, stated = self._config, row["license"] or "unknown"
        licensed = not options.license or any(fnmatchcase(stated, g) for g in options.license)
        return (
            licensed
            and (not options.models or means(options.models))
            and not means(options.exclude)
        )

    def _is_of(self, row: Row, location: str) -> bool:
        """Whether it was made of what one of the zoos lists."""
        return any(
            zoo == row["zoo"] and (not place or location.startswith(f"{place}/"))
            for zoo, place in self._places
        )


def _location(entry: ModelEntry, config: Config) -> str:
    try:
        return sources.recorded_location(entry, config.source_root)
    except FetchError:
        return ""


def _place(spec: str) -> tuple[str, str]:
    """A zoo's name, and below what its models lie, as records say it; "" for all that there is."""
    zoo, _, place = spec.partition(":")
    if not place:
        return zoo, ""
    try:
        return zoo, redact(absolute(place, "--zoo")).rstrip("/")
    except UsageError:
        return zoo, place
