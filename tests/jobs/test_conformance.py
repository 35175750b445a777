"""Every family is adapted as designed, and compared with timm's own loader; mutants are caught."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn

from jobs.measure import conformance
from jobs.measure.conformance import Measured
from tests.support.jobs import ROOT, ok
from tests.support.mutants import rolled
from zooadapt import targets
from zooadapt.adapt import contract, schemes
from zooadapt.mirror import variant_config
from zooadapt.proof import devices
from zooadapt.targets import Bands
from zooadapt.types import Layer, ModelEntry, Stem
from zooadapt.zoos import timm_layers
from zooadapt.zoos.registry import get, list_models

LOG = logging.getLogger(__name__)
STEMS_ONLY = 0.0
CHANS = (1, 4)

ENTRIES = {entry.architecture: entry for entry in reversed(list_models("timm"))}


def family(architecture: str) -> str:
    """The module of timm that defines the architecture."""
    return str(timm.models._registry._model_to_module[architecture])


def one_of_each_family() -> list[str]:
    """The first architecture of every family of timm that has pretrained weights."""
    first: dict[str, str] = {}
    for architecture in sorted(ENTRIES):
        first.setdefault(family(architecture), architecture)
    return sorted(first.values())


def measured(architecture: str, *chans: int, scheme: str = "repeat") -> list[Measured]:
    return conformance.measure(ENTRIES[architecture], chans, scheme, STEMS_ONLY)


def whole(architecture: str, *chans: int, scheme: str = "repeat") -> list[Measured]:
    return conformance.measure(ENTRIES[architecture], chans, scheme, 1e9)


def test_the_sample_is_large_enough() -> None:
    assert len(one_of_each_family()) >= 60


@pytest.mark.parametrize("architecture", one_of_each_family())
def test_every_family(architecture: str) -> None:
    for row in measured(architecture, *CHANS):
        if architecture.startswith("csatv2"):
            assert (row.status, row.timm) == ("unsupported", "fails")
            continue
        assert row.status == "adapted", row.reason
        assert row.timm == ("random" if "gemma4" in architecture or random(row) else "equal")
        assert row.equivalent or row.use != "plain"
        assert row.control_error > 0.1


def random(row: Measured) -> bool:
    """Whether timm 1.0.31 leaves the first layer of the row's model random."""
    linear = row.architecture.startswith("naflexvit")
    return linear or (row.architecture.startswith("tresnet") and row.in_chans > 1)


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "repvgg_a0", "test_vit", "test_byobnet", "test_efficientnet"]
)
def test_parity_with_timm_in_all_dtypes(architecture: str) -> None:
    rows = measured(architecture, 1, 2, 4, 6, 8, 13, 25)
    assert [row.timm for row in rows] == ["equal"] * 7


@pytest.mark.parametrize("architecture", ["tresnet_m", "naflexvit_base_patch16_gap"])
def test_what_timm_leaves_random_is_adapted(architecture: str) -> None:
    for row in measured(architecture, 2, 4, 13):
        assert (row.timm, row.equivalent) == ("random", True)


def test_a_standardised_stem_has_its_true_figure() -> None:
    for row in whole("test_nfnet", *CHANS):
        assert (row.status, row.equivalent, row.timm) == ("adapted", False, "equal")
        assert row.equivalence_error > 0.01


@pytest.mark.parametrize("chans", [1, 3, 6, 12])
def test_preserve_keeps_the_function_of_a_standardised_stem(chans: int) -> None:
    (row,) = whole("test_nfnet", chans, scheme="preserve")
    assert row.equivalent


@pytest.mark.parametrize("chans", [4, 8, 25])
def test_preserve_comes_nearer_than_repeat_where_it_cannot_be_exact(chans: int) -> None:
    (kept,), (changed,) = (whole("test_nfnet", chans, scheme=s) for s in ("preserve", "repeat"))
    assert not kept.equivalent
    assert kept.equivalence_error < 0.5 * changed.equivalence_error


def test_a_shifted_image_is_exact_where_the_matrix_keeps_the_shift() -> None:
    rows = measured("gemma4_vit_167m", 1, 4, 6)
    assert [row.equivalent for row in rows] == [True, False, True]
    assert all(row.equivalent for row in measured("gemma4_vit_167m", 4, 8, scheme="mean"))


@pytest.mark.parametrize("scheme", ["pad", "mean"])
@pytest.mark.parametrize("architecture", ["test_resnet", "crossvit_9_240", "tresnet_m"])
def test_other_schemes_are_proved_in_the_same_way(architecture: str, scheme: str) -> None:
    for row in measured(architecture, 1, 2, 5, 12, scheme=scheme):
        assert row.equivalent, row


# Mutants of the stem code

Contract = Callable[[Tensor, Tensor], Tensor]
CONTRACT = contract.contract  # as it is before a mutant takes its place


def unscaled(weight: Tensor, matrix: Tensor) -> Tensor:
    return CONTRACT(weight, (matrix != 0).double())


def one_channel_lost(weight: Tensor, matrix: Tensor) -> Tensor:
    adapted = CONTRACT(weight, matrix)
    adapted[:, -1] = 0
    return adapted


def source_permuted(weight: Tensor, matrix: Tensor) -> Tensor:
    return CONTRACT(weight.roll(1, dims=1), matrix)


def two_channels_swapped(weight: Tensor, matrix: Tensor) -> Tensor:
    adapted = CONTRACT(weight, matrix)
    return torch.cat([adapted[:, 1:2], adapted[:, :1], adapted[:, 2:]], dim=1)


def one_filter_off(weight: Tensor, matrix: Tensor) -> Tensor:
    adapted = CONTRACT(weight, matrix)
    adapted[-1, -1] += 0.1
    return adapted


KINDS = {
    "a convolution": ("test_resnet", "repeat", 4),
    "a convolution, as many channels": ("test_resnet", "repeat", 3),
    "patches": ("test_vit", "repeat", 25),
    "two stems": ("crossvit_9_240", "repeat", 4),
    "branches that are added": ("repvgg_a0", "repeat", 4),
    "space-to-depth": ("tresnet_m", "repeat", 4),
    "linear patches, channels last": ("naflexvit_base_patch16_gap", "repeat", 4),
    "linear patches, channels first, shifted": ("gemma4_vit_167m", "repeat", 6),
    "a standardised weight": ("test_nfnet", "preserve", 6),
    "two channels, made from their own image": ("test_resnet", "repeat", 2),
}
"""The architecture, scheme and number of channels of an exact variant, by the kind of its stem."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "mutant",
    [rolled, unscaled, one_channel_lost, source_permuted, two_channels_swapped, one_filter_off],
)
def test_a_wrong_contraction_is_caught(
    kind: str, mutant: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, scheme, chans = KINDS[kind]
    (right,) = measured(architecture, chans, scheme=scheme)
    assert (right.status, right.equivalent) == ("adapted", True)
    monkeypatch.setattr(contract, "contract", mutant)
    (row,) = measured(architecture, chans, scheme=scheme)
    same = (mutant, chans) == (unscaled, 3)  # N = 3 is scaled by 1
    assert (row.status, row.equivalent) == (("adapted", True) if same else ("failed", False))
    assert same or "doesn't compute base(M·x)" in row.reason


@pytest.mark.parametrize(
    "architecture", ["tresnet_m", "naflexvit_base_patch16_gap", "gemma4_vit_167m"]
)
def test_a_swapped_layout_is_caught(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = timm_layers.layer

    def swapped(model: nn.Module, name: str, chans: int) -> Layer:
        right = layer(model, name, chans)
        assert right is not None
        return replace(right, channels_last=not right.channels_last)

    monkeypatch.setattr(timm_layers, "layer", swapped)
    (row,) = measured(architecture, 6)
    assert not row.equivalent


@pytest.mark.parametrize("architecture", ["crossvit_9_240", "repvgg_a0"])
def test_a_forgotten_stem_is_caught(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapt = contract.adapt

    def forgetful(tensors: dict[str, Tensor], found: tuple[Stem, ...], *how: object) -> object:
        right = adapt(tensors, found, *how)  # type: ignore[arg-type]
        wrong = adapt(tensors, found[-1:], targets.get_scheme("pad"), schemes.pad(3, 4))
        return right | wrong

    monkeypatch.setattr(contract, "adapt", forgetful)
    (row,) = measured(architecture, 4)
    assert (row.status, row.equivalent) == ("failed", False)


# The command


def command(*options: str) -> subprocess.CompletedProcess[str]:
    """What the script does with these options."""
    script = [sys.executable, "jobs/conformance.py", *options]
    return subprocess.run(script, cwd=ROOT, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--device", "gpu", "device gpu: variants are proved on cpu, or on cuda"),
        ("--models", "nothing", "--models nothing matches no model of the zoo"),
    ],
)
def test_bad_options_are_one_line(option: str, value: str, said: str, tmp_path: Path) -> None:
    done = command(option, value, "--out", str(tmp_path / "conformance.parquet"))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_prints_writes_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "conformance.parquet"
    options = [
        "--models", "test_resnet,csatv2,test_nfnet",
        "--chans", "1,4", "--workers", "1", "--out", str(out),
    ]  # fmt: skip
    printed = ok(command(*options))
    assert "test_resnet 4ch: adapted, timm: equal" in printed
    assert "| adapted, computes base(M·x) | 1 | 1 |" in printed
    assert "| unsupported, with the reason | 1 | 1 |" in printed
    rows = pd.read_parquet(out)
    assert len(rows) == 6
    assert rows["proof"].value_counts().to_dict() == {"forward": 4, "": 2}
    again = ok(command(*options))
    assert "test_resnet 4ch" not in again
    assert again.split("\n\n")[-1] == printed.split("\n\n")[-1]


# Rebuilding from config.json


def rebuilt(entry: ModelEntry, folder: Path) -> None:
    """Build the entry's 5-channel variant from its config.json, and compare all shapes."""
    zoo = get("timm")
    facts, bands = zoo.facts(entry), Bands.counted(5)
    facts = variant_config.facts_for(facts, bands, schemes.matrix("repeat", facts.bands, bands))
    with torch.device("meta"):
        base, wanted = zoo.build(entry, 3), zoo.build(entry, 5)
        (folder / "config.json").write_text(json.dumps(zoo.config(entry, base, facts)))
        got = timm.create_model(f"local-dir:{folder}")
    shapes, expected = ({n: t.shape for n, t in m.state_dict().items()} for m in (got, wanted))
    assert shapes == expected


@pytest.mark.parametrize(
    "architecture",
    [
        "resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "crossvit_9_240",
        "repvgg_a0", "fastvit_t8", "tresnet_m", "naflexvit_base_patch16_gap", "gemma4_vit_167m",
        "coat_tiny", "test_nfnet", "efficientnet_b1_pruned", "ecaresnet50d_pruned", "levit_128s",
    ],
)  # fmt: skip
def test_a_variant_is_built_from_its_config(architecture: str, tmp_path: Path) -> None:
    rebuilt(ENTRIES[architecture], tmp_path)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("architecture", one_of_each_family()[::2])
def test_a_proof_on_a_gpu_says_what_one_on_the_cpu_says(architecture: str) -> None:
    of = ENTRIES[architecture], (1, 4, 8, 25), "repeat", 50e6
    here = conformance.measure(*of)
    for cpu, gpu in zip(here, conformance.measure(*of, device=devices.best()), strict=True):
        LOG.info(
            "%s %d: error %.1e on the CPU, %.1e here; control %.1e, %.1e",
            architecture, cpu.in_chans, cpu.equivalence_error, gpu.equivalence_error,
            cpu.control_error, gpu.control_error,
        )  # fmt: skip
        assert (gpu.status, gpu.equivalent, gpu.proof) == (cpu.status, cpu.equivalent, cpu.proof)
        assert gpu.control_error == pytest.approx(cpu.control_error, rel=0.02, nan_ok=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_variant_of_every_tag_is_built_from_its_config(tmp_path: Path) -> None:
    entries = list_models("timm")
    assert len(entries) >= 1826
    for entry in entries:
        rebuilt(entry, tmp_path)


def test_a_summary_without_an_equivalent_row() -> None:
    rows = pd.DataFrame([asdict(row) for row in measured("csatv2", 4)])
    assert "| largest error | nan |" in conformance.summary(rows)
