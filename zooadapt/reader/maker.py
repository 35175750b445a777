"""Make a variant that no mirror has: from another variant of the model, or from the original.

Both ways keep what they make in the cache, and the first process that asks makes it for all.
"""

import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zooadapt.bands import RGB
from zooadapt.errors import UsageError, redact
from zooadapt.mirror import manifest
from zooadapt.mirror.columns import KEY
from zooadapt.names import CONFIG, SECTION, model_folder, safe
from zooadapt.proof import verdict
from zooadapt.reader import cache, original
from zooadapt.reader.cache import Cache
from zooadapt.reader.making import Making
from zooadapt.reader.manifests import preferred
from zooadapt.stores.store import Store
from zooadapt.targets import Target
from zooadapt.types import ModelEntry, ProofResult, Row
from zooadapt.zoos import registry

if TYPE_CHECKING:
    from zooadapt.reader.derived import Variant

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Maker:
    """Makes variants in the cache of this machine."""

    cache: Cache
    offline: bool
    making: Making

    def from_variant(
        self, row: Row, target: Target, permuted: bool, to: Path | None
    ) -> tuple[Path, Row]:
        """The folder and the row of a variant made from the variant of `row`.

        How it is made: see `derived.Variant.write`.
        """

        def folder(of: Target, kind: str) -> Path:
            place = self.cache.root / kind / safe(row["zoo"]) / safe(row["model"])
            return place / safe(f"{of.label}-{row['source_sha256'][:16]}")

        def found(of: Target) -> Path | None:
            places = (folder(of, kind) for kind in self.making.places("derived"))
            return next((place for place in places if (place / CONFIG).exists()), None)

        if target.is_open:  # the model's own channels decide, but what was made before will do
            older = replace(target, scheme=f"nearest{target.scheme}")
            likely = (each for each in (target.for_base(RGB), older) if found(each))
            target = next(likely, None) or target.for_base(_variant(self.cache, row).base)
        kept = found(target) or folder(target, self.making.places("derived")[-1])
        with self.cache.made_once(kept, (kept / CONFIG).exists) as is_made:
            if not is_made:
                _variant(self.cache, row).write(target, kept, permuted, self.making)
        caution(target)
        cache.used(kept)
        made = cache.read_row(kept) or _older(row, target)
        return (cache.copy(kept, to) if to else kept), made

    def from_original(
        self, model: str, target: Target, zoo: str | None, to: Path | None
    ) -> tuple[Path, Row]:
        """The folder and the row of a variant made from the original, in this machine's mirror."""
        entry = original.named(model, zoo, self.offline)
        stores = [
            original.own_mirror(self.cache.root, entry, kind) for kind in self.making.places("made")
        ]
        rows = next((rows for store in stores if (rows := _there(store, entry, target))), [])
        if self.offline and not rows and not original.is_here(entry):
            raise UsageError(
                f"{redact(model)} isn't on this machine, and offline nothing is downloaded: pull "
                f"it once while online"
            )
        (row,) = rows[:1] or [self._made(entry, target, stores[-1])]
        caution(replace(target, scheme=row["scheme"]))
        store = stores[0] if row["proof"] != "none" else stores[-1]
        folder = Path(store.path(row["folder"]))
        cache.used(folder)
        return (cache.copy(folder, to) if to else folder), row

    def _made(self, entry: ModelEntry, target: Target, store: Store) -> Row:
        """The row of a variant that was made in a mirror on this machine."""
        (target,) = registry.for_model(entry, (target,))
        kept = Path(store.path(model_folder(entry.zoo, entry.name)))
        with self.cache.made_once(kept, lambda: bool(_there(store, entry, target))) as is_made:
            if not is_made:
                original.make(entry, target, store, self.making)
        return _there(store, entry, target)[0]


def _older(row: Row, target: Target) -> Row:
    """The row of a variant that zooadapt 0.1 made from that of `row`; it kept no row."""
    own = {"in_chans": target.in_chans, "bands": target.names, "scheme": target.scheme}
    unknown = {"folder": "", "run_id": "", "sha256": "", "proof": "none", "macs": None}
    figures = dict.fromkeys(("equivalence_error", "control_error"), math.nan)
    return {**row, **own, **unknown, **figures, "equivalent": False, "changed": None}


def _variant(mirrors: Cache, row: Row) -> "Variant":
    from zooadapt.reader import derived  # it imports torch, which a variant that is there needn't

    return derived.pulled(mirrors, row)


def _there(store: Store, entry: ModelEntry, target: Target) -> list[Row]:
    """The rows of this machine's mirror that will do for the target, if their files are there."""
    if not store.exists(manifest.MANIFEST):
        return []
    key = (entry.zoo, entry.name, target.in_chans, target.names)
    rows = manifest.read_table(store, manifest.MANIFEST).to_pylist()
    found = [row for row in rows if tuple(row[name] for name in KEY[:4]) == key]
    found = [row for row in found if target.admits(row["scheme"]) and original.is_current(row)]
    return preferred([row for row in found if Path(store.path(row["folder"]), CONFIG).exists()])


def tell(row: Row, target: Target, folder: Path) -> None:
    """Tell what a user should know of the mirror's variant in `folder`, who asked for `target`."""
    source = json.loads((folder / CONFIG).read_text())[SECTION]["source"]
    is_rgb = [band["name"] for band in source["bands"]] == list(RGB.names)
    if target.is_open and is_rgb and target.for_base(RGB).scheme != row["scheme"]:
        _log.warning(
            "the mirror holds %s under %s; scheme=%r would be the default now",
            target.spoken, row["scheme"], target.for_base(RGB).scheme,
        )  # fmt: skip
    if not row["equivalent"]:
        _log.warning("%s is there %s", row["model"], verdict.said(ProofResult.of(row)))
    caution(replace(target, scheme=row["scheme"]))


def caution(target: Target) -> None:
    """Tell what a user should know of a variant, if there is anything."""
    if target.caution:
        _log.warning("%s", target.caution)
