"""Measure, on seeded random weights, how exactly a zoo's architectures can be adapted.

The job's own code adapts, loads and proves every architecture. Small models are run whole. Of large
models only the stems are run, and the body never gets values. Each row also tells what timm's own
loader makes of the same stem.
"""

import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from jobs.measure import seeded, timm_parity
from zooadapt import targets
from zooadapt.adapt import contract, schemes
from zooadapt.errors import StageError, StemError, Unsupported, ValidationError, one_line, stage
from zooadapt.mirror.variant_config import facts_for
from zooadapt.names import CONFIG
from zooadapt.pipeline import inspect
from zooadapt.proof import compare, devices, verdict
from zooadapt.targets import Bands
from zooadapt.types import ModelEntry, ModelFacts, ProofResult, Stem
from zooadapt.zoos.meta import shapes_only
from zooadapt.zoos.protocol import Zoo
from zooadapt.zoos.registry import get
from zooadapt.zoos.timm import TimmZoo

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Measured:
    """The result for one architecture with N channels under one scheme."""

    architecture: str
    model: str
    """The model whose input size was used."""
    in_chans: int
    scheme: str
    params: int = 0
    status: str = "adapted"
    """`adapted`, `unsupported` or `failed`."""
    reason: str = ""
    """Why the architecture isn't adapted."""
    use: str = ""
    """What the forward pass does before it applies the stems; see `Stem`."""
    timm: str = ""
    """What timm's own loader makes of the stem, against the scheme `repeat`; see `timm_parity`:
    `equal`, `random`, `differs`, or `fails` (the model's first forward pass raises); "" for other
    zoos."""
    equivalence_error: float = math.nan
    """NaN where nothing was run; so is `control_error`."""
    control_error: float = math.nan
    equivalent: bool = False
    proof: str = ""
    """forward, stem, or "" where nothing was run."""
    changed: str | None = None
    """Why the function is another one, and which scheme keeps it; None where it isn't."""
    seconds: float = 0.0


def measure(
    entry: ModelEntry,
    chans: Sequence[int],
    scheme: str,
    forward_params: float,
    device: torch.device = _CPU,
) -> list[Measured]:
    """A row for each of `chans`.

    Models with up to `forward_params` parameters are run whole, on the device. Of larger ones only
    the stems are run, on the CPU.
    """
    zoo = get(entry.zoo)
    rows = [Measured(entry.architecture, entry.name, count, scheme) for count in chans]
    try:
        with stage(StemError):
            facts = zoo.facts(entry)
            base, _, found = inspect(entry, zoo, facts)
    except StageError as error:
        status = "unsupported" if isinstance(error, Unsupported) else "failed"
        return [
            replace(
                row,
                status=status,
                reason=one_line(error),
                timm=timm_parity.unadapted(entry.name, row.in_chans) if by_timm(entry) else "",
            )
            for row in rows
        ]
    params, prove = sum(parameter.numel() for parameter in base.parameters()), _prove_stems
    try:
        with stage(ValidationError):
            if params <= forward_params:
                size = (facts.chans, *facts.size)
                base = seeded.model(lambda: zoo.build(entry, facts.chans), size)
                prove = _prove_whole
            else:
                seeded.give_values(base, [name for stem in found for name in stem.tensors])
    except StageError as error:
        return [replace(row, status="failed", reason=one_line(error)) for row in rows]
    rows = [replace(row, params=params, use=found[0].use) for row in rows]
    with devices.turn(device):
        subject = _Subject(entry, zoo, facts, found, base, device)
        measured = [_measured(row, subject, prove) for row in rows]
        del subject  # which holds the model on the device
    return measured


@dataclass(frozen=True)
class _Subject:
    """An architecture and its model. At least the model's stems have seeded values."""

    entry: ModelEntry
    zoo: Zoo
    facts: ModelFacts
    stems: tuple[Stem, ...]
    base: nn.Module
    device: torch.device
    """The device on which whole models are run."""

    def originals(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """The stems' tensors in a stored dtype."""
        state = self.base.state_dict()
        return {name: state[name].to(dtype) for stem in self.stems for name in stem.tensors}

    def adapted(
        self, scheme: str, count: int, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """The stems' tensors for `count` channels."""
        matrix = schemes.matrix(scheme, self.facts.chans, count)
        return contract.adapt(self.originals(dtype), self.stems, targets.get_scheme(scheme), matrix)

    def load(
        self, tensors: Mapping[str, Tensor], matrix: Tensor, in_chans: int | None = None
    ) -> nn.Module:
        """The model that a variant's config.json describes, loaded as in the job.

        `matrix` is the variant's M, (B, N). The model has N channels, or `in_chans`.
        """
        facts = facts_for(self.facts, Bands.counted(matrix.shape[1]), matrix)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / CONFIG).write_text(json.dumps(self.zoo.config(self.entry, self.base, facts)))
            return self.zoo.load(folder, tensors, in_chans=in_chans)

    @cached_property
    def prover(self) -> compare.Prover:
        """The prover of whole variants, which keeps the model's own outputs for all of them."""
        chans = self.facts.chans
        variant = schemes.matrix("repeat", chans, chans + 1)  # the job takes any variant's config
        return compare.Prover(
            base=self.load(self.base.state_dict(), variant, in_chans=chans),
            stems=self.stems,
            originals=self.originals(),
            shape=(chans, *self.facts.size),
            device=self.device,
        )


_Prove = Callable[[_Subject, nn.Module, str, Tensor], ProofResult]


def _measured(row: Measured, subject: _Subject, prove: _Prove) -> Measured:
    """The row, completed by the results of the adapted model."""
    started = time.monotonic()
    matrix = schemes.matrix(row.scheme, subject.facts.chans, row.in_chans)
    try:
        with stage(ValidationError):
            with shapes_only():
                empty = subject.zoo.build(subject.entry, row.in_chans).eval()
            if by_timm(subject.entry):
                row = replace(row, timm=_parity(subject, empty, row.in_chans))
            result = prove(subject, empty, row.scheme, matrix)
            row = replace(row, **asdict(result))
            verdict.check(result, subject.stems, targets.get_scheme(row.scheme), matrix.tolist())
    except StageError as error:
        row = replace(row, status="failed", reason=one_line(error))
    return replace(row, seconds=time.monotonic() - started)


def by_timm(entry: ModelEntry) -> bool:
    """Whether timm's own loader knows the model by name, so that the stems can be compared."""
    return type(get(entry.zoo)) is TimmZoo


def _parity(subject: _Subject, model: nn.Module, count: int) -> str:
    def adapted(dtype: torch.dtype) -> dict[str, Tensor]:
        return subject.adapted("repeat", count, dtype)

    return timm_parity.verdict(model, count, subject.originals, adapted)


def _prove_stems(subject: _Subject, empty: nn.Module, scheme: str, matrix: Tensor) -> ProofResult:
    """Prove the stems alone. Modules after the last stem stay on the meta device."""
    adapted = subject.adapted(scheme, matrix.shape[1])
    empty.load_state_dict(adapted, strict=False, assign=True)
    with seeded.materialised_on_demand(empty, subject.base):
        return compare.prove_stems(empty, subject.base, subject.stems, matrix, subject.facts.size)


def _prove_whole(subject: _Subject, empty: nn.Module, scheme: str, matrix: Tensor) -> ProofResult:
    """Prove the whole model."""
    adapted = subject.adapted(scheme, matrix.shape[1])
    variant = subject.load({**subject.base.state_dict(), **adapted}, matrix)
    return subject.prover.prove(variant, targets.get_scheme(scheme), matrix)


def summary(rows: pd.DataFrame) -> str:
    """The numbers of architectures by channel count, as a Markdown table.

    `rows` has the fields of `Measured` as columns.
    """
    adapted = rows["status"] == "adapted"
    changed = adapted & ~rows["equivalent"]
    lines = {
        "architectures": rows["status"].notna(),
        "adapted, computes base(M·x)": adapted & rows["equivalent"],
        "adapted, function changed: weight standardised": changed & (rows["use"] == "standardise"),
        "adapted, function changed: image shifted": changed & (rows["use"] == "shift"),
        "unsupported, with the reason": rows["status"] == "unsupported",
        "failed": rows["status"] == "failed",
        "timm: the same stem, bit for bit": rows["timm"] == "equal",
        "timm: first layer left random": rows["timm"] == "random",
        "timm: another stem": rows["timm"] == "differs",
        "timm: the first forward pass raises": rows["timm"] == "fails",
    }
    if not rows["timm"].any():
        lines = {name: chosen for name, chosen in lines.items() if not name.startswith("timm")}
    counts = [f"| {name} | {_cells(chosen, rows)} |" for name, chosen in lines.items()]
    exact = rows[adapted & rows["equivalent"]].groupby("in_chans")
    chans = sorted(rows["in_chans"].unique())
    worst = exact["equivalence_error"].max().reindex(chans)
    least = exact["control_error"].min().reindex(chans)
    return "\n".join(
        [
            "| channels | " + " | ".join(map(str, chans)) + " |",
            "| --- |" + " ---: |" * len(chans),
            *counts,
            "| largest error | " + " | ".join(f"{worst[n]:.1e}" for n in chans) + " |",
            "| smallest control | " + " | ".join(f"{least[n]:.1e}" for n in chans) + " |",
            *_reasons(rows),
        ]
    )


def _reasons(rows: pd.DataFrame) -> list[str]:
    """Why architectures aren't adapted, the most frequent reason first, as a Markdown table."""
    lacking = rows[rows["status"] != "adapted"].drop_duplicates(["architecture", "reason"])
    counts = Counter(zip(lacking["status"], lacking["reason"], strict=True))
    lines = [f"| {status} | {count:,} | {why} |" for (status, why), count in counts.most_common()]
    return ["", "| | architectures | why |", "| --- | ---: | --- |", *lines] if lines else []


def _cells(chosen: pd.Series, rows: pd.DataFrame) -> str:
    counts = chosen.groupby(rows["in_chans"]).sum().sort_index()
    return " | ".join(f"{count:,}" for count in counts)
