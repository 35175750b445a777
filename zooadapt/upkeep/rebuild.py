"""A mirror's two tables made again from its records, and damaged records set aside."""

from dataclasses import dataclass

from zooadapt.errors import Damaged, UsageError
from zooadapt.mirror import manifest
from zooadapt.mirror.manifest import Compacted
from zooadapt.mirror.scan import ARCHIVE, Records, refuse_newer
from zooadapt.stores.store import Store

ASIDE = "damaged"
"""Where damaged records go, below the mirror's root."""


@dataclass(frozen=True)
class Rebuilt:
    """What was made, of what."""

    tables: Compacted
    records: int
    """Sound ones."""
    aside: dict[str, Damaged]
    """The keys under which damaged records lie now, and what is wrong with each."""


def rebuild(store: Store) -> Rebuilt:
    """Make the tables from the records. Safe beside jobs on the mirror, as any compaction.

    What a damaged record said is lost until the job makes it again; its bytes are kept. Raises
    UsageError where there are no records, RunError where something is of a newer layout.
    """
    manifest.check_tables(store)
    refuse_newer(store)
    records = Records(store, archived=False)
    sound = sum(map(len, records.histories(archiving=True)))
    if not sound and not records.damaged:
        raise UsageError(f"{store.root} holds no records to make a manifest from")
    aside = {}
    for key, error in records.damaged.items():
        store.write(f"{ASIDE}/{key}", [store.read(key)])
        store.remove(key)
        aside[f"{ASIDE}/{key}"] = error
    store.remove(ARCHIVE)
    records.leave_archive()
    return Rebuilt(manifest.compact(store), sound, aside)
