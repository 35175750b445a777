"""The reader's side of a mirror: find a variant, pull it, load it, or make one it lacks.

import zooadapt
mirror = zooadapt.open_mirror("s3://bucket/mirror")
mirror.find(model="resnet*", bands="sentinel2-l2a")
model = mirror.load("resnet18.a1_in1k", bands="sentinel2-l2a")
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
from torch import nn

from zooadapt import manifest, publish, zoos
from zooadapt.bands import parse
from zooadapt.config import absolute
from zooadapt.description import source_stem
from zooadapt.errors import Unsupported, UsageError
from zooadapt.readback import originals
from zooadapt.records import Bands, Target
from zooadapt.schemes import SCHEMES
from zooadapt.store import Store, open_store
from zooadapt.variant import Variant


def open_mirror(url: str, storage_options: dict[str, Any] | None = None) -> "Mirror":
    """The mirror at `url`, any fsspec URL or local path, with its fsspec options."""
    return Mirror(open_store(absolute(url, "the mirror's URL"), storage_options))


@dataclass(frozen=True)
class Mirror:
    """A mirror that is only read."""

    store: Store

    def manifest(self) -> pd.DataFrame:
        """Every usable variant, one row each.

        Raises UsageError where there is no mirror, RunError where its manifest is damaged or of a
        newer layout.
        """
        rows: pd.DataFrame = manifest.read_table(self.store, manifest.MANIFEST).to_pandas()
        return rows

    def find(
        self,
        model: str = "*",
        in_chans: int | None = None,
        bands: str | None = None,
        scheme: str | None = None,
        **columns: Any,
    ) -> pd.DataFrame:
        """The variants that match: `model` is a glob, `bands` as for ``--bands``, others equal.

        `bands` matches its names in their order, and a file of one's own only what was made from
        it. Raises UsageError for bands that can't be or a column that isn't there.
        """
        rows = self.manifest()
        rows = rows.loc[[zoos.matches(name, model) for name in rows["model"]]]
        wanted = {"in_chans": in_chans, **columns}
        if bands is not None:
            names, found = _named(bands)
            wanted["bands"] = ",".join(names)
            digest = found.digest if found else ""
            rows = rows.loc[[name.partition(".")[2] == digest for name in rows["scheme"]]]
        if scheme is not None:
            rows = rows.loc[[name.partition(".")[0] == scheme for name in rows["scheme"]]]
        for column, value in wanted.items():
            if column not in rows:
                raise UsageError(f"no column {column}; there are {', '.join(rows.columns)}")
            if value is not None:
                rows = rows[rows[column] == value]
        return rows

    def verify(self, deep: bool = False) -> pd.DataFrame:
        """What is wrong with the mirror, one row each: `where` and `what`; empty if nothing is.

        As ``zooadapt verify``: every object is read, and with `deep` every variant proved again.
        """
        from zooadapt import verify

        wrong = [(found.where, found.what) for found in verify.verify(self, deep).wrong]
        return pd.DataFrame(wrong, columns=["where", "what"])

    def pull(self, folder: str, to: Path) -> Path:
        """Copy a variant's folder, a value of the manifest's `folder`, below `to`; verified.

        Raises UsageError where the bytes aren't those that the folder's id was made from.
        """
        name = folder.rpartition("/")[2]
        if not name.strip("."):
            raise UsageError(f"{folder!r} isn't a variant's folder")
        local = to / name
        local.mkdir(parents=True, exist_ok=True)
        file, digest = self.store.local_file(f"{folder}/{publish.WEIGHTS}", local)
        config = self.store.read(f"{folder}/{publish.CONFIG}")
        if not folder.endswith(publish.content_id(digest, config)):
            raise UsageError(f"{folder} isn't what the mirror says: its objects are damaged")
        (local / publish.CONFIG).write_bytes(config)
        weights = local / publish.WEIGHTS
        if file.parent == local:
            file.replace(weights)
        elif not weights.exists():
            weights.symlink_to(file)
        return local

    def load(
        self,
        model: str,
        in_chans: int | None = None,
        bands: str | None = None,
        scheme: str | None = None,
        derive: bool = True,
        zoo: str | None = None,
    ) -> nn.Module:
        """The model with `in_chans` channels, or with `bands` as for ``--bands``, in eval mode.

        The scheme is `repeat`, or `nearest` for bands, unless another is given. The model's
        ``pretrained_cfg`` has the input size, mean and std. What the mirror lacks is made from any
        sibling and the original stem by the job's own code, and proved; another order of bands that
        a row has is that row with its channels permuted. With `derive=False` that is an error.

        Raises UsageError where the model isn't in the mirror, or can't be had with these channels;
        ValidationError where what was made doesn't pass its proof.
        """
        names, wanted = _wanted(in_chans, bands, scheme)
        rows = self._siblings(model, zoo)
        rule = wanted.scheme if wanted else scheme or "nearest"
        alike = rows[rows["scheme"] == rule]
        joined = ",".join(names)
        exact = alike[(alike["bands"] == joined) & (alike["in_chans"] == (in_chans or len(names)))]
        if len(exact):
            return self.variant(exact.iloc[0]).load()
        if not derive:
            there = (
                rows["bands"].where(rows["bands"] != "", rows["in_chans"].astype(str))
            ).unique()
            raise UsageError(
                f"the mirror has no such {model} under {rule}; it is there for {'; '.join(there)}"
            )
        same = alike.loc[[sorted(row.split(",")) == sorted(names) for row in alike["bands"]]]
        if len(same):
            return self.variant(same.iloc[0]).permuted(names)
        target = wanted or Target.of(parse(bands or ""), scheme)  # parse says what is wrong
        try:
            return self.variant(rows.iloc[0]).derived(target)
        except Unsupported as cause:
            raise UsageError(f"{model} can't be made for {target.short}: {cause}") from cause

    def _siblings(self, model: str, zoo: str | None) -> pd.DataFrame:
        """The rows of the one model. Raises UsageError where there are several or none."""
        rows = self.find(model, zoo=zoo)
        names = sorted(set(rows["zoo"] + "/" + rows["model"]))
        if not names:
            raise UsageError(f"the mirror has no {model}; find() shows what it has")
        if len(names) > 1:
            raise UsageError(f"{model} could be {', '.join(names)}: name one, with its tag and zoo")
        return rows

    def variant(self, row: pd.Series | Mapping[str, Any]) -> Variant:
        """The variant of a manifest's row with its original stem, in memory; verified as `pull`.

        Raises ValidationError where the stem isn't what it was.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = self.pull(row["folder"], Path(name))
            config = json.loads((folder / publish.CONFIG).read_text())
            key = source_stem(row["folder"], config)
            return Variant(
                zoos.get(row["zoo"]),
                config,
                safetensors.torch.load_file(folder / publish.WEIGHTS),
                originals(self.store, key, folder),
            )


def _wanted(
    in_chans: int | None, bands: str | None, scheme: str | None
) -> tuple[tuple[str, ...], Target | None]:
    """The names of the bands, () for a count, and the target; None for names that only rows know.

    Raises UsageError.
    """
    if (in_chans is None) == (bands is None):
        raise UsageError("give either in_chans or bands")
    if scheme is not None and scheme not in SCHEMES:
        raise UsageError(f"no scheme {scheme}; there are {', '.join(SCHEMES)}")
    if in_chans is not None:
        if in_chans < 1:
            raise UsageError(f"in_chans={in_chans} isn't a channel count; it is 1 or more")
        return (), Target.of(Bands.counted(in_chans), scheme)
    names, found = _named(bands or "")
    return names, Target.of(found, scheme) if found else None


def _named(bands: str) -> tuple[tuple[str, ...], Bands | None]:
    """The names that an option stands for, and the bands; None for names that only rows know."""
    try:
        found = parse(bands)
    except UsageError:
        if "," not in bands or ":" in bands:
            raise
        return tuple(name.strip() for name in bands.split(",")), None
    return found.names, found
