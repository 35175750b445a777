"""`zooadapt bands` shows the order of bands, and what each reads, ready to paste."""

from pathlib import Path

import pytest
import torch

from zooadapt import bands
from zooadapt.adapt import schemes
from zooadapt.cli.main import main


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bands"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 1 + len(bands.presets())
    assert "bigearthnet-s2, ssl4eo-s2a" in printed


def test_a_preset_is_shown_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bands", "eurosat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:14]] == list(bands.preset("eurosat").names)
    assert lines[4].split()[1:5] == ["B04", "664.6", "30", "R"]
    assert "the same bands in another order: sentinel2-l1c" in lines
    assert any(line.startswith("10 of 13 bands start at zero (rgb-only);") for line in lines)


def test_the_printed_file_gives_the_same_matrix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scheme in ("nearest", "rgb-only"):
        assert main(["bands", "sentinel2-l2a", "--scheme", scheme, "--yaml"]) == 0
        file = tmp_path / "own.yaml"
        file.write_text(capsys.readouterr().out)
        own, preset = bands.parse(str(file)), bands.preset("sentinel2-l2a")
        assert own.names == preset.names
        made = schemes.matrix("nearest", bands.RGB, own)
        assert torch.allclose(made, schemes.matrix(scheme, bands.RGB, preset), atol=1e-6)


def test_a_scheme_that_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bands", "sentinel1", "--scheme", "rgb-only"]) == 2
    assert "rgb-only needs red, green and blue bands" in capsys.readouterr().err
