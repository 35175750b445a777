"""What the commands for upkeep print."""

from collections.abc import Sequence
from datetime import datetime

from zooadapt.report.text import counted, size
from zooadapt.upkeep.garbage import Garbage
from zooadapt.upkeep.removal import Removal
from zooadapt.upkeep.verify import Findings, Wrong


def wrong_table(wrong: Sequence[Wrong]) -> str:
    """A line for each fault that was found: where, and what."""
    width = max(len(found.where) for found in wrong)
    return "\n".join(f"  {found.where:<{width}}  {found.what}" for found in wrong)


def verified(findings: Findings, deep: bool) -> str:
    """The closing line of `zooadapt verify`."""
    checked = f"{counted(findings.variants, 'variant')}, {size(findings.bytes)}"
    proved = ", each proved again" if deep else ""
    faults = counted(len(findings.wrong), "fault")
    verdict = f"{faults}, see above" if findings.wrong else f"all is well{proved}"
    lacking = f"; {counted(findings.unlisted, 'recorded variant')} not in the manifest yet: "
    remedy = "the job that is at work lists them" if findings.at_work else "run zooadapt rebuild"
    return f"{checked}: {verdict}" + (lacking + remedy) * bool(findings.unlisted)


def garbage_table(garbage: Sequence[Garbage], now: datetime) -> str:
    """A line for each leftover that can be removed: its size, age and name."""
    lines = []
    for item in garbage:
        kind = "  unfinished upload" if item.upload else ""
        lines.append(f"  {size(item.bytes):>8}  {(now - item.since).days:>5} d  {item.name}{kind}")
    return "\n".join(lines)


def removal_table(removals: Sequence[Removal]) -> str:
    """A line for each model to remove: the bytes of its objects, its name, its listed variants."""
    lines = []
    for removal in removals:
        rows = removal.variants
        channels = ",".join(row["bands"].replace(",", "-") or str(row["in_chans"]) for row in rows)
        shown = channels or ("no variant listed" if removal.keys else "nothing left")
        stems = " and its original stems" if removal.whole and removal.keys else ""
        lines.append(f"  {size(removal.bytes):>8}  {removal.zoo}/{removal.model}  {shown}{stems}")
    return "\n".join(lines)
