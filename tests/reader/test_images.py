"""Images in their own units are normalised, and mistakes in feeding a model can be seen."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import Tensor

import zooadapt
from jobs.transfer_check import photographs, scene
from tests.conftest import SMALL
from tests.support.pipelines import entry, run
from zooadapt import bands
from zooadapt.errors import UsageError
from zooadapt.reader.mirror import Mirror, open_mirror
from zooadapt.targets import Target

SENSOR = bands.preset("sentinel2-l2a")
NAMES = list(SENSOR.names)


@pytest.fixture(scope="module")
def mirror(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    dest = tmp_path_factory.mktemp("mirror")
    run(entry(SMALL), (Target(SENSOR, "rgb-only"), Target(SENSOR, "nearest")), small, dest)
    return open_mirror(str(dest))


@pytest.fixture(scope="module")
def reflectances() -> Tensor:
    """A scene in Sentinel-2's bands, (2, 12, 160, 160)."""
    whole = scene(photographs()["china"], SENSOR, np.random.default_rng(0))
    return torch.stack([whole[:, :160, :160], whole[:, 160:320, 160:320]])


@pytest.fixture(scope="module")
def normalised(reflectances: Tensor) -> Tensor:
    std, mean = torch.std_mean(reflectances, (0, 2, 3), keepdim=True)
    return (reflectances - mean) / std


# Normalising


def row_of(mirror: Mirror) -> dict[str, Any]:
    found = mirror.find(bands="sentinel2-l2a", scheme="nearest").iloc[0]
    return {str(name): value for name, value in found.items()}


def test_images_in_their_own_units_become_those_of_the_original(mirror: Mirror) -> None:
    model = mirror.load(SMALL, bands="sentinel2-l2a", scheme="nearest")
    row = row_of(mirror)
    fractions = torch.rand(2, 12, 8, 8)
    mean, std = (
        torch.tensor(row[f"input_{name}"]).float().view(12, 1, 1) for name in ("mean", "std")
    )
    wanted = (fractions - mean) / std
    eight_bits = zooadapt.transform(model, scale=1 / 255)
    assert torch.allclose(eight_bits(fractions * 255), wanted, atol=1e-5)
    shifted = zooadapt.transform(row, scale=1e-4, offset=-1000)
    assert torch.allclose(shifted(fractions * 10_000 + 1000), wanted, atol=1e-4)
    assert shifted.mean[0].item() == pytest.approx(row["input_mean"][0] * 10_000 + 1000)
    folder = zooadapt.transform(mirror.pull(SMALL, bands="sentinel2-l2a", scheme="nearest"))
    assert torch.allclose(folder(fractions), wanted, atol=1e-5)
    own = zooadapt.transform(row, mean=[5.0] * 12, std=[2.0] * 12)
    assert torch.equal(
        own(torch.full((12, 2, 2), 9, dtype=torch.int16)), torch.full((12, 2, 2), 2.0)
    )


def test_what_cannot_be_normalised_is_one_line(mirror: Mirror) -> None:
    row = row_of(mirror)
    with pytest.raises(UsageError, match="no mean and std are stated"):
        zooadapt.transform({**row, "input_mean": None, "input_std": None})
    with pytest.raises(UsageError, match="give both mean= and std="):
        zooadapt.transform(row, mean=[0.0] * 12)
    with pytest.raises(UsageError, match="3 values of mean= and 3 of std= for 12 channels"):
        zooadapt.transform(row, mean=[0.0] * 3, std=[1.0] * 3)
    with pytest.raises(UsageError, match="isn't the folder of a variant"):
        zooadapt.transform("nowhere")
    with pytest.raises(UsageError, match="don't have 12 channels"):
        zooadapt.transform(row)(torch.rand(3, 8, 8))


# Inspecting


def inspected(mirror: Mirror, batch: Tensor, scheme: str = "nearest") -> pd.DataFrame:
    model = mirror.load(SMALL, bands="sentinel2-l2a", scheme=scheme)
    return zooadapt.inspect(model, batch).set_index("band")


def test_nothing_is_wrong_with_what_is_right(mirror: Mirror, normalised: Tensor) -> None:
    rows = inspected(mirror, normalised)
    assert list(rows.index) == NAMES
    assert (rows["hint"] == "").all(), rows["hint"]
    assert rows.loc["B04", "reads"] == "R"
    assert (rows["moves"] > 0).all()


def test_ignored_bands_are_told(mirror: Mirror, normalised: Tensor) -> None:
    rows = inspected(mirror, normalised, "rgb-only")
    ignored = rows[rows["hint"].str.contains("ignored until the stem is trained")]
    assert sorted(ignored.index) == sorted({*NAMES} - {"B02", "B03", "B04"})
    assert (ignored["moves"] == 0).all()
    assert (rows.loc[["B02", "B03", "B04"], "moves"] > 0).all()


def test_values_that_are_not_numbers_are_told(mirror: Mirror, normalised: Tensor) -> None:
    batch = normalised.numpy().copy()
    batch[0, 2, 5, 5] = np.nan
    model = mirror.load(SMALL, bands="sentinel2-l2a", scheme="nearest")
    assert zooadapt.inspect(model, batch).loc[2, "hint"] == "has NaN or infinite values"


def test_numbers_taken_for_reflectances_are_told(mirror: Mirror, reflectances: Tensor) -> None:
    rows = inspected(mirror, reflectances * 10_000)
    assert rows["hint"].str.contains("not normalised").all()


def test_a_misplaced_band_is_told(mirror: Mirror, normalised: Tensor) -> None:
    order = [*NAMES[:8], *NAMES[9:], "B8A"]  # as EuroSAT has it
    batch = normalised[:, [NAMES.index(name) for name in order]]
    rows = inspected(mirror, batch)
    assert str(rows.loc["B12", "hint"]).startswith("out of its place? it is like B0")
    assert (rows.drop("B12")["hint"] == "").all()


def test_swapped_colours_are_seen(mirror: Mirror, normalised: Tensor) -> None:
    batch = normalised.clone()
    batch[:, [1, 3]] = normalised[:, [3, 1]]
    hints = inspected(mirror, batch)["hint"]
    assert hints[hints != ""].to_dict() == {
        "B02": "swapped with B04?", "B04": "swapped with B02?",
    }  # fmt: skip


def test_a_model_that_timm_loaded_needs_its_folder(mirror: Mirror, normalised: Tensor) -> None:
    folder = mirror.pull(SMALL, bands="sentinel2-l2a", scheme="nearest")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).train()
    with pytest.raises(UsageError, match="it isn't known how this model was made"):
        zooadapt.inspect(model, normalised)
    assert len(zooadapt.inspect(model, normalised, folder)) == 12
    assert model.training
    with pytest.raises(UsageError, match=r"the model takes \(images, 12, height, width\)"):
        zooadapt.inspect(model, normalised[:, :3], folder)
