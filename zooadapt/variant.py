"""A variant that was pulled from a mirror: loaded as it is, or another made from it exactly."""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zooadapt import publish, schemes, stems, validate
from zooadapt.bands import RGB
from zooadapt.description import described_stems, stored_matrix
from zooadapt.records import Band, Bands, ProofResult, Target
from zooadapt.zoos import Zoo

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Variant:
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
        return self._made(
            stored_matrix(self.config)[:, columns],
            self.config["zooadapt"]["scheme"],
            ",".join(names),
        )

    def derived(self, target: Target) -> nn.Module:
        """Other channels than it has."""
        matrix = schemes.matrix(target.scheme, self._base_bands(), target.bands)
        return self._made(matrix, target.scheme, target.short)

    def prove(self, device: torch.device) -> ProofResult:
        """The proof of the variant as it is stored, once more.

        Raises ValidationError where it should compute base(M·x) and doesn't.
        """
        rule = schemes.get(self.config["zooadapt"]["scheme"])
        return self._proved(self.tensors, rule, stored_matrix(self.config), device)

    def _made(self, matrix: Tensor, scheme: str, short: str) -> nn.Module:
        """A variant for a (B, N) matrix, made by the job's own code and proved."""
        rule, chans = schemes.get(scheme), matrix.shape[1]
        made = stems.adapt(self.originals, described_stems(self.config), rule, matrix)
        tensors = {**self.tensors, **made}
        result = self._proved(tensors, rule, matrix, torch.device("cpu"))
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

    def _proved(
        self, tensors: dict[str, Tensor], rule: schemes.Scheme, matrix: Tensor, device: torch.device
    ) -> ProofResult:
        """The proof of a variant of these tensors. Raises ValidationError."""
        found, (base_chans, chans) = described_stems(self.config), matrix.shape
        prover = validate.Prover(
            base=self._built({**self.tensors, **self.originals}, base_chans),
            stems=found,
            originals=self.originals,
            input_size=tuple(self.config["pretrained_cfg"]["input_size"][1:]),
            device=device,
        )
        result = prover.prove(self._built(tensors, chans), rule, matrix)
        validate.check(result, found, rule, matrix)
        return result

    def _built(self, tensors: dict[str, Tensor], in_chans: int | None = None) -> nn.Module:
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / publish.CONFIG).write_text(json.dumps(self.config))
            return self.zoo.load(Path(name), tensors, in_chans)

    def _base_bands(self) -> Bands:
        """The channels of the original weights."""
        channels = self.config["zooadapt"]["source"]["bands"]
        bands = tuple(Band(band["name"], band["wavelength"], band["width"]) for band in channels)
        named = RGB if bands == RGB.channels else Bands("base", bands)
        return named if all(band.name for band in bands) else Bands.counted(len(bands))
