"""What a run has to do: the models selected, less what the mirror's records say is done."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from zooadapt.checkpoints import sources
from zooadapt.errors import StageError, Unsupported, UsageError, redact
from zooadapt.job import outages
from zooadapt.job.options import Config
from zooadapt.mirror.records import ADAPTER_VERSION
from zooadapt.mirror.takedowns import Takedowns
from zooadapt.report.text import counted
from zooadapt.targets import Bands, Target, check_scheme
from zooadapt.types import ModelEntry, Request, Row
from zooadapt.zoos import registry

Key = tuple[Any, ...]
"""What names a variant among those of its model: (in_chans, bands, scheme)."""

_LEFT = ("done", "unsupported", "failed", "removed")
"""The states of variants that aren't due."""


@dataclass(frozen=True)
class Plan:
    """The work of a run. All counts but `models` are numbers of variants."""

    models: int
    """Models that the options select, whether done or not."""
    requests: tuple[Request, ...]
    """The models that are due, each with its due targets."""
    done: int
    unsupported: int
    """Recorded as unsupported by these versions of zooadapt and of the zoo's library."""
    failed: int
    """Recorded as failed, and not tried again without ``--retry-failed``."""
    removed: int = 0
    """Taken down, and not made again until the takedown is undone."""

    def __str__(self) -> str:
        """One line for people: what is due, and what isn't and why."""
        parts = [counted(self.models, "model"), f"{counted(self.due, 'variant')} to make"]
        parts += [f"{self.done} done already"] if self.done else []
        parts += [f"{self.unsupported} known to be unsupported"] if self.unsupported else []
        parts += [f"{self.failed} failed before (--retry-failed tries again)"] * bool(self.failed)
        parts += [f"{self.removed} taken down"] if self.removed else []
        return ", ".join(parts)

    @property
    def cautions(self) -> list[str]:
        """What to know of variants that are due, a line for each kind of variant."""
        unique = {target: None for request in self.requests for target in request.targets}
        return [f"{each.short}: {each.caution}" for each in unique if each.caution]

    @property
    def due(self) -> int:
        """The number of variants to make."""
        return sum(len(request.targets) for request in self.requests)


def list_models(config: Config) -> list[ModelEntry]:
    """All models of the zoos, in order. Raises UsageError if a zoo has none, or two of one name."""
    places = config.source_root, config.source_storage_options
    found = [entry for spec in config.zoo for entry in registry.list_models(spec, *places)]
    _check_unique(found)
    return found


def select(config: Config, entries: list[ModelEntry] | None = None) -> list[ModelEntry]:
    """The models that the options select from `entries`, or else from all that the zoos list.

    Raises UsageError for a zoo or a glob that matches nothing.
    """
    offered = list_models(config) if entries is None else entries
    chosen = matching(offered, config.models, "--models") if config.models else offered
    if config.exclude:
        excluded = matching(offered, config.exclude, "--exclude")
        chosen = [entry for entry in chosen if entry not in set(excluded)]
    if config.license:
        chosen = [entry for entry in chosen if _licensed(entry, config.license)]
        if not chosen:
            known = ", ".join(sorted({entry.license or "unknown" for entry in offered}))
            asked = ",".join(config.license)
            raise UsageError(f"--license {asked} matches no model's licence; choose from {known}")
    if not chosen:
        raise UsageError("no model is left to adapt; check --models, --exclude and --zoo")
    return chosen[: config.max_models]


def _check_unique(entries: Iterable[ModelEntry]) -> None:
    """Raise UsageError if two models have the same zoo and name, so that rows would collide."""
    seen: dict[tuple[str, str], ModelEntry] = {}
    for entry in entries:
        other = seen.setdefault((entry.zoo, entry.name), entry)
        if other is not entry:
            places = " and ".join(redact(each.url or each.hub_id or "") for each in (other, entry))
            raise UsageError(
                f"two models are called {entry.zoo}/{entry.name}: {places}; name a folder above "
                f"both in --zoo, or make a mirror for each"
            )


def matching(entries: list[ModelEntry], globs: Sequence[str], option: str) -> list[ModelEntry]:
    """The entries that match any of the globs. Raises UsageError for a glob that matches none."""
    found: set[ModelEntry] = set()
    for glob in globs:
        matches = _named(entries, glob) or _named(entries, registry.today(glob))
        if not matches:
            names = {entry.name for entry in entries} | {entry.architecture for entry in entries}
            near = difflib.get_close_matches(glob, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"{option} {glob} matches no model of the zoo{hint}")
        found.update(matches)
    return [entry for entry in entries if entry in found]


def _named(entries: list[ModelEntry], glob: str) -> list[ModelEntry]:
    return [entry for entry in entries if registry.named(entry.zoo, entry.name, glob)]


def _licensed(entry: ModelEntry, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(entry.license or "unknown", glob) for glob in globs)


def check_targets(entries: Sequence[ModelEntry], targets: Iterable[Target]) -> None:
    """Raise UsageError for a target that can't be made for any model, whatever its weights."""
    bases = set()
    for entry in entries:
        with suppress(StageError), registry.blaming(entry.zoo):  # such a model fails by itself
            bases.add(registry.facts(entry).bands)
    for target in targets:
        refusals = [reason for base in bases if (reason := _refusal(target.for_base(base), base))]
        if bases and len(refusals) == len(bases):
            raise UsageError(f"{target.short} channels can't be made: {refusals[0]}")


def _refusal(target: Target, base: Bands) -> str:
    try:
        check_scheme(target.scheme, base, target.bands)
    except Unsupported as error:
        return str(error)
    return ""


def make(
    entries: Sequence[ModelEntry],
    config: Config,
    histories: Iterable[Sequence[Row]],
    changed: Callable[[ModelEntry, str], bool] = lambda entry, identity: False,
) -> Plan:
    """The plan for the entries. `histories` are the records of each model, the oldest first.

    A variant is done if a record of this adapter version says that it was made from the location
    that the options give. A variant that was taken down isn't due, whatever the options.
    `changed` tells whether an entry's source has another identity now than the given, recorded one.
    """
    asked_for, counts = config.targets, Counter(dict.fromkeys(_LEFT, 0))
    shared: dict[tuple[Target, ...], tuple[Target, ...]] = {}

    def due(entry: ModelEntry, records: Sequence[Row]) -> tuple[Target, ...]:
        states = _States(records, entry, sources.recorded_location(entry, config.source_root))
        targets = registry.for_model(entry, asked_for)
        targets = shared.setdefault(targets, targets)
        found = []
        for asked, own in zip(asked_for, targets, strict=True):
            target = states.there(asked, own)
            state = states.of(target)
            if state == "done" and changed(entry, states.identity(target)):
                state = "due"
            if state == "due" or (state == "failed" and config.retry_failed):
                found.append(target)
            else:
                counts[state] += 1
        # Most of a million models want the same targets: they share one tuple.
        return targets if found == [*targets] else tuple(found)

    asked = {(entry.zoo, entry.name): entry for entry in entries}
    known: dict[tuple[str, str], tuple[Target, ...]] = {}
    for records in histories:
        name = records[0]["zoo"], records[0]["model"]
        if entry := asked.get(name):
            known[name] = due(entry, records)
    left = (known[name] if name in known else due(entry, ()) for name, entry in asked.items())
    requests = tuple(Request(e, due) for e, due in zip(asked.values(), left, strict=True) if due)
    return Plan(len(asked), requests, **counts)


class _States:
    """The states of a model's variants, by its records for one location of the checkpoint."""

    def __init__(self, records: Sequence[Row], entry: ModelEntry, location: str) -> None:
        self._entry = entry
        self._states: dict[Key, str] = {}
        self._identities: dict[Key, str] = {}
        self._versions: dict[Key, dict[str, str]] = {}
        """The versions with which each failure was recorded."""
        self._taken = Takedowns(records)
        for place, record in enumerate(records):
            is_ours = record["adapter_version"] == ADAPTER_VERSION
            # A record that amends doesn't tell how its variants were made.
            if is_ours and record["source"]["location"] == location and not record.get("amends"):
                self._add(place, record)

    def _add(self, place: int, record: Row) -> None:
        for failure in self._valid(place, record, record["failures"]):
            if self._states.get(_key(failure)) != "done" and not outages.recorded(failure):
                self._states[_key(failure)] = failure["status"]
                self._versions[_key(failure)] = record["versions"]
        for variant in self._valid(place, record, record["variants"]):
            self._states[_key(variant)] = "done"
            self._identities[_key(variant)] = record["source"]["identity"]

    def _valid(self, place: int, record: Row, outcomes: Iterable[Row]) -> list[Row]:
        """The outcomes that no takedown has made void."""
        name = {column: record[column] for column in ("zoo", "model")}
        return [each for each in outcomes if not self._taken.voids(place, {**name, **each})]

    def of(self, target: Target) -> str:
        """The state of a target: one of `_LEFT`, or "due" where no record still holds for it."""
        zoo = self._entry.zoo
        event = self._taken.last(zoo, self._entry.name, target.in_chans, target.names)
        if event and event.removes:
            return "removed"
        state = self._states.get(_wanted(target), "due")
        if state == "unsupported" and self._versions[_wanted(target)] != registry.versions(zoo):
            return "due"
        return state

    def there(self, asked: Target, own: Target) -> Target:
        """The target of a variant that will do for the one `asked` for; `own` where none is there.

        So a variant under another scheme than the model's own default stays in use.
        """
        schemes = [
            scheme
            for (chans, bands, scheme), state in self._states.items()
            if state == "done"
            and (chans, bands) == (asked.in_chans, asked.names)
            and asked.admits(scheme)
        ]
        if own.scheme in schemes or not schemes:
            return own
        return replace(own, scheme=schemes[0])

    def identity(self, target: Target) -> str:
        """The source's identity when the variant was last made."""
        return self._identities[_wanted(target)]


def _key(outcome: Row) -> Key:
    return tuple(outcome[column] for column in ("in_chans", "bands", "scheme"))


def _wanted(target: Target) -> Key:
    return target.in_chans, target.names, target.scheme
