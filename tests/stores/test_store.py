"""Objects appear whole or not at all, and nobody's change is lost, on every kind of store."""

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from zooadapt.errors import Conflict, RunError, UsageError
from zooadapt.stores.local import LocalStore
from zooadapt.stores.opening import open_store
from zooadapt.stores.s3 import S3Store
from zooadapt.stores.store import Store

Open = Callable[[], Store]


@pytest.fixture(params=["local", "s3", "other"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A new store of each kind; "other" is a filesystem that has no subclass of `Store`."""
    if request.param == "s3":
        return open_store(request.getfixturevalue("bucket") + "/mirror")
    if request.param == "other":
        (tmp_path / "other").mkdir()
        return open_store(f"dir::file://{tmp_path}/other")
    return open_store(str(tmp_path / "local"))


def broken(data: bytes) -> Iterator[bytes]:
    """Chunks whose last one raises an error instead of coming."""
    yield data
    raise OSError("the disk under the checkpoint went away")


def test_kinds(tmp_path: Path, bucket: str) -> None:
    assert type(open_store(str(tmp_path))) is LocalStore
    assert type(open_store(bucket)) is S3Store


def test_what_is_written_is_read(store: Store) -> None:
    chunks: list[bytes | memoryview] = [b"a" * 10, memoryview(b"b" * 10)]
    store.write("one/two/object", chunks)
    assert store.read("one/two/object") == b"a" * 10 + b"b" * 10
    assert store.exists("one/two/object")
    assert b"".join(store.chunks("one/two/object")) == store.read("one/two/object")


def test_a_large_object_is_whole(store: Store, tmp_path: Path) -> None:
    chunk = bytes(range(256)) * 4096 * 10
    store.write("large", [chunk] * 8)
    file, digest = store.local_file("large", tmp_path)
    assert digest == hashlib.sha256(chunk * 8).hexdigest()
    assert file.read_bytes() == chunk * 8


@pytest.mark.parametrize("size", [10, 80 * 2**20])
def test_a_write_that_fails_leaves_nothing(store: Store, size: int) -> None:
    store.write("folder/kept", [b"kept"])
    with pytest.raises(OSError, match="went away"):
        store.write("folder/object", broken(b"x" * size))
    assert store.list("folder") == ["folder/kept"]


def test_a_failing_overwrite_keeps_the_old_object(store: Store) -> None:
    store.write("object", [b"old"])
    with pytest.raises(OSError, match="went away"):
        store.write("object", broken(b"new"))
    assert store.read("object") == b"old"


def test_listing_is_sorted_and_below_the_folder(store: Store) -> None:
    for key in ("b/2", "b/1/x", "a/1", "bc"):
        store.write(key, [b""])
    assert store.list("b") == ["b/1/x", "b/2"]
    assert store.list("nothing") == []
    store.remove("a/1")
    assert store.list("a") == []
    assert store.list_top() == ["bc"]


def test_all_is_listed_from_the_root(store: Store) -> None:
    for key in ("b/1", "top"):
        store.write(key, [b""])
    assert store.list("") == ["b/1", "top"]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    """If they were, a loop would list each object forty times, and removing one would remove it."""
    store = open_store(str(tmp_path))
    store.write("a/b/object", [b""])
    (tmp_path / "a" / "loop").symlink_to(".")
    (tmp_path / "a" / "again").symlink_to("b")
    assert store.list("a") == ["a/b/object"]


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    store.write("a/b/object", [b""])
    scandir = os.scandir

    def fails(path: str) -> Any:
        if path.endswith("/b"):
            raise OSError("Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fails)
    with pytest.raises(OSError, match="Input/output error"):
        store.list("a")


def test_more_is_listed_than_s3_names_at_once(bucket: str) -> None:
    store = open_store(f"{bucket}/mirror")
    keys = [f"many/{number:04}" for number in range(1001)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.write(key, [b""]), keys))
    assert store.list("many") == keys


def test_reading_many(store: Store) -> None:
    keys = [f"many/{number}" for number in range(20)]
    for key in keys:
        store.write(key, [key.encode()])
    assert store.read_many(keys) == {key: key.encode() for key in keys}
    assert store.read_many([]) == {}


def test_a_missing_object(store: Store) -> None:
    assert not store.exists("nothing")
    assert store.version("nothing") is None
    with pytest.raises(FileNotFoundError):
        store.read("nothing")


def test_replacing_what_nobody_changed(store: Store) -> None:
    store.replace("table", b"one", store.version("table"))
    store.replace("table", b"two", store.version("table"))
    assert store.read("table") == b"two"


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_what_somebody_changed_is_not_replaced(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    local = kind == "local"
    store = open_store(str(tmp_path) if local else request.getfixturevalue("bucket"))
    store.replace("table", b"one", None)
    seen = store.version("table")
    store.replace("table", b"two", seen)
    for stale in (seen, None):
        with pytest.raises(Conflict):
            store.replace("table", b"three", stale)
    assert store.read("table") == b"two"


def _add_one(root: str, times: int) -> None:
    store = open_store(root)
    while times:
        version = store.version("count")
        count = int(store.read("count")) if version else 0
        with suppress(Conflict):
            store.replace("count", str(count + 1).encode(), version)
            times -= 1


def test_a_local_store_lets_one_process_replace_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_one, args=(str(tmp_path), 50)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert open_store(str(tmp_path)).read("count") == b"150"


def test_a_store_without_conditions_takes_one_job_at_a_time(tmp_path: Path) -> None:
    store = open_store(f"dir::file://{tmp_path}")
    with store.session("first"), pytest.raises(RunError, match="run first is writing"):
        store.session("second").__enter__()
    with store.session("third"):
        pass


def test_free_space_is_told_where_it_is_known(tmp_path: Path, bucket: str) -> None:
    assert (open_store(str(tmp_path / "not" / "yet")).free_bytes() or 0) > 2**20
    assert open_store(bucket).free_bytes() is None


def test_an_unknown_kind_of_url_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nosuch"):
        open_store("nosuch://bucket/mirror")


def test_a_root_with_glob_characters_is_a_folder_like_any_other(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "m[1]*"))
    store.write("a", [b"a"])
    assert store.read_many(["a"]) == {"a": b"a"}
