"""Failures as people read them: grouped by reason."""

from collections.abc import Iterable
from dataclasses import dataclass

from zooadapt.errors import some
from zooadapt.types import Row


@dataclass(frozen=True)
class Group:
    """Failures for the same reason."""

    status: str
    stage: str
    reason: str
    models: dict[str, list[int]]
    """The models, with the channel counts of their variants that failed."""

    def named(self, most: int) -> str:
        """The first models with their channel counts, and how many more there are."""
        named = [f"{name} ({','.join(map(str, counts))})" for name, counts in self.models.items()]
        return some(named, most)


def reason(row: Row) -> str:
    """Why a variant isn't there, with "…" for its model, so that equal reasons are equal text."""
    error: str = row["error"]
    return error.replace(row["model"], "…")


def grouped(failures: Iterable[Row]) -> list[Group]:
    """Failures grouped by status, stage and reason, the largest group first."""
    groups: dict[tuple[str, str, str], dict[str, list[int]]] = {}
    for row in failures:
        models = groups.setdefault((row["status"], row["stage"], reason(row)), {})
        models.setdefault(row["model"], []).append(row["in_chans"])
    found = [Group(*why, models) for why, models in groups.items()]
    return sorted(found, key=lambda group: -len(group.models))


def failure_table(failures: Iterable[Row]) -> str:
    """A text table of failures, grouped by status, stage and reason, the largest group first."""
    lines = [f"  {'status':<11}  {'stage':<10}  {'models':>6}  reason"]
    for group in grouped(failures):
        shown = f"{group.status:<11}  {group.stage:<10}  {len(group.models):>6}"
        lines.append(f"  {shown}  {group.reason}")
        lines.append(f"  {'':<33}{group.named(3)}")
    return "\n".join(lines)
