"""Prove a variant that was pulled from a mirror again, or make another variant from it."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from zooadapt import __version__, targets
from zooadapt.adapt import contract, schemes
from zooadapt.bands import RGB
from zooadapt.errors import Unsupported, UsageError, ValidationError, stage
from zooadapt.mirror import safetensors_file, variant_config
from zooadapt.names import CONFIG, WEIGHTS, source_stem
from zooadapt.proof import compare, devices, verdict
from zooadapt.reader import cache
from zooadapt.reader.cache import Cache
from zooadapt.reader.making import Making
from zooadapt.targets import Band, Bands, Scheme, Target
from zooadapt.types import ProofResult, Row, Stem
from zooadapt.zoos import registry

_log = logging.getLogger("zooadapt")


def pulled(mirrors: Cache, row: Row) -> "Variant":
    """Pull the variant of a manifest's row and its original stem, and verify every byte.

    Raises FetchError if no mirror gives the right bytes.
    """
    folder = mirrors.pull(row)
    config = json.loads((folder / CONFIG).read_text())
    stem = mirrors.stem(source_stem(row["folder"], config))
    return Variant(row, folder, stem)


class Variant:
    """A variant on this machine, with the tensors of its original stem."""

    def __init__(self, row: Row, folder: Path, stem: Path) -> None:
        """`folder` holds model.safetensors and config.json; `stem` is the original stem's file.

        `row` is the manifest's row of the variant.
        """
        self._row, self._folder = row, folder
        self.model, self._zoo = row["model"], registry.get(row["zoo"])
        self.config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        self._originals: dict[str, Tensor] = safetensors.torch.load_file(stem)
        self._stems = [Stem.of(each) for each in self.config["zooadapt"]["stems"]]

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        """The stored tensors by name, in the order of the file: the stems come first."""
        file = self._folder / WEIGHTS
        loaded = safetensors.torch.load_file(file)
        return {name: loaded[name] for name in safetensors_file.tensor_names(file)}

    def write(self, target: Target, folder: Path, permuted: bool, making: Making) -> None:
        """Make the variant for `target`, prove it, and write it to `folder`, with its row.

        If `permuted`, it is this variant with its channels reordered; if not, it has the same bytes
        as if a job had made it. Raises UsageError if the model can't be adapted to these channels,
        ValidationError if the new variant fails its proof.
        """
        try:
            matrix = self._permuted(target) if permuted else self._matrix(target)
        except Unsupported as cause:
            raise UsageError(f"{self.model} can't be made for {target.spoken}: {cause}") from cause
        rule = targets.get_scheme(target.scheme)
        tensors = {**self._tensors, **contract.adapt(self._originals, self._stems, rule, matrix)}
        config = variant_config.redescribed(self.config, self._zoo, target, matrix)
        device = devices.named(making.device)
        with stage(ValidationError):
            result = self._proved(tensors, config, rule, matrix, device, making.prove)
        _log.warning(
            "made %s for %s from its original stem under %s, %s",
            self.model, target.spoken, target.scheme, verdict.said(result),
        )  # fmt: skip
        digest = hashlib.sha256()
        with cache.replacing(folder / WEIGHTS) as file, file.open("wb") as out:
            for chunk in safetensors_file.serialise(tensors):
                digest.update(chunk)
                out.write(chunk)
        row = self._described(target, config, tensors, result)
        row |= {"checked_on": devices.name(device) if making.prove else ""}
        row |= {"bytes": (folder / WEIGHTS).stat().st_size, "sha256": digest.hexdigest()}
        cache.write_row(folder, row)
        cache.write_description(folder, json.dumps(config, indent=2).encode())

    def _described(
        self,
        target: Target,
        config: dict[str, Any],
        tensors: Mapping[str, Tensor],
        result: ProofResult,
    ) -> Row:
        """The row of a variant made from this one, but for its bytes. It is in no mirror."""
        facts = self._zoo.stated(config)
        names = [stem.name for stem in self._stems]
        wider = sum(tensors[name].numel() - self._tensors[name].numel() for name in names)
        return {
            **self._row,
            "in_chans": target.in_chans,
            "bands": target.names,
            "scheme": target.scheme,
            "folder": "",
            "params": self._row["params"] + wider,
            "macs": self._row.get("macs") if not wider else None,
            "input_mean": list(facts.mean) or None,
            "input_std": list(facts.std) or None,
            **asdict(result),
            "verification": "full",
            "zooadapt_version": __version__,
            "timm_version": self._zoo.version(),
            "torch_version": torch.__version__,
            "run_id": "",
            "created_at": datetime.now(UTC),
        }

    def prove(self, device: torch.device) -> ProofResult:
        """Prove the stored variant again.

        Raises ValidationError if it should compute base(M·x) and doesn't.
        """
        rule = targets.get_scheme(self.config["zooadapt"]["scheme"])
        matrix = variant_config.stored_matrix(self.config)
        return self._proved(self._tensors, self.config, rule, matrix, device)

    def _permuted(self, target: Target) -> Tensor:
        stored: list[str] = self.config["zooadapt"]["bands"]
        columns = [stored.index(name) for name in target.bands.names]
        return variant_config.stored_matrix(self.config)[:, columns]

    def _matrix(self, target: Target) -> Tensor:
        return schemes.matrix(target.scheme, self.base, target.bands)

    def _proved(
        self,
        tensors: Mapping[str, Tensor],
        config: dict[str, Any],
        rule: Scheme,
        matrix: Tensor,
        device: torch.device,
        proves: bool = True,
    ) -> ProofResult:
        """Prove the variant that has these tensors, or compare only their bits.

        Raises ValidationError if that fails.
        """
        base_chans, chans = matrix.shape
        prover = compare.Prover(
            base=self._built({**tensors, **self._originals}, config, base_chans),
            stems=self._stems,
            originals=self._originals,
            shape=(base_chans, *self._zoo.stated(config).size),
            device=device,
        )
        built = self._built(tensors, config, chans)
        if not proves:
            return prover.check(built, rule, matrix)
        result = prover.prove(built, rule, matrix)
        return verdict.check(result, self._stems, rule, matrix.tolist())

    def _built(
        self, tensors: Mapping[str, Tensor], config: dict[str, Any], in_chans: int
    ) -> nn.Module:
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / CONFIG).write_text(json.dumps(config))
            return self._zoo.load(Path(name), tensors, in_chans)

    @property
    def base(self) -> Bands:
        """The bands that the original weights read."""
        channels = self.config["zooadapt"]["source"]["bands"]
        bands = tuple(Band(band["name"], band["wavelength"], band["width"]) for band in channels)
        named = RGB if bands == RGB.channels else Bands("base", bands)
        return named if all(band.name for band in bands) else Bands.counted(len(bands))
