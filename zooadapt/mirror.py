"""The reader's side of a mirror: find a variant, pull it, load it, or make one it lacks.

import zooadapt
mirror = zooadapt.open_mirror("s3://bucket/mirror")
mirror.find(model="resnet*", bands="sentinel2-l2a")
model = mirror.load("resnet18.a1_in1k", bands="sentinel2-l2a")
"""

import json
import logging
import posixpath
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor, nn

from zooadapt import bands as bands_tools
from zooadapt import manifest, publish, schemes, stems, validate, zoos
from zooadapt.errors import UsageError
from zooadapt.records import Band, Bands, Gain, Stem, Target
from zooadapt.store import Store, open_store
from zooadapt.zoos import Zoo

_log = logging.getLogger("zooadapt")


def open_mirror(url: str, storage_options: dict[str, Any] | None = None) -> "Mirror":
    """The mirror at `url`, any fsspec URL or local path, with its fsspec options."""
    local = "://" not in url and "::" not in url
    return Mirror(open_store(str(Path(url).resolve()) if local else url, storage_options))


@dataclass(frozen=True)
class Mirror:
    """A mirror that is only read."""

    store: Store

    def manifest(self) -> pd.DataFrame:
        """Every usable variant, one row each. Raises UsageError where there is no mirror."""
        try:
            return pd.read_parquet(BytesIO(self.store.read(manifest.MANIFEST)))
        except FileNotFoundError as cause:
            raise UsageError(f"{self.store.root} holds no {manifest.MANIFEST}") from cause

    def find(
        self,
        model: str = "*",
        in_chans: int | None = None,
        bands: str | None = None,
        scheme: str | None = None,
        **columns: Any,
    ) -> pd.DataFrame:
        """The variants that match: `model` is a glob, `bands` as for ``--bands``, others equal.

        `bands` matches its names in their order. Raises UsageError for a column that isn't there.
        """
        rows = self.manifest()
        rows = rows[[_matches(name, model) for name in rows["model"]]]
        wanted = {"in_chans": in_chans, "scheme": scheme, **columns}
        if bands is not None:
            wanted["bands"] = ",".join(_names(bands))
        for column, value in wanted.items():
            if column not in rows:
                raise UsageError(f"no column {column}; there are {', '.join(rows.columns)}")
            if value is not None:
                rows = rows[rows[column] == value]
        return rows

    def pull(self, folder: str, to: Path) -> Path:
        """Copy a variant's folder, a value of the manifest's `folder`, below `to`; verified.

        Raises UsageError where the bytes aren't those that the folder's id was made from.
        """
        local = to / folder.rpartition("/")[2]
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
    ) -> nn.Module:
        """The model with `in_chans` channels, or with `bands` as for ``--bands``, in eval mode.

        Its ``pretrained_cfg`` has the input size, mean and std. What the mirror lacks is made from
        any sibling and the original stem by the job's own code, and proved; another order of bands
        that a row has is that row with its channels permuted. With `derive=False` that is an error.

        Raises UsageError where the model isn't in the mirror, or can't be had with these channels.
        """
        if (in_chans is None) == (bands is None):
            raise UsageError("give either in_chans or bands")
        siblings = self.find(model)
        siblings = siblings[siblings["model"] == siblings["model"].min()]
        if siblings.empty:
            raise UsageError(f"the mirror has no {model}; find() shows what it has")
        names = _names(bands) if bands else ()
        matches = self._matching(siblings, in_chans or len(names), names, scheme)
        if len(matches):
            return self._variant(matches.iloc[0]).load()
        if not derive:
            there = sorted({row.bands or str(row.in_chans) for row in siblings.itertuples()})
            raise UsageError(f"the mirror has {model} only for {'; '.join(there)}")
        alike = siblings[[bool(names) and _same(row, names) for row in siblings["bands"]]]
        if len(alike) and scheme in (None, *alike["scheme"]):
            return self._variant(alike.iloc[0]).permuted(names)
        target = bands_tools.parse(bands) if bands else Bands.counted(in_chans or 0)
        rule = scheme or ("nearest" if bands else "repeat")
        return self._variant(siblings.iloc[0]).derived(Target(target, rule))

    @staticmethod
    def _matching(
        rows: pd.DataFrame, in_chans: int, names: Sequence[str], scheme: str | None
    ) -> pd.DataFrame:
        same = (rows["in_chans"] == in_chans) & (rows["bands"] == ",".join(names))
        if scheme is None and not names:
            scheme = "repeat"
        return rows[same & (rows["scheme"] == scheme)] if scheme else rows[same]

    def _variant(self, row: pd.Series) -> "_Variant":
        with tempfile.TemporaryDirectory() as name:
            folder = self.pull(row["folder"], Path(name))
            config = json.loads((folder / publish.CONFIG).read_text())
            key = posixpath.normpath(f"{row['folder']}/{config['zooadapt']['source_stem']}")
            source, _ = self.store.local_file(key, folder)
            return _Variant(
                zoos.get(row["zoo"]),
                config,
                safetensors.torch.load_file(folder / publish.WEIGHTS),
                safetensors.torch.load_file(source),
            )


@dataclass(frozen=True)
class _Variant:
    """A variant that was pulled; the tensors stay mapped after its files are gone."""

    zoo: Zoo
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    originals: dict[str, Tensor]
    """The tensors of the original stem."""

    def load(self) -> nn.Module:
        """As it is stored."""
        return self._built(self.tensors)

    def permuted(self, names: Sequence[str]) -> nn.Module:
        """The same bands in another order."""
        stored: list[str] = self.config["zooadapt"]["bands"]
        columns = [stored.index(name) for name in names]
        matrix = torch.tensor(self.config["zooadapt"]["matrix"], dtype=torch.float64)[:, columns]
        return self._made(matrix, self.config["zooadapt"]["scheme"], ",".join(names))

    def derived(self, target: Target) -> nn.Module:
        """Other channels than it has."""
        matrix = schemes.matrix(target.scheme, self._base_bands(), target.bands)
        return self._made(matrix, target.scheme, target.short)

    def _made(self, matrix: Tensor, scheme: str, short: str) -> nn.Module:
        """A variant for a (B, N) matrix, made by the job's own code and proved."""
        found = [_stem(stem) for stem in self.config["zooadapt"]["stems"]]
        rule, (base_chans, chans) = schemes.get(scheme), matrix.shape
        made = stems.adapt(self.originals, found, rule, matrix)
        tensors = {**self.tensors, **made}
        result = validate.prove(
            variant=self._built(tensors, chans),
            base=self._built({**self.tensors, **self.originals}, base_chans),
            stems=found,
            matrix=matrix,
            unrounded=stems.unrounded(self.originals, found, rule, matrix),
            input_size=tuple(self.config["pretrained_cfg"]["input_size"][1:]),
            device=torch.device("cpu"),
        )
        validate.check(result, all(stems.exact(stem, rule, matrix) for stem in found))
        _log.warning(
            "the mirror lacks %s channels: made from %s, error %.1e",
            short, self.config["architecture"], result.equivalence_error,
        )  # fmt: skip
        model = self._built(tensors, chans)
        source = self.config["zooadapt"]["source"]
        cfg: Any = model.pretrained_cfg
        cfg["input_size"] = (chans, *cfg["input_size"][1:])
        for statistic in ("mean", "std"):
            cfg[statistic] = tuple(schemes.mix_statistics(source[statistic], matrix))
        return model

    def _built(self, tensors: dict[str, Tensor], in_chans: int | None = None) -> nn.Module:
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / publish.CONFIG).write_text(json.dumps(self.config))
            return self.zoo.load(Path(name), tensors, in_chans)

    def _base_bands(self) -> Bands:
        """The channels of the original weights."""
        channels = self.config["zooadapt"]["source"]["bands"]
        bands = tuple(Band(band["name"], band["wavelength"], band["width"]) for band in channels)
        named = bands_tools.RGB if bands == bands_tools.RGB.channels else Bands("base", bands)
        return named if all(band.name for band in bands) else Bands.counted(len(bands))


def _stem(described: dict[str, Any]) -> Stem:
    gain = described["gain"]
    return Stem(**{**described, "gain": Gain(**gain) if gain else None})


def _names(bands: str) -> tuple[str, ...]:
    """The names that an option stands for; names that only a row of the mirror knows included."""
    try:
        return bands_tools.parse(bands).names
    except UsageError:
        if "," not in bands:
            raise
        return tuple(name.strip() for name in bands.split(","))


def _same(bands: str, names: Sequence[str]) -> bool:
    return sorted(bands.split(",")) == sorted(names)


def _matches(name: str, glob: str) -> bool:
    """As for ``--models``: a glob without a tag matches every tag."""
    return fnmatchcase(name, glob) or ("." not in glob and fnmatchcase(name, f"{glob}.*"))
