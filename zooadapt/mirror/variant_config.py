"""A variant's config.json: the zoo's own, with what it takes to make and prove any other variant.

What the job writes into its section ``zooadapt`` and what readers find there again.
"""

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from zooadapt.adapt import contract
from zooadapt.mirror.records import ADAPTER_VERSION
from zooadapt.targets import Bands, Target
from zooadapt.types import Adapted, Gain, ModelFacts, Stem
from zooadapt.zoos.protocol import Zoo


def describe(
    adapted: Adapted, zoo: Zoo, base: nn.Module, target: Target, matrix: Tensor
) -> dict[str, Any]:
    """The content of a variant's config.json; `matrix` is M, (B, N), and `base` has B channels."""
    config = zoo.config(adapted.entry, base, facts_for(adapted.facts, target.bands, matrix))
    return {
        **config,
        "zooadapt": {
            "adapter_version": ADAPTER_VERSION,
            "scheme": target.scheme,
            "bands": list(target.bands.names),
            "source": {
                "bands": [asdict(band) for band in adapted.facts.bands.channels],
                "mean": list(adapted.facts.mean),
                "std": list(adapted.facts.std),
            },
            "matrix": matrix.tolist(),
            "stems": [asdict(stem) for stem in adapted.stems],
            "source_stem": f"../{adapted.source_stem.split('/', 3)[-1]}",
            "source_sha256": adapted.checkpoint.sha256,
            **_companions(zoo, config),
        },
    }


def redescribed(config: dict[str, Any], zoo: Zoo, target: Target, matrix: Tensor) -> dict[str, Any]:
    """The config.json of another variant of the same checkpoint, as `describe` gives it."""
    ours = config["zooadapt"]
    source = ours["source"]
    mean, std = (tuple(contract.mix_statistics(source[of], matrix)) for of in ("mean", "std"))
    changed: dict[str, Any] = {
        "scheme": target.scheme,
        "bands": list(target.bands.names),
        "matrix": matrix.tolist(),
    }
    changed |= _companions(zoo, config := zoo.with_channels(config, mean, std))
    return {**config, "zooadapt": {**ours, **changed}}


def _companions(zoo: Zoo, config: dict[str, Any]) -> dict[str, Any]:
    """What `names.companions` will find, if there is any."""
    files = zoo.companions(config)
    return {"companions": dict(files)} if files else {}


def facts_for(facts: ModelFacts, bands: Bands, matrix: Tensor) -> ModelFacts:
    """The facts for the N `bands` that a (B, N) matrix makes."""
    return replace(
        facts,
        bands=bands,
        mean=tuple(contract.mix_statistics(facts.mean, matrix)),
        std=tuple(contract.mix_statistics(facts.std, matrix)),
    )


def described_stems(config: dict[str, Any]) -> list[Stem]:
    """The stems that a config.json describes."""
    return [_stem(described) for described in config["zooadapt"]["stems"]]


def stored_matrix(config: dict[str, Any]) -> Tensor:
    """The (B, N) matrix of a config.json."""
    return torch.tensor(config["zooadapt"]["matrix"], dtype=torch.float64)


def _stem(described: dict[str, Any]) -> Stem:
    gain = described["gain"]
    return Stem(**{**described, "gain": Gain(**gain) if gain else None})
