"""A variant's config.json: the job writes it, and readers read it.

It is the config of the zoo's library, and a section ``zooadapt`` with all that is needed to make
and prove any other variant of the model.
"""

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from zooadapt.adapt import contract
from zooadapt.mirror.records import ADAPTER_VERSION
from zooadapt.names import NOTE
from zooadapt.targets import Bands, Target
from zooadapt.types import Adapted, ModelFacts
from zooadapt.zoos.protocol import Zoo


def describe(
    adapted: Adapted, zoo: Zoo, base: nn.Module, target: Target, matrix: Tensor
) -> dict[str, Any]:
    """The content of a variant's config.json. `base` has B channels; `matrix` is M (B, N)."""
    config = zoo.config(adapted.entry, base, facts_for(adapted.facts, target.bands, matrix))
    config = _noted(config, target.bands)
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
    """The content of config.json for `target`, given that of any variant of the same checkpoint.

    It equals what `describe` gives. `matrix` is M (B, N) for the target.
    """
    section = config["zooadapt"]
    source = section["source"]
    mean, std = (tuple(contract.mix_statistics(source[name], matrix)) for name in ("mean", "std"))
    changed: dict[str, Any] = {
        "scheme": target.scheme,
        "bands": list(target.bands.names),
        "matrix": matrix.tolist(),
    }
    config = _noted(zoo.with_channels(config, target.in_chans, mean, std), target.bands)
    changed |= _companions(zoo, config)
    return {**config, "zooadapt": {**section, **changed}}


def _noted(config: dict[str, Any], bands: Bands) -> dict[str, Any]:
    """The config with the bands' names in timm's notes, which timm keeps when it saves a model."""
    cfg = config.get("pretrained_cfg")
    if cfg is None:
        return config
    notes = [note for note in cfg.get("notes") or () if not str(note).startswith(NOTE)]
    notes += [NOTE + ",".join(bands.names)] if bands.names else []
    noted = {**cfg, "notes": notes}
    if not notes:
        del noted["notes"]
    return {**config, "pretrained_cfg": noted}


def _companions(zoo: Zoo, config: dict[str, Any]) -> dict[str, Any]:
    """The part of the section that `names.companions` reads; {} for a zoo without companions."""
    files = zoo.companions(config)
    return {"companions": dict(files)} if files else {}


def facts_for(facts: ModelFacts, bands: Bands, matrix: Tensor) -> ModelFacts:
    """The facts of the variant for N `bands`; `matrix` is its M (B, N)."""
    return replace(
        facts,
        bands=bands,
        mean=tuple(contract.mix_statistics(facts.mean, matrix)),
        std=tuple(contract.mix_statistics(facts.std, matrix)),
    )


def stored_matrix(config: dict[str, Any]) -> Tensor:
    """The matrix M (B, N) that a config.json states, in float64."""
    return torch.tensor(config["zooadapt"]["matrix"], dtype=torch.float64)
