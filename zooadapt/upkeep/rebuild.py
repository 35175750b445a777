"""Make a mirror's two tables again from its records, and set damaged records aside."""

from dataclasses import dataclass

from zooadapt.errors import Damaged, UsageError
from zooadapt.mirror import manifest
from zooadapt.mirror.manifest import Compacted
from zooadapt.mirror.scan import ARCHIVE, Records, refuse_newer
from zooadapt.stores.store import Store

ASIDE = "damaged"
"""The folder below the mirror's root to which damaged records are moved."""


@dataclass(frozen=True)
class Rebuilt:
    """The outcome of a rebuild: the new tables, and the records they were made from."""

    tables: Compacted
    records: int
    """How many records were sound."""
    aside: dict[str, Damaged]
    """What is wrong with each damaged record, by the key to which it was moved."""


def rebuild(store: Store) -> Rebuilt:
    """Make the tables again from the records. Jobs can run on the mirror at the same time.

    The outcomes in a damaged record are lost until a job makes them again; its bytes are kept.
    Raises UsageError if there are no records, RunError if a record, a table or the archive has a
    newer layout.
    """
    manifest.check_tables(store)
    refuse_newer(store)
    records = Records(store, archived=False)
    sound = sum(map(len, records.histories(archiving=True)))
    if not sound and not records.damaged:
        raise UsageError(f"{store.url} holds no records: check the mirror's URL")
    aside = {}
    for key, error in records.damaged.items():
        store.write(f"{ASIDE}/{key}", [store.read(key)])
        store.remove(key)
        aside[f"{ASIDE}/{key}"] = error
    store.remove(ARCHIVE)
    records.leave_archive()
    return Rebuilt(manifest.compact(store), sound, aside)
