"""Siblings that the store composes from the first variant equal siblings that are sent."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.support.composed import BODY, MIB, change, key, two, variant
from zooadapt.errors import PublishError
from zooadapt.mirror import publish
from zooadapt.mirror.safetensors_file import bytes_of
from zooadapt.stores.opening import open_store
from zooadapt.stores.shared_bytes import HEAD, SharedBytes
from zooadapt.stores.store import Store
from zooadapt.targets import Bands, Target


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return open_store(request.getfixturevalue("bucket"))
    return open_store(str(tmp_path / "store"))


def test_a_composed_object_is_what_would_have_been_sent(
    store: Store, parts: None, tmp_path: Path
) -> None:
    _, made = two(store)
    whole = variant(open_store(str(tmp_path / "other")), 5)
    assert (made.folder, made.sha256, made.bytes) == (whole.folder, whole.sha256, whole.bytes)
    file, digest = store.local_file(key(made), tmp_path)
    assert digest == made.sha256
    assert torch.equal(safetensors.torch.load_file(file)["b"], BODY["b"])


def test_s3_is_sent_the_head_only(
    bucket: str, parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(bucket)
    first = variant(store, 3)
    sent: list[int] = []
    call = store.fs.call_s3

    def listen(method: str, *positional: Any, **arguments: Any) -> Any:
        sent.append(len(arguments.get("Body", b"")))
        return call(method, *positional, **arguments)

    monkeypatch.setattr(store.fs, "call_s3", listen)
    made = variant(store, 5, publish.shared_bytes(BODY, first))
    assert made.seams
    assert max(sent) == made.head + made.seams[0]
    assert sum(sent) - max(sent) < 1000  # config.json
    assert HEAD <= made.seams[0] < HEAD + 4 * MIB


def test_a_copy_of_other_bytes_is_an_error(bucket: str, parts: None) -> None:
    store = open_store(bucket)
    first = variant(store, 3)
    change(store, first, first.bytes - 1000)
    with pytest.raises(PublishError, match="copied other bytes"):
        variant(store, 5, publish.shared_bytes(BODY, first))
    assert len(store.list("w")) == 2


def test_a_store_that_cannot_copy_is_sent_everything(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = open_store(bucket)
    first = variant(store, 3)
    call = store.fs.call_s3

    def refuse(method: str, *positional: Any, **arguments: Any) -> Any:
        if method == "upload_part_copy":
            raise OSError("not implemented")
        return call(method, *positional, **arguments)

    monkeypatch.setattr(store.fs, "call_s3", refuse)
    made = variant(store, 5, publish.shared_bytes(BODY, first))
    assert not made.seams
    assert store.local_file(key(made), tmp_path)[1] == made.sha256


def test_a_small_body_is_not_shared(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    target, body = Target(Bands.counted(3), "repeat"), {"b": torch.zeros(MIB)}
    made = publish.publish_variant(store, "w", target, {"s": torch.zeros(1)}, body, {})
    assert publish.shared_bytes(body, made) is None


def test_a_plain_md5_is_understood_and_nothing_else() -> None:
    shared = SharedBytes([(t.nbytes, partial(bytes_of, t)) for t in BODY.values()], "key", 88)
    data = b"".join(shared.bytes(10, 5000))
    assert len(data) == 4990
    assert shared.is_stated(f'"{hashlib.md5(data).hexdigest()}"', 10, 5000)
    assert shared.is_stated("0" * 32, 10, 5000) is False
    assert shared.is_stated("crc-something", 10, 5000) is None
    assert shared.is_stated("0" * 32 + "-7", 10, 5000) is None


def test_etags_that_are_no_md5s_are_no_checksums(
    bucket: str, parts: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = open_store(bucket)
    first = variant(store, 3)
    call = store.fs.call_s3

    def encrypted(method: str, *positional: Any, **arguments: Any) -> Any:
        answer = call(method, *positional, **arguments)
        if method == "upload_part":
            real[0] = answer["ETag"]
            return {**answer, "ETag": '"' + "0" * 32 + '"'}
        return answer

    real = [""]

    def restore(method: str, *positional: Any, **arguments: Any) -> Any:
        if method == "complete_multipart_upload":
            arguments["MultipartUpload"]["Parts"][0]["ETag"] = real[0]
        return encrypted(method, *positional, **arguments)

    monkeypatch.setattr(store.fs, "call_s3", restore)
    made = variant(store, 5, publish.shared_bytes(BODY, first))
    assert made.seams == ()
    assert store.local_file(key(made), tmp_path)[1] == made.sha256
