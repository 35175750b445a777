"""Read published variants back and prove them: each gives a row of the manifest, or a failure."""

import re
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from zooadapt import __version__, targets, types
from zooadapt.adapt import schemes
from zooadapt.checkpoints.scratch import scratch_folder
from zooadapt.errors import DeviceLost, StageError, ValidationError, one_line, stage
from zooadapt.mirror.columns import Loaded, stated_variant
from zooadapt.mirror.read_back import Reader
from zooadapt.mirror.variant_config import facts_for
from zooadapt.proof import compare, devices
from zooadapt.stores.store import Store
from zooadapt.types import Adapted, Failure, Published
from zooadapt.zoos import registry

_DEVICE_ERROR = re.compile(r"\b(CUDA|HIP) error\b")
"""Matches torch's errors after which a process can't use its GPU, but not a lack of memory."""


@dataclass(frozen=True)
class Proved:
    """The outcome of proving a model's variants."""

    rows: tuple[types.Row, ...]
    made: tuple[str, ...]
    """The variants that have rows, as `Target.short`."""
    failures: tuple[Failure, ...]
    full: bool = False
    """Whether a variant failed because the device had no memory left."""


def prove(adapted: Adapted, store: Store, device: torch.device) -> Proved:
    """Prove every variant on the device; if its memory runs out, again without other processes.

    Raises DeviceLost after an error from which CUDA doesn't recover in the same process.
    """
    with devices.turn(device):
        proofs = _prove_all(adapted, store, device)
    if not proofs.full:
        return proofs
    with devices.turn(device, alone=True):
        return _prove_all(adapted, store, device)


def _prove_all(adapted: Adapted, store: Store, device: torch.device) -> Proved:
    rows, made, failures, full = [], [], [], False
    with scratch_folder() as folder:
        reader, prover = Reader(store, folder), None
        for variant in adapted.variants:
            try:
                with stage(ValidationError):
                    row, prover = prove_one(adapted, variant, reader, prover, device)
                    rows.append(row)
                    made.append(variant.target.short)
            except StageError as error:
                if _DEVICE_ERROR.search(str(error)):
                    raise DeviceLost(one_line(error)) from error
                full = full or devices.is_full(error)
                failures.append(Failure.of(variant.target, error))
    return Proved(tuple(rows), tuple(made), tuple(failures), full)


def prove_one(
    adapted: Adapted,
    variant: Published,
    reader: Reader,
    prover: compare.Prover | None,
    device: torch.device,
) -> tuple[types.Row, compare.Prover]:
    """The variant's row of the manifest, and the prover, which all variants of the model share.

    The prover is made here for the first variant, where `prover` is None. Raises ValidationError
    where the variant can't be read back, or its proof fails.
    """
    zoo, folder, facts = registry.get(adapted.entry.zoo), reader.folder, adapted.facts
    tensors, verification = reader.read(variant)
    target = variant.target
    matrix = schemes.matrix(target.scheme, facts.bands, target.bands)
    scheme = targets.get_scheme(target.scheme)
    if prover is None:
        originals = reader.originals(adapted.source_stem)
        base = zoo.load(folder, {**tensors, **originals}, in_chans=facts.chans)
        prover = compare.Prover(base, adapted.stems, originals, facts.size, device)
    model = zoo.load(folder, tensors)
    params = sum(parameter.numel() for parameter in model.parameters())
    result = prover.prove(model, scheme, matrix)
    compare.check(result, adapted.stems, scheme, matrix)
    loaded = Loaded(
        params=params,
        weights_dtype=_main_dtype(tensors),
        verification=verification,
        checked_on=devices.name(device),
        zooadapt_version=__version__,
        timm_version=zoo.version(),
        torch_version=torch.__version__,
    )
    own_facts = facts_for(facts, target.bands, matrix)
    return stated_variant(adapted, variant, own_facts, result, loaded), prover


def _main_dtype(tensors: dict[str, Tensor]) -> str:
    """The dtype of the tensors that has the most bytes, such as "float32"."""
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    return sizes.most_common(1)[0][0]
