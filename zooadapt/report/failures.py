"""Failures as people read them: grouped by cause."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from zooadapt.errors import some
from zooadapt.types import Row

_APART = re.compile(
    r"""
    [a-z][a-z0-9+.-]*://[^\s'"]+           # a URL
    | (?<![\w./])~?/[^\s'":;,)]+           # an absolute path
    | \b(?=[0-9a-f]*\d)[0-9a-f]{7,}\b      # a hash
    | \d+(?:[.,]\d+)*(?:e[+-]?\d+)?        # a number
    """,
    re.VERBOSE,
)
"""What differs between errors of the same cause, besides names."""


@dataclass(frozen=True)
class Group:
    """Failures of the same cause."""

    status: str
    stage: str
    reason: str
    """The reason of the first one; it begins with "for example" where others have other words."""
    models: dict[str, list[int]]
    """The models, with the channel counts of their variants that failed."""

    def named(self, most: int) -> str:
        """The first models with their channel counts, and how many more there are."""
        named = [f"{name} ({','.join(map(str, counts))})" for name, counts in self.models.items()]
        return some(named, most)


def cause(row: Row) -> str:
    """A failure's reason with "…" for all that may differ between failures of the same cause.

    That is the model's name, URLs, paths, hashes and numbers.
    """
    name = rf"(?<![\w.'-]){re.escape(row['model'])}(?![\w-])"
    return _APART.sub("…", re.sub(name, "…", row["error"]))


def grouped(failures: Iterable[Row]) -> list[Group]:
    """Failures grouped by status, stage and cause, the largest group first."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in failures:
        groups.setdefault((row["status"], row["stage"], cause(row)), []).append(row)
    found = [_group(status, stage, rows) for (status, stage, _), rows in groups.items()]
    return sorted(found, key=lambda group: -len(group.models))


def _group(status: str, stage: str, rows: list[Row]) -> Group:
    models: dict[str, list[int]] = {}
    for row in rows:
        models.setdefault(row["model"], []).append(row["in_chans"])
    alike = len({row["error"] for row in rows}) == 1
    return Group(status, stage, ("" if alike else "for example: ") + rows[0]["error"], models)


def failure_table(failures: Iterable[Row]) -> str:
    """A text table of failures, grouped by status, stage and cause, the largest group first."""
    lines = [f"  {'status':<11}  {'stage':<10}  {'models':>6}  reason"]
    for group in grouped(failures):
        shown = f"{group.status:<11}  {group.stage:<10}  {len(group.models):>6}"
        lines.append(f"  {shown}  {group.reason}")
        lines.append(f"  {'':<33}{group.named(3)}")
    return "\n".join(lines)
