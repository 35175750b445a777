"""Whatever a model, band or file is called, it stays in its folder and collides with no other."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import pytest
import torch
from fsspec.implementations.dirfs import DirFileSystem
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.conftest import SMALL
from tests.support import checkpoints, hub
from tests.support.names import ODD
from tests.support.pipelines import counted, entry, run
from zooadapt.checkpoints import fetch, sources
from zooadapt.checkpoints.scratch import scratch_folder
from zooadapt.errors import FetchError, UsageError
from zooadapt.names import LONGEST, safe
from zooadapt.reader.cache import Cache
from zooadapt.reader.mirror import open_mirror
from zooadapt.stores.opening import open_store
from zooadapt.types import Job, Located, ModelEntry, ModelFacts
from zooadapt.zoos import registry
from zooadapt.zoos.timm import TimmZoo

HOSTILE = [
    "", ".", "..", "...", "../../outside", "a/../../outside", "a\\..\\b", "/etc/passwd", "~",
    "~root", "%2e%2e", "%2e%2e%2foutside", "a b?c#d*[e]", "nul\0byte", "new\nline", "ü", "u\u0308",
    "模型", "🛰" * 90, "x" * 255, "x" * 256, "x" * 5000, "CON", ".lock", "ResNet", "resnet",
]  # fmt: skip


def test_a_name_is_one_safe_part_of_a_key() -> None:
    for part in map(safe, HOSTILE):
        assert part.isascii()
        assert part.isprintable()
        assert "/" not in part
        assert part not in ("", ".", "..")
        assert len(part) <= LONGEST


def test_different_names_stay_different() -> None:
    names = [*HOSTILE, "..%", "%7E", "a%2Fb", "a/b", safe("x" * 5000), safe("/etc/passwd")]
    assert len({safe(name) for name in names}) == len(names)


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_two_names_meet(one: str, other: str) -> None:
    for name in (one, other):
        assert Path("root", safe(name)).resolve().parent == Path("root").resolve()
    assert (safe(one) == safe(other)) == (one == other)


def test_an_ordinary_name_is_itself() -> None:
    assert safe("vit_base_patch16_224.augreg2_in21k_ft_in1k") == (
        "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    )


class Renamed(TimmZoo):
    """A zoo that builds the same small model under every name."""

    def facts(self, entry: ModelEntry) -> ModelFacts:
        return super().facts(replace(entry, name=SMALL))

    def build(self, entry: ModelEntry, in_chans: int) -> nn.Module:
        return super().build(replace(entry, name=SMALL), in_chans)

    def convert(
        self, entry: ModelEntry, model: nn.Module, content: dict[str, Any]
    ) -> tuple[Mapping[str, Any], bool]:
        return super().convert(replace(entry, name=SMALL), model, content)


class Caseless(DirFileSystem):  # type: ignore[misc]
    """A folder that ignores the case of names."""

    protocol = "caseless"

    def _join(self, path: Any) -> Any:
        return super()._join(path.lower() if isinstance(path, str) else path)


@pytest.fixture(params=["local", "s3", "caseless"])
def dest(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A mirror on a store of each kind, in a folder that holds nothing else."""
    fsspec.register_implementation("caseless", Caseless, clobber=True)
    (tmp_path / "room" / "mirror").mkdir(parents=True)
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/room/mirror"
    if request.param == "caseless":
        return f"caseless://mirror::file://{tmp_path}/room"
    return f"{tmp_path}/room/mirror"


def test_every_model_stays_in_its_place_and_can_be_loaded(
    dest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "get", lambda name: Renamed())
    models = ["ResNet", "resnet", "../../outside", "🛰" * 90]
    for seed, model in enumerate(models):
        root = tmp_path / "zoos" / str(seed)
        checkpoints.write_hub_repo(root, SMALL, seed)
        rows = run(replace(entry(SMALL), name=model), (*counted(4), ODD), root, dest)
    assert sorted(row["model"] for row in rows) == sorted(2 * models)
    assert len({row["sha256"] for row in rows}) == 2 * len(models)
    room = dest.removesuffix("/mirror") if dest.startswith("s3:") else f"{tmp_path}/room"
    for key in map(str.lower, open_store(room).list("")):
        mirror, kind, zoo, model, *_ = f"{key}///".split("/")
        assert mirror == "mirror"
        if kind not in ("manifest.parquet", "failures.parquet", ".lock"):
            assert kind in ("weights", "records")
            assert (zoo, model) in {("timm", safe(name).lower()) for name in models}
    for seed, model in enumerate(models):
        reader = open_mirror(dest, cache_dir=tmp_path / "cache")
        head = reader.load(model, in_chans=4).state_dict()["fc.weight"]
        assert torch.equal(head, checkpoints.random_state_dict(SMALL, seed)["fc.weight"])


@pytest.mark.parametrize("key", ["weights/timm/x/..", "..", "weights/timm/x/", ".", "/etc/x"])
def test_a_manifest_can_not_have_a_reader_write_elsewhere(key: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", [])
    with pytest.raises(UsageError, match="isn't the name of anything in a mirror"):
        cache.pull({"folder": key, "sha256": "", "bytes": 0})
    with pytest.raises(UsageError, match="isn't the name of anything in a mirror"):
        cache.stem(key)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[1:20])
def test_a_download_stays_in_its_spool(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/file", b"weights")
    source = sources.find_file("memory:///file", f"https://host/{quote(name, safe='/')}", {}).source
    located = Located(source, memory, "/file")
    with scratch_folder() as mine:
        file, _ = fetch.fetch(located, mine)
        assert file.read_bytes() == b"weights"
        with scratch_folder():  # removes the folders that nobody holds
            assert file.resolve().parent == mine.resolve()
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_nobody_else_names_the_download(small: Path, tmp_path: Path) -> None:
    with hub.serving(small) as served:  # its Content-Disposition names ../../outside
        job = Job("run", "mirror", source_root=f"{served.url}/files")
        file, _ = fetch.fetch(sources.locate(entry(SMALL), job), tmp_path)
    assert [*tmp_path.rglob("*")] == [file]
    assert file.name == "model.safetensors"


def test_a_repository_that_can_not_be_is_a_failure_of_its_model(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.serving(small) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        for name in ("../../etc", "a/../../b", "timm/x@../../y", "a b/c", "x" * 300):
            with pytest.raises(FetchError):
                sources.locate(replace(entry(SMALL), hub_id=name), Job("run", "mirror"))


@pytest.mark.parametrize("url", ["https://[host/x.pth", "nosuch://x", "http://"])
def test_a_url_that_can_not_be_is_a_failure_of_its_model(url: str) -> None:
    broken = replace(entry(SMALL), hub_id=None, url=url)
    with pytest.raises(FetchError):
        sources.locate(broken, Job("run", "mirror"))
