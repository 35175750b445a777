"""If a source or a store misbehaves, either the right bytes are used or an error is raised."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tenacity import wait_none

from tests.conftest import SMALL
from tests.support import faults, hub
from tests.support.faults import Asked, FaultProxy
from tests.support.seaweed import BUCKET, SeaweedFS
from zooadapt import ranges
from zooadapt.checkpoints import fetch, sources
from zooadapt.checkpoints import hub as zoo_hub
from zooadapt.errors import Conflict, FetchError
from zooadapt.stores import multipart
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.types import Job, ModelEntry

MIB = 2**20


def once(fault: str, wanted: Callable[[Asked], bool] = lambda asked: True) -> faults.Rule:
    """A rule that strikes a request the first time it is made."""
    return lambda asked: fault if asked.number == 0 and wanted(asked) else None


def always(fault: str, wanted: Callable[[Asked], bool] = lambda asked: True) -> faults.Rule:
    """A rule that strikes a request every time."""
    return lambda asked: fault if wanted(asked) else None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't wait between attempts; use small blocks and parts."""
    for tried_again in (fetch.read_range, fetch.read_at, multipart.call_s3):
        monkeypatch.setattr(tried_again.retry, "wait", wait_none())
    monkeypatch.setattr(ranges, "BLOCK", 100_000)
    monkeypatch.setattr(multipart, "PART", 5 * MIB)


ENTRY = ModelEntry("timm", SMALL, "test_resnet", "r160_in1k", None, f"timm/{SMALL}")
JOB = Job("run", "unused")
RETRIED = ["cut", "short", "wrong", "drip", "429", "429-after", "503", "503-after"]


@pytest.fixture
def cdn(small: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the server from which a loopback Hub's weights come."""
    with hub.serving(small) as served, faults.proxy(served.cdn) as proxy:
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        served.cdn = proxy.url
        yield proxy


def digest(small: Path) -> str:
    (file,) = small.rglob("model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("fault", RETRIED)
def test_a_source_that_fails_for_a_while(
    fault: str, cdn: FaultProxy, small: Path, tmp_path: Path
) -> None:
    cdn.rule = once(fault)
    file, found = fetch.fetch(sources.locate(ENTRY, JOB), tmp_path)
    assert found == digest(small) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert cdn.counts[fault] >= 10, "each block was struck"


def test_a_server_that_ignores_ranges(cdn: FaultProxy, small: Path, tmp_path: Path) -> None:
    cdn.rule = always("whole")
    _, found = fetch.fetch(sources.locate(ENTRY, JOB), tmp_path)
    assert found == digest(small)


@pytest.mark.parametrize("fault", ["cut", "short", "wrong", "429", "503"])
def test_a_source_that_fails_for_ever_is_an_error_after_a_few_attempts(
    fault: str, cdn: FaultProxy, tmp_path: Path
) -> None:
    cdn.rule = always(fault)
    with pytest.raises(FetchError, match=f"hf://timm/{SMALL}"):
        fetch.fetch(sources.locate(ENTRY, JOB), tmp_path)
    asked = [asked.number for _, asked in cdn.struck]
    assert max(asked) < 5
    left = [file.name for file in tmp_path.iterdir() if file.suffix != ".partial"]
    assert not left, "nothing that could be taken for a checkpoint is left"


def test_a_source_that_is_silent(
    cdn: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo_hub, "SILENCE", 0.2)
    cdn.rule = always("silent")
    with pytest.raises(FetchError, match="can't be read"):
        fetch.fetch(sources.locate(ENTRY, JOB), tmp_path)


def test_a_source_without_a_hash_that_is_replaced_meanwhile(small: Path, tmp_path: Path) -> None:
    (file,) = small.rglob("model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(file.read_bytes())
    spool = tmp_path / "spool"
    spool.mkdir()
    entry = replace(ENTRY, hub_id=None, url="https://example.com/model.safetensors")
    with hub.serving(tmp_path) as served, faults.proxy(served.url) as proxy:
        job = replace(JOB, source_root=f"{proxy.url}/files")
        located = sources.locate(entry, job)

        def replaced(asked: Asked) -> str | None:
            if asked.method == "GET" and asked.number == 0 and asked.range.startswith("bytes=300"):
                data = bytearray(file.read_bytes())
                data[-1] ^= 1
                (tmp_path / "model.safetensors").write_bytes(data)
            return None

        proxy.rule = replaced
        with pytest.raises(FetchError, match="was replaced"):
            fetch.fetch(located, spool)


def test_a_redirect_that_goes_round_in_circles(cdn: FaultProxy, tmp_path: Path) -> None:
    located = sources.locate(ENTRY, JOB)
    cdn.rule = always("circle")
    with pytest.raises(FetchError, match="can't be read"):
        fetch.fetch(located, tmp_path)


@pytest.fixture
def faulty(s3: SeaweedFS) -> Iterator[tuple[FaultProxy, Store, Store]]:
    """A proxy in front of S3, the store through the proxy, and the store without it."""
    with faults.proxy(s3.endpoint_url, read=s3.read) as proxy:
        url = f"s3://{BUCKET}/faulty"
        retries = {"config_kwargs": {"retries": {"max_attempts": 2}}}  # to keep the wait short
        options = {**s3.options, **retries, "skip_instance_cache": True}
        yield (
            proxy,
            open_store(url, {**options, "endpoint_url": proxy.url}),
            open_store(url, options),
        )


def is_data(asked: Asked) -> bool:
    return asked.method == "PUT" and asked.size > 0


def is_end(asked: Asked) -> bool:
    return asked.method == "POST" and "uploadId=" in asked.path


@pytest.mark.parametrize("size", [1000, 12 * MIB])
@pytest.mark.parametrize("fault", ["500", "slow-down", "409", "reset", "lost"])
def test_a_store_that_fails_for_a_while(
    fault: str, size: int, faulty: tuple[FaultProxy, Store, Store]
) -> None:
    proxy, store, real = faulty
    proxy.rule = once(fault, is_data)
    data = bytes(range(250)) * (size // 250)
    store.write(f"w/{fault}-{size}", [data])
    assert proxy.counts[fault] == (1 if size < MIB else 3)
    assert real.read(f"w/{fault}-{size}") == data


def test_a_store_that_ignores_ranges(faulty: tuple[FaultProxy, Store, Store]) -> None:
    proxy, store, real = faulty
    data = bytes(range(250)) * 100
    real.write("whole", [data])
    proxy.rule = always("whole", lambda asked: bool(asked.range))
    assert store.read_range("whole", 100, 300) == data[100:300]
    assert b"".join(store.chunks("whole", 70)) == data[70:]
    assert proxy.counts["whole"] == 2


@pytest.mark.parametrize("fault", ["500", "slow-down", "409", "reset", "lost", "error-inside"])
def test_the_end_of_an_upload_that_fails_for_a_while(
    fault: str, faulty: tuple[FaultProxy, Store, Store]
) -> None:
    proxy, store, real = faulty
    proxy.rule = once(fault, is_end)
    data = bytes(range(256)) * (12 * MIB // 256)
    store.write(f"end/{fault}", [data])
    assert proxy.counts[fault] == 1
    assert real.read(f"end/{fault}") == data


@pytest.mark.parametrize("fault", ["500", "409", "reset", "error-inside"])
def test_a_store_that_fails_for_ever_is_an_error_and_shows_nothing(
    fault: str, faulty: tuple[FaultProxy, Store, Store]
) -> None:
    proxy, store, real = faulty
    proxy.rule = always(fault, is_end if fault == "error-inside" else is_data)
    with pytest.raises(OSError, match=r"on purpose|connect|409|InternalError"):
        store.write(f"never/{fault}", [b"x" * 12 * MIB])
    assert not real.exists(f"never/{fault}")
    assert max(asked.number for _, asked in proxy.struck) < 30
    uploads = real.fs.call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads", [])
    assert not [upload for upload in uploads if upload["Key"].endswith(f"never/{fault}")]


@pytest.mark.parametrize("fault", ["500", "slow-down", "reset", "lost"])
@pytest.mark.parametrize("first", [True, False])
def test_a_conditional_write_whose_answer_is_lost_took_effect_or_is_refused(
    fault: str, first: bool, faulty: tuple[FaultProxy, Store, Store]
) -> None:
    proxy, store, real = faulty
    key = f"manifest-{fault}-{first}"
    if not first:
        real.write(key, [b"old"])
    version = store.version(key)
    proxy.rule = once(fault, is_data)
    store.replace(key, b"new", version)
    assert real.read(key) == b"new"
    with pytest.raises(Conflict):
        store.replace(key, b"newer", version)
    assert real.read(key) == b"new"
