"""The comparison of schemes on synthetic spectra: its spectral model, its split, its output."""

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

JOB = Path(__file__).parents[2] / "jobs" / "transfer_check.py"


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    """What the script defines."""
    return runpy.run_path(str(JOB))


def reflected(job: dict[str, Any], rgb: tuple[float, float, float], wavelength: float) -> float:
    image = np.array(rgb).reshape(3, 1, 1)
    return float(job["reflectance"](image, np.zeros((1, 1)), wavelength)[0, 0])


def test_grey_is_flat_where_it_is_seen_and_rises_after(job: dict[str, Any]) -> None:
    assert [reflected(job, (0.2, 0.2, 0.2), at) for at in (443, 560, 665)] == pytest.approx(
        [0.2] * 3
    )
    assert reflected(job, (0.2, 0.2, 0.2), 1610) == pytest.approx(0.2 * 1.5)


def test_leaves_have_a_red_edge_and_water_falls_to_nothing(job: dict[str, Any]) -> None:
    leaf, water = (0.03, 0.1, 0.02), (0.01, 0.02, 0.1)
    assert reflected(job, leaf, 842) > 4 * reflected(job, leaf, 665)
    assert reflected(job, leaf, 2190) < reflected(job, leaf, 842)
    assert reflected(job, water, 2190) < 0.5 * reflected(job, water, 490)


def test_moisture_shows_in_the_short_wave_infrared_only(job: dict[str, Any]) -> None:
    image = np.full((3, 1, 1), 0.2)
    dry, wet = (np.full((1, 1), z) for z in (-1.0, 1.0))
    for wavelength, shows in ((560, False), (842, False), (1610, True)):
        change = job["reflectance"](image, dry, wavelength) - job["reflectance"](
            image, wet, wavelength
        )
        assert bool(change > 1e-6) == shows


def test_training_and_test_crops_are_of_different_halves(job: dict[str, Any]) -> None:
    whole = torch.zeros(2, 100, 200)
    whole[:, :, 100:] = 1.0
    draw = np.random.default_rng(0)
    train, test = (job["crops"]([whole], half, 3, draw).images for half in ("left", "right"))
    assert train.shape == (3, 2, job["CROP"], job["CROP"])
    assert train.max() < 0.1
    assert test.min() > 0.2


def test_a_model_is_trained_here_where_no_weights_can_be_had(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(job["based"].__globals__, "PRETRAIN", 1)
    base = job["based"]("vit", 0)
    draw = np.random.default_rng(0)
    task = job["TASKS"]["sentinel2"](1, 1, draw)
    assert task.learnt.images.shape == (9, 4, job["CROP"], job["CROP"])
    kept = job["adapted"](base, "rgb-only", task, 0).state_dict()[base.stem]
    assert torch.equal(kept[:, [2, 1, 0]], base.weights[base.stem])
    assert not kept[:, 3].any()
    scaled = job["adapted"](base, job["SCALED"], task, 0).state_dict()[base.stem]
    assert torch.allclose(scaled.sum(1), base.weights[base.stem].sum(1), atol=1e-6)


def test_one_small_run_prints_a_table_and_writes_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "transfer.parquet"
    small = ["--seeds", "1", "--train", "2", "--test", "1", "--steps", "1"]
    chosen = ["--model", "batchnorm", "--task", "sentinel2", "--task", "landsat8"]
    schemes = ["--scheme", "nearest", "--scheme", "nearest, rows 1"]
    command = [str(JOB), *small, *chosen, *schemes, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOB), run_name="__main__")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "sentinel2, batchnorm:" in printed
    assert printed.count("| `nearest, rows 1` | ") == 2
    found = pd.read_parquet(out)
    assert found["protocol"].tolist() == ["probe", "fine-tune", "frozen"] * 4
    assert found["task"].tolist() == ["sentinel2"] * 6 + ["landsat8"] * 6
    assert found["accuracy"].between(0, 1).all()
