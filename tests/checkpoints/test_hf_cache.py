"""The Hugging Face cache is a source: it is asked first, offline and online, and can be filled."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import timm
from huggingface_hub import close_session, hf_hub_download

from tests.conftest import SMALL
from tests.support import checkpoints, hub
from tests.support.hub import LoopbackHub
from tests.support.jobs import Runner, contents, ok, ray_folder
from tests.support.pipelines import counted, entry
from zooadapt import pipeline
from zooadapt.cli.main import main
from zooadapt.types import Job, ModelSummary, Request

FILE = "model.safetensors"


@dataclass
class Ground:
    """A Hub, and the folder of the Hugging Face cache."""

    hub: LoopbackHub
    cache: Path

    @property
    def downloads(self) -> int:
        """How many requests came for the bytes of weights."""
        return sum("/cdn/" in asked.path for asked in self.hub.asked)

    def fill(self) -> None:
        """Do what any program does that downloads the model by huggingface_hub."""
        hf_hub_download(f"timm/{SMALL}", FILE, endpoint=self.hub.url)
        hf_hub_download(f"timm/{SMALL}", "config.json", endpoint=self.hub.url)
        self.hub.asked.clear()


@pytest.fixture
def ground(own_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    cache = tmp_path / "hf"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    with hub.serving(own_small) as served:
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        yield Ground(served, cache)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    close_session()  # the next one is made for the new setting
    yield
    monkeypatch.undo()
    close_session()


def made(dest: Path, root: str | None = None, **options: Any) -> ModelSummary:
    job = replace(Job("run", str(dest), root), **options)
    return pipeline.make(Request(entry(SMALL), counted(4)), job)


def test_what_is_there_is_not_asked_for(ground: Ground, tmp_path: Path) -> None:
    ground.fill()
    assert made(tmp_path / "mirror").made == ("4",)
    assert ground.hub.asked == []


def test_offline_it_is_all_there_is(
    ground: Ground, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    ground.fill()
    request.getfixturevalue("offline")
    assert made(tmp_path / "mirror").made == ("4",)
    shutil.rmtree(ground.cache)
    (failure,) = made(tmp_path / "other").failures
    assert "isn't in the Hugging Face cache, and HF_HUB_OFFLINE is set" in failure.error


def test_who_follows_changes_asks_the_hub_and_reads_the_cache(
    ground: Ground, tmp_path: Path
) -> None:
    ground.fill()
    assert made(tmp_path / "mirror", asks_hub=True).made == ("4",)
    assert ground.hub.asked
    assert ground.downloads == 0
    checkpoints.write_hub_repo(ground.hub.root, SMALL, seed=5)  # a new commit
    assert made(tmp_path / "mirror", asks_hub=True).made == ("4",)
    assert ground.downloads > 0


def test_a_cache_can_be_the_source_root(ground: Ground, tmp_path: Path) -> None:
    ground.fill()
    moved = shutil.move(ground.cache, tmp_path / "moved")
    assert made(tmp_path / "mirror", str(moved)).made == ("4",)
    assert ground.hub.asked == []


def test_what_is_downloaded_can_be_kept_for_others(
    ground: Ground, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert made(tmp_path / "mirror", keep_sources=True).made == ("4",)
    assert ground.downloads > 0
    request.getfixturevalue("offline")
    assert timm.create_model(SMALL, pretrained=True)
    assert made(tmp_path / "again").made == ("4",)


def test_both_give_the_same_identity(ground: Ground, tmp_path: Path) -> None:
    """So a run that follows changes doesn't make again what came from the cache."""
    ground.fill()
    command = ["adapt", "--chans", "4", "--models", SMALL, "--dest", str(tmp_path / "mirror")]
    assert made(tmp_path / "mirror").made == ("4",)
    assert main([*command, "--check-sources", "--dry-run"]) == 0


def test_a_checkpoint_on_the_hub_is_checked_by_its_id(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", SMALL, "--chans", "4"]) == 0
    told = capsys.readouterr().out
    assert f"{SMALL} of the zoo timm can be adapted" in told
    assert f"hf://timm/{SMALL}@" in told


def test_the_job_fills_it_and_reads_it_offline(ground: Ground, tmp_path: Path) -> None:
    cache = {"HF_HUB_CACHE": str(tmp_path / "kept")}
    options = ["--chans", "4", "--models", SMALL, "--dest"]
    with ray_folder() as env:
        runner = Runner({**env, **ground.hub.env, **cache})
        ok(runner.job(*options, str(tmp_path / "one"), "--keep-sources"))
        assert ground.downloads > 0
        ground.hub.asked.clear()
        ok(runner.job(*options, str(tmp_path / "two"), HF_HUB_OFFLINE="1"))
    assert ground.hub.asked == []
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
