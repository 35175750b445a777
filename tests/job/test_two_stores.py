"""The sources' store and the mirror's store each have their own endpoint and credentials."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
import yaml

from tests.conftest import SMALL
from tests.support import checkpoints, faults, seaweed
from tests.support.faults import Asked
from tests.support.jobs import Runner, ok, rows
from tests.support.pipelines import counted, entry
from tests.support.seaweed import SeaweedFS
from zooadapt import pipeline
from zooadapt.mirror import manifest
from zooadapt.stores.opening import open_store
from zooadapt.types import Adapted, Job, Request

ROOT = f"s3://{seaweed.BUCKET}/checkpoints"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A second server, with a checkpoint. It accepts other keys than the first server."""
    folder = tmp_path_factory.mktemp("source")
    with seaweed.running(folder, 20, access_key="other-key", secret_key="other-81c2") as server:
        local = checkpoints.write_hub_repos(tmp_path_factory.mktemp("zoo"), [SMALL])
        server.filesystem().put(f"{local}/", f"{ROOT}/", recursive=True)
        yield server


class Seen(list[Asked]):
    """A rule of a proxy that makes no faults, and keeps the requests that it saw."""

    def __call__(self, asked: Asked) -> None:
        self.append(asked)

    @property
    def keys(self) -> set[str]:
        """The keys that signed the requests."""
        found = (re.findall(r"Credential=([^/]+)/", a.headers["authorization"]) for a in self)
        return {key for keys in found for key in keys}


def test_each_server_refuses_the_other_s_keys(s3: SeaweedFS, source: SeaweedFS) -> None:
    crossed = {**source.options, "endpoint_url": s3.endpoint_url}
    with pytest.raises(PermissionError):
        s3fs.S3FileSystem(**crossed, skip_instance_cache=True).ls(seaweed.BUCKET)


def test_each_store_is_asked_with_its_own_keys(
    s3: SeaweedFS, source: SeaweedFS, tmp_path: Path
) -> None:
    there, here = Seen(), Seen()
    with (
        faults.proxy(source.endpoint_url, there) as far,
        faults.proxy(s3.endpoint_url, here) as near,
    ):
        job = Job(
            "run",
            f"s3://{seaweed.BUCKET}/{tmp_path.name}",
            source_root=ROOT,
            dest_options={**s3.options, "endpoint_url": near.url},
            source_options={**source.options, "endpoint_url": far.url},
        )
        adapted = pipeline.adapt(Request(entry(SMALL), counted(4)), job)
        assert isinstance(adapted, Adapted), adapted
        assert not pipeline.prove(adapted, job).failures
        assert len(manifest.compact(open_store(job.dest, job.dest_options)).usable) == 1
    assert (there.keys, here.keys) == ({source.access_key}, {s3.access_key})
    assert {asked.method for asked in there} <= {"GET", "HEAD"}
    assert {asked.method for asked in here} >= {"PUT", "GET"}


@pytest.mark.slow  # a whole job; the stages are tested above
def test_a_job_with_the_mirror_by_environment_and_the_source_by_profile(
    alone: Runner, s3: SeaweedFS, source: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    """configs/timm.yaml suggests it so."""
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[checkpoints]\naws_access_key_id = {source.access_key}\n"
        f"aws_secret_access_key = {source.secret_key}\n"
    )
    options = {"endpoint_url": source.endpoint_url, "profile": "checkpoints"}
    job = {"chans": 4, "models": SMALL, "dest": bucket, "source_root": ROOT}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**job, "source_storage_options": options}))
    environment = {**s3.env, "AWS_SHARED_CREDENTIALS_FILE": str(credentials)}
    ok(alone.job("--config", str(tmp_path / "job.yaml"), **environment))
    (uri,) = rows(bucket)["source_uri"]
    assert uri.startswith(ROOT)
    made = s3.filesystem().find(bucket)
    assert made
    assert not [path for path in source.filesystem().find(seaweed.BUCKET) if path in made]
