"""Cards, citations and pushed repositories: what they say, and that others can load them."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import zooadapt
import zooadapt.errors
from jobs.measure import seeded
from tests.conftest import SMALL
from tests.support import checkpoints, fine_tuned, hub, web
from tests.support.hub import LoopbackHub
from tests.support.pipelines import counted, entry, run
from tests.support.rows import usable
from zooadapt import bands
from zooadapt.cli.main import main
from zooadapt.reader import card
from zooadapt.reader.mirror import Mirror, open_mirror
from zooadapt.targets import Target
from zooadapt.types import Row

NFNET = "test_nfnet.r160_in1k"
TOKEN = "hf_" + "w" * 30


@pytest.fixture
def served(
    own_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoopbackHub]:
    """A Hub that takes uploads from whoever has the token."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with hub.serving(own_small) as running:
        running.uploads.writer = TOKEN
        for name, value in {**running.env, "HF_TOKEN": TOKEN}.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def mirror(served: LoopbackHub, tmp_path: Path) -> Mirror:
    """A mirror of a model for 4 channels, for Sentinel-2, and of one with another function."""
    checkpoints.write_hub_repo(served.root, NFNET)
    sensor = Target(bands.preset("sentinel2-l2a"), "nearest")
    run(entry(SMALL), (*counted(4), sensor), None, tmp_path / "mirror")
    run(entry(NFNET), counted(4), None, tmp_path / "mirror")
    return open_mirror(str(tmp_path / "mirror"))


def front(text: str) -> dict[str, Any]:
    """A card's metadata, as the Hub's own library reads it."""
    data: Any = ModelCard(text).data
    return dict(data.to_dict())


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The one line with which a command fails."""
    assert main(command) != 0
    printed = capsys.readouterr()
    (line,) = printed.err.strip().splitlines()
    assert TOKEN not in printed.out + line
    return line


def python(served: LoopbackHub, call: str, folder: Path, part: str = "") -> torch.Tensor:
    """What a model, which another process loads from the Hub, makes of `image.pt` in the folder."""
    program = (
        f"import timm, torch, transformers; model = {call}.eval(); "
        f"torch.save(model(torch.load('image.pt')){part}, 'out.pt')"
    )
    env = {**os.environ, **served.env, "HF_HOME": str(folder / "theirs")}
    subprocess.run([sys.executable, "-c", program], check=True, env=env, cwd=folder)
    out: torch.Tensor = torch.load(folder / "out.pt")
    return out


@torch.no_grad()
def test_a_pushed_variant_is_loaded_by_timm(
    served: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No mirror is needed. What is pushed is what `create_model` gives, bit for bit."""
    assert main(["push", SMALL, "--chans", "4", "me/small-4ch"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{served.url}/me/small-4ch\n"
    assert "timm.create_model('hf-hub:me/small-4ch', pretrained=True)" in printed.err
    assert TOKEN not in printed.out + printed.err
    ours = zooadapt.create_model(SMALL, in_chans=4).eval()
    image = torch.randn(1, 4, 160, 160, generator=torch.Generator().manual_seed(1))
    torch.save(image, tmp_path / "image.pt")
    out = python(served, 'timm.create_model("hf-hub:me/small-4ch", pretrained=True)', tmp_path)
    assert torch.equal(out, ours(image))
    files = {file.name for file in (served.root / "me" / "small-4ch").iterdir()}
    assert files == {"model.safetensors", "config.json", "README.md"}
    assert served.uploads.commits == ["me/small-4ch"]


def test_it_goes_back_into_zooadapt(served: LoopbackHub) -> None:
    """A pushed variant is a checkpoint like any other, with its bands' names."""
    open_mirror().push(SMALL, "me/small-s1", bands="sentinel1")
    again: Any = zooadapt.create_model("hf-hub:me/small-s1", bands="VH,VV", scheme="nearest")
    assert [band["name"] for band in again.zooadapt["source"]["bands"]] == ["VV", "VH"]


def test_it_is_private_unless_it_is_said_otherwise(
    served: LoopbackHub, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.push(SMALL, "me/one", 4)
    served.gated = (f"timm/{SMALL}",)
    mirror.push(SMALL, "me/two", 4, public=True)
    assert served.uploads.visible == {"me/one": "private", "me/two": "public"}
    assert f"timm/{SMALL} is gated: see whether its terms let you share copies" in caplog.text
    with pytest.raises(zooadapt.errors.UsageError, match="me/two is public: give --public"):
        mirror.push(SMALL, "me/two", 4)
    with pytest.raises(zooadapt.errors.UsageError, match="me/one is private: leave out --public"):
        mirror.push(SMALL, "me/one", 4, public=True)
    mirror.push(SMALL, "me/one", bands="sentinel2-l2a")  # another commit
    assert front((served.root / "me/one/README.md").read_text())["bands"][0] == "B01"


def test_a_dry_run_shows_files_and_card_and_pushes_nothing(
    served: LoopbackHub, mirror: Mirror, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("HF_TOKEN")
    command = ["push", SMALL, "me/small", "--chans", "4", "--dry-run", "--mirror"]
    assert main([*command, mirror.mirrors[0][0].url]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("would push to the private repository me/small:\n  model.safetensors")
    assert 'timm.create_model("hf-hub:me/small", pretrained=True)' in printed
    assert not (served.root / "me").exists()


def test_what_cannot_be_pushed_is_one_line(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed = ["push", SMALL, "--chans", "4"]
    assert "name the owner too" in refused(capsys, *pushed, "small")
    assert "can't be a repository's name" in refused(capsys, *pushed, "me/a..b/c")
    assert "push needs the network" in refused(capsys, *pushed, "me/small", "--offline")
    assert served.asked == [], "all this is said before anything is made"
    served.uploads.writer = "another"
    line = refused(capsys, *pushed, "me/small")
    assert "me/small wasn't pushed: 403" in line
    assert "is the token valid, and may it write there?" in line
    monkeypatch.delenv("HF_TOKEN")
    assert "run `hf auth login`, or set HF_TOKEN" in refused(capsys, *pushed, "me/small")
    assert not (served.root / "me").exists()


def test_an_unknown_licence_must_be_named(served: LoopbackHub, tmp_path: Path) -> None:
    run(replace(entry(SMALL), license=None), counted(4), None, tmp_path / "mirror")
    mirror = open_mirror(str(tmp_path / "mirror"))
    with pytest.raises(zooadapt.errors.UsageError, match="states no licence: give --license NAME"):
        mirror.push(SMALL, "me/small", 4)
    mirror.push(SMALL, "me/small", 4, license="mit")
    text = (served.root / "me/small/README.md").read_text()
    assert front(text)["license"] == "mit"
    assert "The source states no licence for the original. The person who shared" in text


def test_a_stated_licence_stays(served: LoopbackHub) -> None:
    with pytest.raises(zooadapt.errors.UsageError, match=r"is under apache-2\.0, as its source"):
        open_mirror().push(SMALL, "me/small", 4, license="mit")


def test_a_card_says_what_the_variant_is(served: LoopbackHub, mirror: Mirror) -> None:
    served.tags = ("arxiv:2110.00476", "dataset:imagenet-1k", "doi:10.57967/hf/1234", "region:us")
    text = mirror.card(SMALL, bands="sentinel2-l2a")
    assert front(text) == {
        "license": "apache-2.0",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "base_model": f"timm/{SMALL}",
        "base_model_relation": "finetune",
        "datasets": ["imagenet-1k"],
        "tags": ["zooadapt", "timm", "12-channel", "sentinel2-l2a"],
        "bands": list(bands.preset("sentinel2-l2a").names),
    }
    for words in (
        f"# {SMALL} for 12 channels (sentinel2-l2a)",
        "| B04 | R |\n| B05 | 0.167 R |",
        "The stored weights were run on cpu with torch",
        'model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True)',
        f'model = zooadapt.create_model("{SMALL}", bands="sentinel2-l2a", scheme="nearest")',
        "The source states the licence apache-2.0 for the original.",
        "paper: https://arxiv.org/abs/2110.00476",
    ):
        assert words in text


def test_the_code_on_a_card_runs(
    served: LoopbackHub, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.push(SMALL, "me/small-4ch", 4)
    text = (served.root / "me/small-4ch/README.md").read_text()
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    assert len(blocks) == 2
    monkeypatch.setenv("ZOOADAPT_MIRROR", mirror.mirrors[0][0].url)
    found: dict[str, Any] = {}
    exec(blocks[1], found)
    assert found["model"].get_parameter("conv1.0.weight").shape[1] == 4
    assert 'timm.create_model("hf-hub:me/small-4ch", pretrained=True)' in blocks[0]  # as above


def test_a_card_never_says_proved_where_the_function_changed(mirror: Mirror) -> None:
    text = mirror.card(NFNET)
    assert "**This variant does not give the original's outputs:** the stem standardises" in text
    assert "no scheme keeps the function" in text
    assert "proved" not in text


def test_a_licence_that_the_hub_does_not_know() -> None:
    row: Row = {"license": "seer-license", "source_uri": "hf://timm/seer@c0ffee/model.safetensors"}
    assert card._stated_license(row) == {
        "license": "other", "license_name": "seer-license",
        "license_link": "https://huggingface.co/timm/seer",
    }  # fmt: skip
    row |= {"license": "https://example.org/terms", "source_uri": "https://example.org/net.pth"}
    assert card._stated_license(row)["license_link"] == "https://example.org/terms"


def test_a_copy_in_a_folder_has_its_card(
    served: LoopbackHub, mirror: Mirror, tmp_path: Path
) -> None:
    """Also a variant that was made here from another one; its card has its own proof."""
    for chans in (4, 7):
        to = mirror.pull(SMALL, chans, to=tmp_path / f"to{chans}")
        text = (to / "README.md").read_text()
        assert front(text)["tags"][2] == f"{chans}-channel"
        assert "The largest difference of the outputs was" in text
        digest = hashlib.sha256((to / "model.safetensors").read_bytes()).hexdigest()
        assert f"adapted: to {chans} channels" in text
        assert f"sha256 {digest}" in text
    stored = json.loads((tmp_path / "to7" / "config.json").read_text())
    assert len(stored["zooadapt"]["matrix"][0]) == 7
    assert not list((tmp_path / "mirror").rglob("README.md"))


def test_a_checkpoint_of_ones_own_tells_no_path(
    served: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "private-place" / "net"
    fine_tuned.write(own, num_classes=5, cfg={"license": "my-license"})
    assert main(["push", str(own), "--chans", "6", "me/net", "--dry-run"]) == 0
    text = capsys.readouterr().out.partition("---")[2]
    assert "private-place" not in text
    data = front(f"---{text}")
    assert (data["license"], data["license_name"]) == ("other", "my-license")
    assert "base_model" not in data


def test_a_pushed_variant_of_transformers_is_loaded_by_it(
    served: LoopbackHub, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    model: Any = seeded.model(lambda: transformers.ViTForImageClassification(config), (3, 32, 32))
    model.save_pretrained(tmp_path / "net")
    mirror = open_mirror()
    mirror.push(tmp_path / "net", "me/vit-5ch", 5, license="mit")
    text = (served.root / "me/vit-5ch/README.md").read_text()
    assert front(text)["library_name"] == "transformers"
    call = 'ViTForImageClassification.from_pretrained("me/vit-5ch")'
    assert call in text
    image = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.save(image, tmp_path / "image.pt")
    out = python(served, f"transformers.{call}", tmp_path, "['logits']")
    with torch.no_grad():
        ours: Any = zooadapt.create_model(tmp_path / "net", in_chans=5).eval()
        assert torch.equal(out, ours(image)["logits"])


def test_another_readme_is_left_alone(
    mirror: Mirror, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "README.md").write_text("# my project")
    mirror.pull(SMALL, 4, to=tmp_path / "to")
    assert (tmp_path / "to" / "README.md").read_text() == "# my project"
    assert "was not written by zooadapt, so it was left unchanged" in caplog.text
    (tmp_path / "to" / "README.md").unlink()
    for chans in (4, 5):  # the second replaces the first's
        mirror.pull(SMALL, chans, to=tmp_path / "to")
    assert "5-channel" in (tmp_path / "to" / "README.md").read_text()


def test_a_hub_that_does_not_answer_is_one_line(
    served: LoopbackHub, mirror: Mirror, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    command = ["push", SMALL, "--chans", "4", "me/small", "--mirror", mirror.mirrors[0][0].url]
    assert "me/small wasn't pushed: " in refused(capsys, *command)
    assert "original: " in mirror.cite(SMALL, 4), "what the Hub knows is left out"


def test_offline_what_is_in_the_cache_is_described(
    mirror: Mirror, tmp_path: Path, served: LoopbackHub
) -> None:
    with web.serving_files(tmp_path / "mirror") as url:
        open_mirror(url).pull(SMALL, 4)
    offline = open_mirror(url, offline=True)
    assert f"# {SMALL} for 4 channels" in offline.card(SMALL, 4)


def test_the_code_for_a_variant_that_has_no_name_elsewhere_is_left_out() -> None:
    row = usable(SMALL, 2, bands="A,B", scheme="nearest.1f0c23ab")
    assert card._by_zooadapt(row) == ""
    assert card._by_zooadapt(usable(SMALL, 2, bands="B04,B03", scheme="nearest")) == ""
    assert card._by_zooadapt(usable("net", 4, zoo="folder")) == ""
    assert "torchvision/net" in card._by_zooadapt(usable("net", 4, zoo="torchvision"))


def test_cards_are_yaml_for_everybody(mirror: Mirror) -> None:
    text = mirror.card(SMALL, 4)
    assert yaml.safe_load(text.split("---\n")[1]) == front(text)


def test_citing(served: LoopbackHub, mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    served.tags = ("arxiv:2110.00476", "dataset:imagenet-1k", "doi:10.57967/hf/1234")
    served.dataset_tags = ("doi:10.57967/hf/99", "task:image-classification")
    url = mirror.mirrors[0][0].url
    (row,) = mirror.find(SMALL, in_chans=4).to_dict("records")
    assert main(["cite", SMALL, "--chans", "4", "--mirror", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"original: {SMALL} (timm), {row['source_uri']}, sha256 {row['source_sha256']}",
        "paper: https://arxiv.org/abs/2110.00476",
        "model DOI: https://doi.org/10.57967/hf/1234",
        "trained on: https://huggingface.co/datasets/imagenet-1k",
        "data set DOI: https://doi.org/10.57967/hf/99",
        f"adapted: to 4 channels under the scheme repeat by zooadapt {zooadapt.__version__}, "
        f"sha256 {row['sha256']}",
        f"mirror: {url}/manifest@{row['run_id']}",
    ]


def test_offline_the_hub_is_not_asked(served: LoopbackHub, mirror: Mirror) -> None:
    served.asked.clear()
    offline = open_mirror(mirror.mirrors[0][0].url, offline=True)
    assert "original: " in offline.cite(SMALL, 4)
    assert served.asked == []


def test_one_variant_must_be_meant(mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    url = mirror.mirrors[0][0].url
    line = refused(capsys, "cite", SMALL, "--mirror", url)
    assert f"several variants of {SMALL} (4; B01,B02" in line
    assert "choose one with --chans or --bands" in line
    line = refused(capsys, "show", SMALL, "--chans", "5", "--card", "--mirror", url)
    assert "zooadapt pull --to makes it, with its card" in line


def test_a_picture_of_the_stem(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = mirror.mirrors[0][0].url
    command = ["show", SMALL, "--bands", "sentinel2-l2a", "--mirror", url, "--plot"]
    for name in ("stem.svg", "stem.png"):
        assert main([*command, str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"wrote {tmp_path / name}\n"
    drawn = (tmp_path / "stem.svg").read_text()
    assert drawn.count("<image") == 6 * 13, "six filters: of the original, and of each band"
    line = refused(capsys, *command, str(tmp_path / "stem.xyz"))
    assert "name a .png, .svg or .pdf file" in line
