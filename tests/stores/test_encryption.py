"""Options of server-side encryption reach every write, and no ETag is mistaken for an MD5."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import s3fs
import torch
from fsspec.asyn import sync_wrapper

from tests.conftest import SMALL
from tests.support import faults
from tests.support.composed import BODY, key
from tests.support.faults import Asked
from tests.support.pipelines import counted, entry
from tests.support.seaweed import SeaweedFS
from zooadapt import pipeline
from zooadapt.errors import Conflict
from zooadapt.mirror import manifest, publish
from zooadapt.report import page
from zooadapt.stores import multipart, shared_bytes
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.targets import Bands, Target
from zooadapt.types import Adapted, Job, Published, Request

MIB = 2**20
ENCRYPTION = "x-amz-server-side-encryption"
AES256 = {"ServerSideEncryption": "AES256"}
KMS = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/mirror"}


@dataclass
class Watched:
    """A mirror's URL and options, and the requests that made objects in it."""

    url: str
    options: dict[str, Any]
    made: list[Asked] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return open_store(self.url, self.options)

    @property
    def stated(self) -> set[str | None]:
        """The encryption that the requests asked for."""
        return {asked.headers.get(ENCRYPTION) for asked in self.made}


def makes_an_object(asked: Asked) -> bool:
    """Whether a request starts an object; an upload's other requests inherit its encryption."""
    _, _, query = asked.path.partition("?")
    begun = asked.method == "POST" and query.startswith("uploads")
    return begun or (asked.method == "PUT" and "partNumber" not in query)


@pytest.fixture
def watched(s3: SeaweedFS, bucket: str) -> Iterator[Watched]:
    """A mirror whose options ask for encryption."""

    def watch(asked: Asked) -> None:
        if makes_an_object(asked):
            state.made.append(asked)

    with faults.proxy(s3.endpoint_url, watch) as proxy:
        options = {**s3.options, "endpoint_url": proxy.url, "s3_additional_kwargs": AES256}
        state = Watched(bucket, options)
        yield state


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "PART", 6 * MIB)
    monkeypatch.setattr(shared_bytes, "PART", 8 * MIB)


def write_once(store: Store) -> None:
    store.write("object", [b"x"])


def write_page(store: Store) -> None:
    store.write("index.html", [b"x"])


def write_parts(store: Store) -> None:
    store.write("large", [bytes(MIB)] * 13)


def write_table(store: Store) -> None:
    store.replace("table", b"one", None)
    store.replace("table", b"two", store.version("table"))


def variant(store: Store, chans: int, first: Published | None = None) -> Published:
    """A variant of a large model, composed from `first` if that is given."""
    target = Target(Bands.counted(chans), "repeat")
    shared = publish.shared_bytes(BODY, first) if first else None
    stems = {"stem": torch.full((8, chans, 3, 3), 0.5)}
    return publish.publish_variant(store, "w", target, stems, BODY, {"zooadapt": {}}, shared)


def write_siblings(store: Store) -> None:
    made = variant(store, 5, variant(store, 3))
    assert made.seams, "it wasn't composed"


@pytest.mark.parametrize(
    ("write", "requests"),
    [(write_once, 1), (write_page, 1), (write_parts, 1), (write_table, 2), (write_siblings, 4)],
)
def test_every_kind_of_write_asks_for_encryption(
    watched: Watched, small_parts: None, write: Callable[[Store], None], requests: int
) -> None:
    write(watched.store)
    assert len(watched.made) == requests
    assert watched.stated == {"AES256"}
    assert_encrypted(watched.store)


def assert_encrypted(store: Store) -> None:
    """Assert that the server states encryption for every object."""
    keys = store.list("")
    assert keys
    for name in keys:
        where = multipart.place(store.fs, store.path(name))
        assert store.fs.call_s3("head_object", **where)["ServerSideEncryption"] == "AES256", name


def test_a_whole_mirror_is_encrypted_and_read(
    watched: Watched, small: Path, small_parts: None
) -> None:
    job = Job("run", watched.url, source_root=str(small), dest_options=watched.options)
    adapted = pipeline.adapt(Request(entry(SMALL), counted(1, 4)), job)
    assert isinstance(adapted, Adapted), adapted
    assert not pipeline.prove(adapted, job).failures
    assert len(manifest.compact(watched.store).usable) == 2
    page.write(watched.store)
    assert len(watched.made) > 7
    assert watched.stated == {"AES256"}
    assert_encrypted(watched.store)


def test_without_the_options_nothing_is_asked_for(watched: Watched) -> None:
    """The tests above would fail without the encryption option."""
    del watched.options["s3_additional_kwargs"]
    write_once(watched.store)
    assert watched.stated == {None}


def test_the_key_of_a_kms_is_named(s3: SeaweedFS, bucket: str, small_parts: None) -> None:
    """The proxy refuses all writes, because the tests' own store has no KMS."""
    made: list[Asked] = []

    def refuse(asked: Asked) -> str | None:
        if not makes_an_object(asked):
            return None
        made.append(asked)
        return "403"

    with faults.proxy(s3.endpoint_url, refuse) as proxy:
        options = {**s3.options, "endpoint_url": proxy.url, "s3_additional_kwargs": KMS}
        store = open_store(bucket, options)
        for write in (write_once, write_parts, write_table):
            with pytest.raises(OSError, match="fault on purpose"):
                write(store)
    assert len(made) >= 3
    for asked in made:
        assert asked.headers[ENCRYPTION] == "aws:kms"
        assert asked.headers[f"{ENCRYPTION}-aws-kms-key-id"] == "alias/mirror"


@pytest.fixture
def opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change ETags as SSE-KMS does: they look like MD5s but aren't."""
    call = s3fs.S3FileSystem._call_s3

    async def disguised(self: Any, method: str, *positional: Any, **arguments: Any) -> Any:
        return _mirrored(await call(self, method, *positional, **_mirrored(arguments)))

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", disguised)
    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", sync_wrapper(disguised))


_TAGS = {"ETag", "IfMatch", "CopySourceIfMatch"}


def _mirrored(value: Any) -> Any:
    """`value` with the digits of every ETag reversed; a second call restores them."""
    if isinstance(value, list):
        return [_mirrored(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _reversed(item) if name in _TAGS and item else _mirrored(item)
        for name, item in value.items()
    }


def _reversed(etag: str) -> str:
    digest, dash, parts = etag.strip('"').partition("-")
    return f'"{digest[::-1]}{dash}{parts}"'


def test_etags_that_are_no_md5s(
    bucket: str, opaque: None, small_parts: None, tmp_path: Path
) -> None:
    # If it encrypts, SeaweedFS gives a copied part an ETag in the form of an MD5, as S3 does.
    store = open_store(bucket, {"s3_additional_kwargs": AES256})
    made = variant(store, 5, variant(store, 3))
    assert made.seams == ()  # so the whole object is read back
    whole = variant(open_store(str(tmp_path / "other")), 5)
    assert store.local_file(key(made), tmp_path)[1] == made.sha256 == whole.sha256
    store.replace("table", b"one", None)
    seen = store.version("table")
    store.replace("table", b"two", seen)
    with pytest.raises(Conflict):
        store.replace("table", b"three", seen)


def test_a_mirror_and_a_source_with_such_etags(
    bucket: str, opaque: None, small: Path, small_parts: None
) -> None:
    root = f"{bucket}/source"
    open_store(root).fs.put(f"{small}/", f"{root}/", recursive=True)
    job = Job("run", f"{bucket}/mirror", source_root=root)
    adapted = pipeline.adapt(Request(entry(SMALL), counted(1, 4)), job)
    assert isinstance(adapted, Adapted), adapted
    assert not pipeline.prove(adapted, job).failures
    assert len(manifest.compact(open_store(job.dest)).usable) == 2
