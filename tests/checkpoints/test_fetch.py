"""A fetched file has the bytes that its source states, wherever it comes from."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from tenacity import wait_none

from tests.conftest import SMALL
from tests.support import hub
from tests.support.hub import LoopbackHub
from tests.support.seaweed import SeaweedFS
from zooadapt import ranges
from zooadapt.checkpoints import fetch, sources
from zooadapt.errors import FetchError, Unreachable
from zooadapt.types import Job, ModelEntry

ENTRY = ModelEntry("timm", SMALL, "test_resnet", "r160_in1k", None, hub_id=f"timm/{SMALL}")
JOB = Job("run", "mirror")


@pytest.fixture
def served(small: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A loopback Hub over the small source root, which this process takes for the Hub."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub.serving(small) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


def original(root: Path) -> Path:
    return root / "timm" / SMALL / "model.safetensors"


def fetched(entry: ModelEntry, job: Job, spool: Path) -> tuple[bytes, str]:
    file, digest = fetch.fetch(sources.locate(entry, job), spool)
    return file.read_bytes(), digest


def test_from_the_hub(served: LoopbackHub, small: Path, tmp_path: Path) -> None:
    source = sources.locate(ENTRY, JOB).source
    commit = served.commit(f"timm/{SMALL}")
    assert source.uri == f"hf://timm/{SMALL}@{commit}/model.safetensors"
    assert commit in source.identity
    data = original(small).read_bytes()
    assert source.sha256 == hashlib.sha256(data).hexdigest()
    assert fetched(ENTRY, JOB, tmp_path) == (data, source.sha256)


def test_one_request_resolves_and_the_body_is_read_once(
    served: LoopbackHub, small: Path, tmp_path: Path
) -> None:
    fetched(ENTRY, JOB, tmp_path)
    assert [r.method for r in served.asked if "/resolve/" in r.path] == ["HEAD"]
    assert served.body_bytes() == original(small).stat().st_size


def test_a_gated_repository_asks_for_a_token(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: Path
) -> None:
    served.token = "hf_secretsecret"
    with pytest.raises(FetchError, match="HF_TOKEN"):
        sources.locate(ENTRY, JOB)
    monkeypatch.setenv("HF_TOKEN", served.token)
    assert fetched(ENTRY, JOB, tmp_path)[0] == original(small).read_bytes()


def test_a_repository_that_is_not_there(served: LoopbackHub) -> None:
    with pytest.raises(FetchError, match="hf://timm/gone isn't there"):
        sources.locate(replace(ENTRY, hub_id="timm/gone"), JOB)


def test_a_repository_without_weights(served: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "timm" / "bare").mkdir(parents=True)
    (tmp_path / "timm" / "bare" / "config.json").write_text("{}")
    served.root = tmp_path
    with pytest.raises(FetchError, match=r"none of model\.safetensors, pytorch_model\.bin"):
        sources.locate(replace(ENTRY, hub_id="timm/bare"), JOB)


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub's own back-off
    with pytest.raises(Unreachable, match=r"the Hub at http://127.* doesn't answer"):
        sources.locate(ENTRY, JOB)


@pytest.mark.parametrize("by_ranges", [True, False])
def test_from_a_web_server(
    served: LoopbackHub,
    small: Path,
    tmp_path: Path,
    by_ranges: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranges, "BLOCK", 100_000)  # several ranges
    served.ranges = by_ranges
    job = replace(JOB, source_root=f"{served.url}/files")
    assert fetched(ENTRY, job, tmp_path)[0] == original(small).read_bytes()


def test_from_a_folder_the_file_is_read_in_place(small: Path, tmp_path: Path) -> None:
    located = sources.locate(ENTRY, replace(JOB, source_root=str(small)))
    file, digest = fetch.fetch(located, tmp_path)
    assert file == original(small)
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"bytes={file.stat().st_size}" in located.source.identity


def test_from_s3(s3: SeaweedFS, bucket: str, small: Path, tmp_path: Path) -> None:
    s3.filesystem().put(str(small / "timm"), f"{bucket}/zoo/", recursive=True)
    located = sources.locate(ENTRY, replace(JOB, source_root=f"{bucket}/zoo"))
    assert "ETag=" in located.source.identity
    assert fetch.fetch(located, tmp_path)[0].read_bytes() == original(small).read_bytes()


def test_the_second_name_is_looked_for_too(tmp_path: Path) -> None:
    folder = tmp_path / "timm" / SMALL
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    job = replace(JOB, source_root=str(tmp_path))
    assert sources.locate(ENTRY, job).source.uri.endswith("pytorch_model.bin")


def test_a_missing_source_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=rf"timm/{SMALL} has neither model.safetensors nor"):
        sources.locate(ENTRY, replace(JOB, source_root=str(tmp_path)))


def test_the_hash_in_a_name_is_the_stated_one(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    entry = replace(ENTRY, hub_id=None, url=f"https://host/dir/net-{digest[:8]}.pth")
    (tmp_path / f"net-{digest[:8]}.pth").write_bytes(b"weights")
    job = replace(JOB, source_root=str(tmp_path))
    assert fetched(entry, job, tmp_path)[1] == digest
    (tmp_path / f"net-{digest[:8]}.pth").write_bytes(b"other weights")
    with pytest.raises(FetchError, match="instead of the stated"):
        fetched(entry, job, tmp_path)


def test_a_short_number_in_a_name_is_no_hash(tmp_path: Path) -> None:
    entry = replace(ENTRY, hub_id=None, url="https://host/IN22K-vit.g.16-600e.pth.tar")
    (tmp_path / "IN22K-vit.g.16-600e.pth.tar").write_bytes(b"weights")
    job = replace(JOB, source_root=str(tmp_path))
    assert sources.locate(entry, job).source.sha256 == ""


def test_wrong_content_of_the_right_length(
    served: LoopbackHub, tmp_path: Path, small: Path
) -> None:
    located = sources.locate(ENTRY, JOB)
    wrong = replace(located, source=replace(located.source, sha256="0" * 64))
    with pytest.raises(FetchError, match=r"has sha256 .* instead of the stated 0000"):
        fetch.fetch(wrong, tmp_path)


def test_a_truncated_body(
    served: LoopbackHub, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch.read_range.retry, "wait", wait_none())
    located = sources.locate(ENTRY, JOB)
    size = original(small).stat().st_size
    longer = replace(located, source=replace(located.source, bytes=size + 5))
    with pytest.raises(FetchError, match=f"{size} bytes came where {size + 5} were asked for"):
        fetch.fetch(longer, tmp_path)


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [
        ("", 0), ("7", 7), ("-7", 0), ("²", 0), ("soon", 0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0), ("3601", 3601), ("9" * 400, math.inf),
    ],
)  # fmt: skip
def test_how_long_a_refusal_says_to_wait(stated: str, seconds: float) -> None:
    told = fetch.told_to_wait({"Retry-After": stated})
    assert told == seconds
    until = fetch.with_wait(Unreachable("busy"), told).until
    assert bool(until) == (stated == "7"), "neither for long nor for ever"


def test_a_refusal_that_states_a_date() -> None:
    tomorrow = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    assert fetch.told_to_wait({"Retry-After": tomorrow}) == pytest.approx(86_400, abs=60)


def test_the_location_is_stable_and_names_the_root() -> None:
    assert sources.location(ENTRY, None) == f"hf://timm/{SMALL}"
    assert sources.location(ENTRY, "s3://zoo/") == f"s3://zoo/timm/{SMALL}"
    with pytest.raises(FetchError, match="names no source"):
        sources.location(replace(ENTRY, hub_id=None), None)


def test_a_package_that_is_not_installed() -> None:
    entry = replace(ENTRY, hub_id=None, url="package://no_such_package/model.pth")
    with pytest.raises(FetchError, match="no_such_package isn't installed"):
        sources.locate(entry, JOB)
