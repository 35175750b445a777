"""Shared servers and checkpoints; each is made once a session, when first asked for."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch comes: the workers share the cores

from tests.support import checkpoints, seaweed
from tests.support.jobs import Runner, ray_folder
from tests.support.seaweed import SeaweedFS
from zooadapt.stores import shared_bytes

FAMILIES = [
    "resnet18.a1_in1k",
    "test_vit.r160_in1k",
    "convnext_atto.d2_in1k",
    "efficientnet_b0.ra_in1k",
    "swin_tiny_patch4_window7_224.ms_in1k",
    "repvgg_a0.rvgg_in1k",
    "crossvit_9_240.in1k",
    "mobileone_s0.apple_in1k",
]
SMALL = "test_resnet.r160_in1k"
LONGEST = [
    "test_autoscaling", "test_resume", "test_run", "test_transformers", "test_folder",
    "test_conformance", "test_secrets", "test_older_timm", "test_nodes", "test_submit",
    "test_plugins", "test_ray_executor", "test_torchvision", "test_zoo_models", "test_names",
    "test_recipes", "test_page", "test_faults",
]  # fmt: skip
"""The files that take longest, in about that order. `test_autoscaling` has to come before
`test_ray_executor`: its validators never start in a process that had that one's Ray before."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put LONGEST first, so that at the end no worker is left alone with one of them."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(LONGEST)))


@pytest.fixture(autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for each test, empty but for the lists of zoos, which all tests share."""
    folder, lists = tmp_path_factory.mktemp("cache"), tmp_path_factory.getbasetemp().parent / "zoos"
    lists.mkdir(exist_ok=True)
    (folder / "zoos").symlink_to(lists)
    monkeypatch.setenv("ZOOADAPT_CACHE", str(folder))
    for name in ("ZOOADAPT_MIRROR", "ZOOADAPT_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A running SeaweedFS."""
    with seaweed.running(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def bucket(s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty place in S3, reachable through the standard AWS variables."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # one with an endpoint of before may be kept
    yield f"s3://{seaweed.BUCKET}/{uuid.uuid4().hex}"
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source root with a checkpoint of each of FAMILIES."""
    return checkpoints.write_hub_repos(tmp_path_factory.mktemp("families"), FAMILIES)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A source root with one tiny model, SMALL. All tests share it, so none may change it."""
    root = checkpoints.write_hub_repos(tmp_path_factory.mktemp("small"), [SMALL])
    before = contents(root)
    yield root
    assert contents(root) == before, "a test changed what all tests share; `own_small` is for that"


@pytest.fixture
def own_small(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `small` that the test may change."""
    return Path(shutil.copytree(small, tmp_path_factory.mktemp("own") / "small"))


def contents(root: Path) -> dict[str, bytes]:
    """The files below a folder, by their paths."""
    return {str(file): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def alone() -> Iterator[Runner]:
    """Runs jobs where no cluster is running."""
    with ray_folder() as env:
        yield Runner(env)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied parts so small that a large object has several."""
    monkeypatch.setattr(shared_bytes, "PART", 8 * 2**20)
