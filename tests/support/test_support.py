"""The servers and checkpoints do what the other tests take for granted."""

import hashlib
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download

from tests.conftest import SMALL
from tests.support import checkpoints, hub, seaweed
from tests.support.seaweed import SeaweedFS


def test_s3_refuses_what_a_precondition_forbids(s3: SeaweedFS) -> None:
    filesystem = s3.filesystem()
    path = f"{seaweed.BUCKET}/conditions"
    filesystem.pipe_file(path, b"one", mode="create")
    with pytest.raises(OSError):  # noqa: PT011 - what s3fs makes of a 412
        filesystem.pipe_file(path, b"two", mode="create")
    write = {"Bucket": seaweed.BUCKET, "Key": "conditions"}
    etag = filesystem.info(path)["ETag"]
    filesystem.call_s3("put_object", **write, Body=b"two", IfMatch=etag)
    with pytest.raises(OSError):  # noqa: PT011
        filesystem.call_s3("put_object", **write, Body=b"three", IfMatch=etag)
    assert filesystem.cat_file(path) == b"two"


def test_the_hub_answers_as_the_real_one(small: Path, tmp_path: Path) -> None:
    file = small / "timm" / SMALL / "model.safetensors"
    with hub.serving(small) as served:
        url = f"{served.url}/timm/{SMALL}/resolve/main/model.safetensors"
        facts = get_hf_file_metadata(url, token=False)
        assert facts.etag == hashlib.sha256(file.read_bytes()).hexdigest()
        assert (facts.size, len(facts.commit_hash or "")) == (file.stat().st_size, 40)
        copy = hf_hub_download(
            f"timm/{SMALL}", file.name, endpoint=served.url, cache_dir=tmp_path, token="secret"
        )
    assert Path(copy).read_bytes() == file.read_bytes()


def test_checkpoints_are_seeded_and_let_the_image_through() -> None:
    one, same, other = (checkpoints.random_state_dict(SMALL, seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])
    model = timm.create_model(SMALL).eval()
    model.load_state_dict(one)
    with torch.inference_mode():
        first, second = model(torch.randn(2, 3, 160, 160))
    assert (first - second).abs().max() > 0.1 * first.abs().max()
