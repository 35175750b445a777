"""What a zoo offers, listed without any mirror."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from tests.support import fine_tuned
from zooadapt.cli.main import main
from zooadapt.reader import parameter_counts
from zooadapt.zoos import registry
from zooadapt.zoos.timm import TimmZoo


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["ls", "--available", "--json", *arguments]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The architectures that were built."""
    built: list[str] = []
    build = TimmZoo.build

    def counting(self: TimmZoo, entry: Any, in_chans: int) -> torch.nn.Module:
        built.append(entry.architecture)
        return build(self, entry, in_chans)

    monkeypatch.setattr(TimmZoo, "build", counting)
    return built


def test_all_that_timm_has_and_nothing_is_built(
    capsys: pytest.CaptureFixture[str], builds: list[str]
) -> None:
    found = listed(capsys, "--columns", "model,license,source")
    assert [row["model"] for row in found] == sorted(timm.list_models(pretrained=True))
    assert not builds


def test_what_is_said_of_a_model_and_that_it_is_remembered(
    capsys: pytest.CaptureFixture[str], builds: list[str]
) -> None:
    (row,) = listed(capsys, "test_resnet", "--columns", "all")
    model = timm.create_model("test_resnet")
    assert row == {
        "zoo": "timm", "model": "test_resnet.r160_in1k", "architecture": "test_resnet",
        "pretrained_tag": "r160_in1k", "license": "apache-2.0",
        "params": sum(parameter.numel() for parameter in model.parameters()), "in_chans": 3,
        "num_classes": 1000, "input_height": 160, "input_width": 160,
        "source": "hf://timm/test_resnet.r160_in1k",
    }  # fmt: skip
    assert builds == ["test_resnet"]
    assert listed(capsys, "timm/test_resnet.*", "--columns", "all") == [row]
    assert builds == ["test_resnet"]


def test_one_build_for_the_tags_of_an_architecture_and_size(
    capsys: pytest.CaptureFixture[str], builds: list[str]
) -> None:
    found = listed(capsys, "resnet[15]?.*", "--columns", "all", "--sort=-params")
    kinds = {(r["architecture"], r["input_height"], r["num_classes"]) for r in found}
    assert len(builds) == len(kinds) < len(found)
    counts = [row["params"] for row in found]
    assert counts == sorted(counts, reverse=True)


def test_another_release_is_counted_anew(
    capsys: pytest.CaptureFixture[str], builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(capsys, "test_vit", "--columns", "params")
    monkeypatch.setattr(parameter_counts, "version", lambda library: "9.9")
    listed(capsys, "test_vit", "--columns", "params")
    assert builds == ["test_vit"] * 2


def test_a_damaged_cache_is_counted_anew(
    capsys: pytest.CaptureFixture[str], cache_dir: Path, builds: list[str]
) -> None:
    first = listed(capsys, "test_vit")
    (kept,) = (cache_dir / "parameters").iterdir()
    for text in ("{", "[]", ""):
        kept.write_text(text)
        assert listed(capsys, "test_vit") == first
    assert len(builds) == 4


def test_in_processes_it_is_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entries = [
        entry for entry in registry.list_models("timm") if entry.name.startswith("test_resnet")
    ] * 2
    alone = [parameter_counts.parameters(entry) for entry in entries]
    monkeypatch.setattr(parameter_counts, "BUILDS_A_PROCESS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert [*parameter_counts.build_all(entries)] == alone


def test_licences_are_filtered_before_anything_is_built(
    capsys: pytest.CaptureFixture[str], builds: list[str]
) -> None:
    assert listed(capsys, "test_*", "--license", "gpl*") == []
    assert not builds
    unknown = listed(capsys, "--license", "unknown", "--columns", "license")
    assert unknown
    assert {row["license"] for row in unknown} <= {None, "unknown"}


def test_a_folder_and_what_cannot_be_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine_tuned.write(tmp_path / "four", in_chans=4, num_classes=2)
    fine_tuned.write(tmp_path / "of tomorrow")
    fine_tuned.edit(tmp_path / "of tomorrow", {"architecture": "resnet_of_tomorrow"})
    fine_tuned.write(tmp_path / "refused")
    fine_tuned.edit(tmp_path / "refused", {"model_args": {"nosuch": 1}}, {"license": None})
    arguments = ["ls", "--available", "--zoo", f"folder:{tmp_path}", "--sort=-params"]
    assert main([*arguments, "--columns", "model,params,in_chans,license"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["four", "0.373", "M", "4", "apache-2.0"]
    assert sorted(lines[2:4]) == [["of", "tomorrow", "apache-2.0"], ["refused", "3", "unknown"]]
    assert lines[4] == ["3", "models"]
    rows = listed(capsys, "--zoo", f"folder:{tmp_path}", "of*", "--columns", "params,input_height")
    assert rows == [{"params": None, "input_height": None}]


def test_what_is_not_there_hides_none_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there" / "vit").mkdir(parents=True)
    config = {"model_type": "vit", "architectures": ["ViTModel"], "image_size": 64}
    (tmp_path / "there" / "vit" / "config.json").write_text(json.dumps(config))
    (tmp_path / "ids").write_text("no/such\nthere/vit\n")
    zoo = ["--zoo", f"transformers:{tmp_path}/ids", "--source-root", str(tmp_path)]
    absent, there = listed(capsys, *zoo, "--columns", "model,params,input_height,source")
    assert [*absent.values()] == ["no/such", None, None, f"{tmp_path}/no/such"]
    assert there["params"] > 10**7
    assert there["input_height"] == 64


def test_what_could_not_be_counted_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], builds: list[str]
) -> None:
    fine_tuned.write(tmp_path / "fine")
    fine_tuned.write(tmp_path / "refused")
    fine_tuned.edit(tmp_path / "refused", {"model_args": {"nosuch": 1}})
    zoo = ["--zoo", f"folder:{tmp_path}", "--columns", "params"]
    first = listed(capsys, *zoo)
    assert [row["params"] is None for row in first] == [False, True]
    assert listed(capsys, *zoo) == first
    assert len(builds) == 2 + 1


def test_what_is_of_variants_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--chans", "4"], ["--bands", "R,G,B"], ["--scheme", "pad"]):
        assert main(["ls", "--available", *option]) == 2
        assert "--available lists models, not variants" in capsys.readouterr().err
    assert main(["ls", "--available", "--columns", "in_chan"]) == 2
    assert "there is no column in_chan; choose from zoo, model" in capsys.readouterr().err
    assert main(["ls", "--available", "--zoo", "nosuch"]) == 2
    assert "no such zoo is installed" in capsys.readouterr().err
