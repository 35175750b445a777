"""Without a mirror: variants are made from the original weights, proved and kept in the cache."""

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import hf_hub_download

import zooadapt
from tests.conftest import SMALL
from tests.support import checker, checkpoints, fine_tuned, hub
from tests.support.hub import LoopbackHub
from tests.support.pipelines import counted, entry, run
from zooadapt import pipeline
from zooadapt.adapt import contract
from zooadapt.cli.main import main
from zooadapt.errors import FetchError, UsageError, ValidationError
from zooadapt.proof import compare, passes
from zooadapt.reader import original
from zooadapt.reader.mirror import open_mirror

ANOTHER = "test_vit.r160_in1k"


@pytest.fixture
def served(
    own_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoopbackHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    with hub.serving(own_small) as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


def weight(model: torch.nn.Module) -> torch.Tensor:
    found: torch.Tensor = model.get_parameter("conv1.0.weight")
    return found


def test_the_first_call_needs_no_mirror(
    served: LoopbackHub, caplog: pytest.LogCaptureFixture
) -> None:
    model = zooadapt.create_model(SMALL, in_chans=4)
    theirs = timm.create_model(SMALL, pretrained=True, in_chans=4)  # from the cache, by now
    assert torch.equal(weight(model), weight(theirs))
    (line,) = [record.getMessage() for record in caplog.records if "made" in record.getMessage()]
    for words in (f"made {SMALL} for 4 channels from hf://timm/{SMALL}@", "proved with error",
                  "licence apache-2.0", "under repeat"):  # fmt: skip
        assert words in line


def test_the_next_call_asks_nobody(served: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    zooadapt.create_model(SMALL, in_chans=4)
    served.asked.clear()
    monkeypatch.setattr(pipeline, "make", lambda *of: pytest.fail("it was made again"))
    assert weight(zooadapt.create_model(SMALL, in_chans=4)).shape[1] == 4
    assert weight(zooadapt.create_model(SMALL, in_chans=9)).shape[1] == 9  # from its stem
    assert served.asked == []


def test_it_is_to_the_byte_what_a_job_makes(
    served: LoopbackHub, own_small: Path, cache_dir: Path, tmp_path: Path
) -> None:
    zooadapt.create_model(SMALL, in_chans=4)
    run(entry(SMALL), counted(4), own_small, tmp_path / "job")
    own = checker.summary(str(cache_dir / "made")).objects
    assert own
    checker.check(str(cache_dir / "made"))
    weights = {key: each for key, each in own.items() if key.endswith(".safetensors")}
    theirs = checker.summary(str(tmp_path / "job")).objects
    assert weights.items() <= theirs.items()


def test_newer_weights_in_the_cache_are_noticed(
    served: LoopbackHub, caplog: pytest.LogCaptureFixture
) -> None:
    first = weight(zooadapt.create_model(SMALL, in_chans=4))
    checkpoints.write_hub_repo(served.root, SMALL, seed=1)  # a new commit
    assert torch.equal(weight(zooadapt.create_model(SMALL, in_chans=4)), first)
    hf_hub_download(f"timm/{SMALL}", "model.safetensors", endpoint=served.url)
    stored = checkpoints.random_state_dict(SMALL, seed=1)["conv1.0.weight"]
    caplog.clear()
    for chans in (4, 5):  # the second from the first's stem
        made = weight(zooadapt.create_model(SMALL, in_chans=chans))
        assert torch.allclose(made[:, :3], stored * 3 / chans)
    assert f"made {SMALL} for 4 channels from hf://" in caplog.text
    caplog.clear()
    assert torch.allclose(weight(zooadapt.create_model(SMALL, in_chans=4))[:, :3], stored * 3 / 4)
    assert "made" not in caplog.text


def test_what_was_made_is_there_offline_without_its_weights(
    served: LoopbackHub, tmp_path: Path
) -> None:
    zooadapt.create_model("test_resnet", in_chans=4)
    shutil.rmtree(tmp_path / "hf")
    served.asked.clear()
    assert weight(open_mirror(offline=True).load("test_resnet", 4)).shape[1] == 4
    assert served.asked == []


def test_named_bands_and_a_folder_to_write(
    served: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "mine"
    command = ["pull", SMALL, "--bands", "R,G,B,NIR", "--to", str(to)]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{to}\n"
    assert weight(timm.create_model(f"local-dir:{to}", pretrained=True)).shape[1] == 4


def test_an_architecture_means_timms_default_tag(served: LoopbackHub) -> None:
    assert weight(zooadapt.create_model("test_resnet", in_chans=2)).shape[1] == 2


def test_a_checkpoint_of_ones_own_and_one_on_the_hub(
    served: LoopbackHub, own_small: Path, tmp_path: Path
) -> None:
    own = fine_tuned.write(tmp_path / "own", num_classes=5)
    assert weight(zooadapt.create_model(str(own), in_chans=6)).shape[1] == 6
    fine_tuned.write(own_small / "me" / "net", num_classes=5)
    assert weight(zooadapt.create_model("hf-hub:me/net", in_chans=6)).shape[1] == 6


def test_what_a_mirror_lacks_is_made_too(
    served: LoopbackHub, own_small: Path, tmp_path: Path
) -> None:
    checkpoints.write_hub_repo(own_small, ANOTHER)
    run(entry(ANOTHER), counted(4), own_small, tmp_path / "mirror")
    mirror = open_mirror(str(tmp_path / "mirror"))
    assert weight(mirror.load(SMALL, 4)).shape[1] == 4
    served.asked.clear()
    assert mirror.load(ANOTHER, 4)
    assert served.asked == []


def test_of_two_that_ask_at_once_one_makes_it(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = list[int](), pipeline.make

    def counting(*of: object) -> object:
        made.append(1)
        return make(*of)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "make", counting)
    with ThreadPoolExecutor(3) as pool:
        models = list(pool.map(lambda _: zooadapt.create_model(SMALL, in_chans=4), range(3)))
    assert len(made) == 1
    assert all(torch.equal(weight(models[0]), weight(model)) for model in models)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("test_resnte", {}, "no model of timm, torchvision, sample; did you mean test_resnet"),
        (SMALL, {"derive": False}, "which mirror"),
        (SMALL, {"scheme": "rgb-only"}, "rgb-only needs red, green and blue bands"),
    ],
)
def test_what_cannot_be_made_is_said(
    model: str, options: dict[str, Any], words: str, served: LoopbackHub
) -> None:
    with pytest.raises(UsageError, match=words):
        zooadapt.create_model(model, in_chans=4, **options)


def test_offline_nothing_is_downloaded(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOOADAPT_OFFLINE", "1")
    with pytest.raises(UsageError, match="isn't on this machine, and offline nothing"):
        zooadapt.create_model(SMALL, in_chans=4)
    assert served.asked == []


def test_a_gated_model_is_one_line_with_its_page(served: LoopbackHub) -> None:
    served.token = "needed"
    with pytest.raises(FetchError, match=r"can't be made: .*(gated|isn't there)"):
        zooadapt.create_model(SMALL, in_chans=4)


def test_two_folders_of_one_name_are_two_models(tmp_path: Path) -> None:
    folders = [
        fine_tuned.write(tmp_path / name / "best", seed=seed, num_classes=5)
        for name, seed in (("one", 1), ("two", 2))
    ]
    one, two = (zooadapt.create_model(folder, in_chans=4) for folder in folders)
    assert not torch.equal(weight(one), weight(two))
    fine_tuned.write(tmp_path / "one" / "best", seed=7, num_classes=5)  # trained again
    again = zooadapt.create_model(tmp_path / "one" / "best", in_chans=4)
    assert not torch.equal(weight(one), weight(again))


def test_a_zoo_can_be_named() -> None:
    model = zooadapt.create_model("tf_efficientnet_lite0.in1k", in_chans=4, zoo="sample")
    assert model.get_parameter("conv_stem.weight").shape[1] == 4


def test_untrained_models_of_other_zoos_are_random_not_zero() -> None:
    model: Any = zooadapt.create_model(
        "torchvision/resnet18.IMAGENET1K_V1", in_chans=4, pretrained=False
    )
    assert model.conv1.weight.std() > 0


# timm's habits


def test_models_come_in_train_mode_and_options_go_to_timm(served: LoopbackHub) -> None:
    four: Any = np.int64(4)  # as a row of the manifest has it
    model = zooadapt.create_model(SMALL, in_chans=four, pretrained=True)
    assert model.training
    few = zooadapt.create_model(SMALL, in_chans=4, num_classes=3, drop_path_rate=0.1)
    assert few.training
    assert few.get_parameter("fc.weight").shape[0] == 3
    features: Any = zooadapt.create_model(SMALL, in_chans=4, features_only=True, out_indices=(1, 2))
    assert len(features(torch.randn(1, 4, 160, 160))) == 2


def test_an_untrained_model_states_the_mean_and_std_of_its_channels(served: LoopbackHub) -> None:
    trained: Any = zooadapt.create_model(SMALL, bands="R,G,B,NIR")
    bare: Any = zooadapt.create_model(SMALL, bands="R,G,B,NIR", pretrained=False)
    for name in ("mean", "std", "input_size"):
        assert tuple(bare.pretrained_cfg[name]) == tuple(trained.pretrained_cfg[name])


def test_without_pretrained_weights_it_is_built_and_nothing_is_asked(served: LoopbackHub) -> None:
    model = zooadapt.create_model(SMALL, in_chans=4, pretrained=False)
    assert weight(model).shape[1] == 4
    other = zooadapt.create_model(SMALL, bands=["R", "G"], pretrained=False, num_classes=2)
    assert weight(other).shape[1] == 2
    assert other.get_parameter("fc.weight").shape[0] == 2
    assert served.asked == []


def test_a_checkpoint_path_is_loaded_last_and_said(
    served: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = zooadapt.create_model(SMALL, in_chans=4, pretrained=False)
    torch.save(own.state_dict(), tmp_path / "own.pth")
    model = zooadapt.create_model(SMALL, in_chans=4, checkpoint_path=str(tmp_path / "own.pth"))
    assert torch.equal(weight(model), weight(own))
    assert "are loaded last, as by timm; they aren't proved" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pretrained_cfg_overlay": {"file": "x"}}, r"leave out pretrained_cfg_overlay\['file'\]"),
        ({"pretrained_cfg": {}}, "leave out pretrained_cfg"),
    ],
)
def test_options_that_name_other_weights_are_refused(
    options: dict[str, Any], words: str, served: LoopbackHub
) -> None:
    with pytest.raises(UsageError, match=words):
        zooadapt.create_model(SMALL, in_chans=4, **options)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"in_chans": "4"}, "in_chans='4' isn't a number of channels"),
        ({"in_chans": True}, "in_chans=True isn't a number"),
        ({"in_chans": 4.0}, "in_chans=4.0 isn't a number"),
        ({"bands": 4}, "bands=4 isn't the name of a preset"),
        ({"bands": "sentinel2"}, "did you mean sentinel2-l1c or sentinel2-l2a"),
    ],
)
def test_a_wrong_type_or_name_is_one_line(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        zooadapt.create_model(SMALL, **wish)


def test_many_channels_without_names_get_a_hint(
    served: LoopbackHub, caplog: pytest.LogCaptureFixture
) -> None:
    zooadapt.create_model(SMALL, in_chans=4)
    assert "bands= says" not in caplog.text
    zooadapt.create_model(SMALL, in_chans=8)
    assert "the 8 channels read the original's in turn" in caplog.text


def test_a_mirror_says_what_it_holds(served: LoopbackHub, tmp_path: Path) -> None:
    zooadapt.create_model(SMALL, in_chans=4)
    mirror = open_mirror()
    assert repr(mirror).endswith("/made>")
    assert len(mirror.find(in_chans=[4, 8])) == 1
    assert repr(mirror).endswith("/made: 1 variants of 1 models>")


def test_the_commands_share_a_grammar(
    served: LoopbackHub, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", SMALL, "--chans", "1,4"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["ls", str(cache_dir / "made"), "--chans", "1,4"]) == 0
    assert "1 variant" in capsys.readouterr().out  # the other one was made from its stem
    assert main(["ls", str(cache_dir / "made"), "--chans", "13"]) == 0
    assert "zooadapt pull MODEL --chans 13 makes one" in capsys.readouterr().err
    assert main(["pull", SMALL, "--chans", "1,4", "--to", "x"]) == 2


def test_without_a_proof_the_bits_are_compared_and_it_is_kept_apart(
    served: LoopbackHub,
    cache_dir: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_once = Passes(monkeypatch)
    quick = zooadapt.create_model(SMALL, in_chans=4, prove=False)
    assert run_once.count == 0
    assert "under repeat, not proved" in caplog.text
    assert not (cache_dir / "made").exists()
    proved = zooadapt.create_model(SMALL, in_chans=4)
    assert run_once.count > 0
    assert "proved with error" in caplog.text
    assert torch.equal(weight(quick), weight(proved))
    monkeypatch.setattr(pipeline, "make", lambda *of: pytest.fail("it was made again"))
    assert zooadapt.create_model(SMALL, in_chans=4, prove=False)
    zooadapt.create_model(SMALL, in_chans=7, prove=False)  # from the stem
    assert f"made {SMALL} for 7 channels from its original stem under repeat, not proved" in (
        caplog.text
    )


class Passes:
    """Counts the forward passes of proofs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, forward = 0, passes.run

        def counted(*of: Any) -> Any:
            self.count += 1
            return forward(*of)

        monkeypatch.setattr(compare, "run", counted)


def test_wrong_bits_are_seen_without_a_proof(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapt, calls = contract.adapt, list[int]()

    def wrong_at_first(*of: Any) -> Any:
        calls.append(1)
        made = adapt(*of)
        return {name: each + (len(calls) == 1) for name, each in made.items()}

    monkeypatch.setattr(contract, "adapt", wrong_at_first)
    with pytest.raises(ValidationError, match="isn't the source's stem contracted"):
        zooadapt.create_model(SMALL, in_chans=4, prove=False)


def test_misspelt_bands_are_refused_not_made(served: LoopbackHub) -> None:
    for wrong in ("R,G,B,NIRR", "B4,B3,B2,B8", "sentinel1+B4,B3"):
        with pytest.raises(UsageError, match=r"unknown band|no such preset"):
            zooadapt.create_model(SMALL, bands=wrong)
    with pytest.raises(UsageError, match="variants are proved on cpu, or on cuda"):
        zooadapt.create_model(SMALL, in_chans=4, device="mps")


def test_a_device_that_is_not_here_is_one_line(served: LoopbackHub) -> None:
    with pytest.raises(UsageError, match="device cuda:7 can't be used here"):
        zooadapt.create_model(SMALL, in_chans=4, device="cuda:7")


def test_a_long_wait_is_told_first(
    served: LoopbackHub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    zooadapt.create_model(SMALL, in_chans=2)
    assert "takes about" not in caplog.text
    monkeypatch.setattr(original, "_LONG", 0.5)
    checkpoints.write_hub_repo(served.root, ANOTHER)
    zooadapt.create_model(ANOTHER, in_chans=2)
    assert re.search(rf"adapting and proving {ANOTHER}, .*, takes about [\d.]+ s here", caplog.text)


def test_named_bands_keep_red_green_and_blue(
    served: LoopbackHub, caplog: pytest.LogCaptureFixture
) -> None:
    stored = checkpoints.random_state_dict(SMALL)["conv1.0.weight"]
    made = weight(zooadapt.create_model(SMALL, bands="sentinel2-l2a"))
    assert torch.equal(made[:, [3, 2, 1]], stored)
    assert float(made.abs().sum()) == pytest.approx(float(stored.abs().sum()))
    assert "9 of 12 bands start at zero (rgb-only); with a frozen stem they are ignored" in (
        caplog.text
    )
    radar = weight(zooadapt.create_model(SMALL, bands="sentinel1"))
    assert radar.abs().sum((0, 2, 3)).min() > 0


def test_a_changed_function_is_never_called_proved(
    served: LoopbackHub, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    nfnet = "test_nfnet.r160_in1k"
    checkpoints.write_hub_repo(served.root, nfnet)
    for chans, keeps in ((6, "the scheme preserve keeps"), (4, "no scheme keeps")):
        caplog.clear()
        zooadapt.create_model(nfnet, in_chans=chans)
        assert "proved" not in caplog.text
        assert re.search(rf"another function .*standardises its weight; {keeps}", caplog.text)
    caplog.clear()
    assert main(["pull", nfnet, "--chans", "6"]) == 0
    assert "is there with another function" in caplog.text
    capsys.readouterr()
    assert main(["ls", str(open_mirror().mirrors[0][0].root)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if nfnet in line]
    assert " False " in line
    assert main(["show", nfnet, "--mirror", str(open_mirror().mirrors[0][0].root)]) == 0
    assert "6 channels under repeat: with another function" in capsys.readouterr().out
