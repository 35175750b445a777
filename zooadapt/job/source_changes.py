"""Follow the sources (``--check-sources``): licences that changed, and sources that are gone.

- A source is gone when its zoo lists the model no longer, or when the place that the variants were
  made from answers that the checkpoint isn't there. If that place gives no answer, or refuses to
  answer, the source isn't gone.
- Variants whose source is gone stay, and are marked. When the source is back, the mark is removed.
- Only models that the options' globs select are looked at. Of a zoo that lists one place
  (``folder:URL``) these are only models that were made from that place.

Each change is a record that ``amends``: it changes columns of a row, but only while the row has the
weights that the record was written for. So jobs that overlap lose nothing of each other's work.
Weights that changed are no amendment: `differs` tells the plan to make these variants again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

import click

from zooadapt.checkpoints import sources
from zooadapt.errors import Absent, FetchError, Unreachable, UsageError, redact, some
from zooadapt.job.options import Config
from zooadapt.mirror import columns, manifest
from zooadapt.mirror.columns import stated
from zooadapt.mirror.records import write_record
from zooadapt.stores.store import Store
from zooadapt.types import Job, ModelEntry, Row, Source
from zooadapt.urls import absolute
from zooadapt.zoos import registry

_LOOKUPS = 16
"""Sources looked up at once."""

Found = Mapping[ModelEntry, Source | FetchError]
"""The source of each selected model, or the error that says why it isn't known."""


def ask(entries: Sequence[ModelEntry], config: Config, job: Job) -> Found:
    """Look up all sources, or none without `check_sources`. Prints how many can't be checked."""
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
        click.echo(f"sources that couldn't be checked: {len(silent)}, such as {name} ({error})")
    return now


def look_up(entries: Sequence[ModelEntry], job: Job) -> list[Source | FetchError]:
    """The source of each entry, in their order, or the error that says why it isn't known.

    If the first source can't be reached at all, the others aren't asked.
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
    """A function that tells whether a model's source no longer has the recorded identity."""

    def changed(entry: ModelEntry, recorded: str) -> bool:
        source = found.get(entry)
        return isinstance(source, Source) and source.identity != recorded

    return changed


@dataclass(frozen=True)
class View:
    """What the zoos list now, and what the sources say now."""

    config: Config
    listed: Sequence[ModelEntry]
    """All models of the zoos, selected or not."""
    found: Found
    """The sources of the models that the options select."""


@dataclass(frozen=True)
class Followed:
    """How many models have changes at their sources."""

    licences: int = 0
    """Models with another licence."""
    gone: tuple[str, ...] = ()
    """Models whose source is newly gone."""
    back: int = 0
    """Models whose source is back."""

    def __str__(self) -> str:
        parts = [f"models with another licence: {self.licences}"] if self.licences else []
        gone = f"models whose source is gone (kept and marked): {len(self.gone)}"
        parts += [f"{gone} ({some(self.gone, 3)})"] if self.gone else []
        parts += [f"models whose source is back: {self.back}"] if self.back else []
        return "; ".join(parts)


class Follower:
    """Writes a record that amends each variant whose licence or source has changed."""

    def __init__(self, store: Store, view: View, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._judge, self._now = _Judge(view), datetime.now(UTC)
        self._licences: set[str] = set()
        self._gone: set[str] = set()
        self._back: set[str] = set()

    def through(self, histories: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """Pass on each history (the records of one model, the oldest first), after amending it."""
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
    """Write one amending record for each record that changed variants are in."""
    by_record: dict[int, list[Change]] = {}
    for change in changes:
        by_record.setdefault(id(change[1]), []).append(change)
    for together in by_record.values():
        record = together[0][1]
        variants = [{**_stated(record, row), **changed} for row, _, changed in together]
        content = {**record, "created_at": now.isoformat(), "variants": variants, "failures": []}
        content["amends"] = sorted({column for _, _, changed in together for column in changed})
        write_record(store, record["zoo"], record["model"], run_id, content)


def _mark(before: str | None, now: datetime) -> str:
    return before or now.isoformat(timespec="seconds")


def _holders(records: Iterable[Row]) -> dict[tuple[object, str], Row]:
    """The latest record that tells how each variant was made, by the variant's key and folder."""
    holders: dict[tuple[object, str], Row] = {}
    for record in records:
        for variant in record["variants"]:
            name = columns.key({**record, **variant}), variant["folder"]
            if not record.get("amends") or name not in holders:
                holders[name] = record
    return holders


def _stated(record: Row, row: Row) -> Row:
    """What a record states of the variant of a row, with the values that the row has now."""
    before = next(each for each in record["variants"] if each["folder"] == row["folder"])
    return {**before, **stated(row)}


class _Judge:
    """Tells, for a row of the manifest, what its zoo and its source say now."""

    def __init__(self, view: View) -> None:
        self._config = view.config
        self._listed = {(entry.zoo, entry.name) for entry in view.listed}
        self._found = {(e.zoo, e.name): (e, found) for e, found in view.found.items()}
        self._places = [_place(spec) for spec in view.config.zoo]

    def licence(self, row: Row) -> str | None:
        """The licence that the zoo states now; the row's own where the model isn't looked at."""
        entry, _ = self._found.get((row["zoo"], row["model"]), (None, None))
        was: str | None = row["license"]
        return entry.license if entry else was

    def gone(self, row: Row, location: str) -> bool | None:
        """Whether the source of a row is gone; None where that can't be told."""
        name = row["zoo"], row["model"]
        if name in self._found:
            entry, found = self._found[name]
            if _location(entry, self._config) != location:
                return None
            return None if not isinstance(found, Source | Absent) else isinstance(found, Absent)
        vanished = name not in self._listed and self._is_meant(row) and self._is_of(row, location)
        return True if vanished else None

    def _is_meant(self, row: Row) -> bool:
        """Whether the options would select the row's model if its zoo listed it."""

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
        """Whether the variant was made from a place that one of the zoos lists."""
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
    """A ``--zoo`` as its name and its place, spelt as in records; "" for a zoo without a place."""
    zoo, _, place = spec.partition(":")
    if not place:
        return zoo, ""
    try:
        return zoo, redact(absolute(place, "--zoo")).rstrip("/")
    except UsageError:
        return zoo, place
