"""Read published variants back and prove them: each gives a row of the manifest, or a failure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zooadapt import __version__, targets, types
from zooadapt.adapt import schemes
from zooadapt.checkpoints.scratch import scratch_folder
from zooadapt.errors import (
    DeviceLost,
    StageError,
    StoreUnreachable,
    ValidationError,
    one_line,
    reaching_store,
    stage,
)
from zooadapt.mirror.columns import Loaded, stated_variant
from zooadapt.mirror.read_back import Reader
from zooadapt.mirror.variant_config import facts_for
from zooadapt.proof import compare, devices, verdict
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
    changed: tuple[str, ...]
    """Those of `made` that aren't equivalent."""
    why_changed: tuple[str, ...]
    """By how much each of `changed` differs, and why."""
    failures: tuple[Failure, ...]
    bytes: int
    """The bytes of the variants' model.safetensors files, failures included."""
    full: bool = False
    """Whether a variant failed because the device had no memory left."""


def prove(adapted: Adapted, store: Store, device: torch.device) -> Proved:
    """Prove every variant on the device; if its memory runs out, again without other processes.

    Raises StoreUnreachable, and DeviceLost after an error from which CUDA doesn't recover in the
    same process.
    """

    def prove_all() -> Proved:
        with scratch_folder() as folder:
            return Series(adapted, Reader(store, folder), device).prove(adapted.variants)

    with devices.turn(device):
        proofs = prove_all()
    if not proofs.full:
        return proofs
    with devices.turn(device, alone=True):
        return prove_all()


class Series:
    """The proofs of a model's variants, one after the other, on one device."""

    def __init__(
        self,
        adapted: Adapted,
        reader: Reader,
        device: torch.device,
        base: nn.Module | None = None,
        proves: bool = True,
    ) -> None:
        """`base` is the model with the checkpoint's tensors, if this process has it.

        If not, it is built from the original stem and the first variant's body, which equal the
        checkpoint's: the stored bytes have the hash that was computed from the checkpoint. If not
        `proves`, nothing is run: only the stored bits are compared.
        """
        self._proves = proves
        self._adapted, self._reader, self._device = adapted, reader, device
        self._zoo = registry.get(adapted.entry.zoo)
        self._prover = None if base is None else self._prover_of(base)

    def measure(self) -> None:
        """Run the base, if it is there. An error is left to the proofs, which meet it again."""
        if self._prover and self._proves:
            with suppress(Exception):
                self._prover.measure()

    def prove(self, variants: Iterable[Published]) -> Proved:
        """Prove the variants. Raises StoreUnreachable, and DeviceLost as `published.prove` does."""
        rows, made, failures, size, full = [], [], [], 0, False
        changed: dict[str, str] = {}
        for variant in variants:
            size += variant.bytes
            try:
                with stage(ValidationError):
                    rows.append(self._row(variant))
                    made.append(variant.target.short)
                    result = types.ProofResult.of(rows[-1])
                    if not result.equivalent:
                        changed[made[-1]] = verdict.said(result)
            except StoreUnreachable:
                raise
            except StageError as error:
                if _DEVICE_ERROR.search(str(error)):
                    raise DeviceLost(one_line(error)) from error
                full = full or devices.is_full(error)
                failures.append(Failure.of(variant.target, error))
        told = tuple(changed), tuple(changed.values())
        return Proved(tuple(rows), tuple(made), *told, tuple(failures), size, full)

    def _row(self, variant: Published) -> types.Row:
        """The variant's row of the manifest. Raises ValidationError where the proof fails."""
        adapted, facts, target = self._adapted, self._adapted.facts, variant.target
        with reaching_store():
            tensors, verification = self._reader.read(variant)
        matrix = schemes.matrix(target.scheme, facts.bands, target.bands)
        scheme = targets.get_scheme(target.scheme)
        model = self._zoo.load(self._reader.folder, tensors)
        params = sum(parameter.numel() for parameter in model.parameters())
        prover = self._prover_for(tensors)
        if self._proves:
            result = prover.prove(model, scheme, matrix)
            result = verdict.check(result, adapted.stems, scheme, matrix.tolist())
        else:
            result = prover.check(model, scheme, matrix)
        loaded = Loaded(
            params=params,
            weights_dtype=_main_dtype(tensors),
            verification=verification,
            checked_on=devices.name(self._device) if self._proves else "",
            zooadapt_version=__version__,
            timm_version=self._zoo.version(),
            torch_version=torch.__version__,
        )
        own_facts = facts_for(facts, target.bands, matrix)
        return stated_variant(adapted, variant, own_facts, result, loaded)

    def _prover_for(self, tensors: Mapping[str, Tensor]) -> compare.Prover:
        """The prover, which is made for the first of the variants, whose `tensors` these are."""
        if self._prover is None:
            folder, chans = self._reader.folder, self._adapted.facts.chans
            base = self._zoo.load(folder, {**tensors, **self._originals()}, in_chans=chans)
            self._prover = self._prover_of(base)
        return self._prover

    def _prover_of(self, base: nn.Module) -> compare.Prover:
        facts = self._adapted.facts
        shape = (facts.chans, *facts.size)
        return compare.Prover(base, self._adapted.stems, self._originals(), shape, self._device)

    def _originals(self) -> dict[str, Tensor]:
        with reaching_store():
            return self._reader.originals(self._adapted.source_stem)


def _main_dtype(tensors: dict[str, Tensor]) -> str:
    """The dtype of the tensors that has the most bytes, such as "float32"."""
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    return sizes.most_common(1)[0][0]
