"""Only what nobody names and nobody has touched for long is removed, and nothing else ever."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.records import at_work, failure, keys, put, record, variant, write
from zooadapt.cli.main import main
from zooadapt.mirror import manifest
from zooadapt.stores import multipart
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.upkeep import garbage
from zooadapt.upkeep.rebuild import rebuild

MODEL = "weights/zoo/net"
TEMPORARY = f".{'0' * 32}.tmp"


def folder(number: int, chans: int = 4) -> str:
    return f"{MODEL}/{chans}ch-repeat-{number:016x}"


def source(number: int) -> str:
    return f"{MODEL}/source-{number:016x}"


def names(store: Store, days: float = 30) -> list[str]:
    """What may go, relative to the mirror's root."""
    return [item.name for item in garbage.find(store, ago(days))]


def ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def since(store: Store, key: str, when: datetime) -> None:
    """Make a record one of that time."""
    content = {**json.loads(store.read(key)), "created_at": when.isoformat()}
    store.write(key, [json.dumps(content).encode()])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A mirror of one old variant with its stem."""
    store = open_store(str(tmp_path / "mirror"))
    put(store, folder(1))
    put(store, source(1))
    record(store, 1, [variant(4, folder=folder(1))], [])
    manifest.compact(store)
    return store


def gc(store: Store, *options: str) -> int:
    return main(["gc", store.root, *options])


def test_a_mirror_that_needs_all_loses_nothing(store: Store) -> None:
    before = keys(store)
    assert gc(store, "--delete", "--older-than", "0m") == 0
    assert keys(store) == before


def test_by_default_it_is_only_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, folder(2))
    before = keys(store)
    assert gc(store) == 0
    line, closing = capsys.readouterr().out.splitlines()
    assert line.split() == ["83", "B", "90", "d", folder(2)]
    assert closing == "1 leftover, 83 B, can be removed; --delete removes it"
    assert keys(store) == before
    assert gc(store, "--delete") == 0
    assert capsys.readouterr().out.endswith("1 leftover, 83 B, removed\n")
    assert keys(store) == [key for key in before if not key.startswith(folder(2))]
    assert not Path(store.path(folder(2))).exists()
    assert gc(store) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_what_is_young_stays(store: Store) -> None:
    put(store, folder(2), days=29)
    put(store, folder(3))
    write(store, f"{folder(3)}/config.json", b"{}", days=1)  # a job is writing it again
    write(store, f"{folder(1)}/model.safetensors{TEMPORARY}", days=29)
    assert names(store) == []
    assert names(store, days=28) == [f"{folder(1)}/model.safetensors{TEMPORARY}", folder(2)]


def test_what_was_written_since_a_run_at_work_began_stays(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, folder(2), days=2)  # published by the run, and not recorded yet
    put(store, folder(3), days=4)
    run_id = at_work(store, ago(3))
    assert gc(store, "--delete", "--older-than", "0m") == 0
    assert f"run {run_id} is at work" in caplog.text
    assert {key.rpartition("/")[0] for key in store.list(MODEL)} == {
        folder(1),
        folder(2),
        source(1),
    }
    assert store.exists(f"runs/{run_id}/heartbeat.json")


def test_what_killed_writers_left_goes(store: Store) -> None:
    left = [
        write(store, f"{key}{TEMPORARY}")
        for key in (
            "manifest.parquet", "failures.parquet", "index.html", f"{folder(1)}/model.safetensors",
            "records.parquet", "records/zoo/net/run1-abc.json", "runs/run1/events.jsonl",
        )
    ]  # fmt: skip
    half = write(store, f"{folder(7)}/model.safetensors{TEMPORARY}")
    assert names(store) == sorted([*left, folder(7)])
    assert gc(store, "--delete") == 0
    assert not [key for key in [*left, half] if store.exists(key)]
    assert store.exists(f"{folder(1)}/model.safetensors")


def test_what_is_not_ours_stays(store: Store) -> None:
    for key in (
        f"notes.txt{TEMPORARY}", f"other/x{TEMPORARY}", "weights/README", f"{MODEL}/mine/x.json",
        f"{MODEL}/4ch-repeat-mine/config.json", f"{folder(5)}/deeper/file", "records/zoo/net/x.tmp",
        "damaged/records/zoo/net/x.json", "runs/run0/events.jsonl",
    ):  # fmt: skip
        write(store, key)
    assert names(store, days=0) == []


def test_what_the_manifest_alone_names_stays(store: Store) -> None:
    before = store.read(manifest.MANIFEST)
    put(store, folder(2))
    record(store, 2, [variant(4, folder=folder(2))], [])
    manifest.compact(store)
    store.write(manifest.MANIFEST, [before])  # as it is while a job runs
    assert names(store) == []


def test_what_was_replaced_stays_until_that_is_long_ago(store: Store) -> None:
    """The object is 90 days old; but yesterday's manifest still names it."""
    put(store, folder(2))
    key = record(store, 2, [variant(4, folder=folder(2))], [])
    manifest.compact(store)
    for days, gone in ((29.0, []), (31.0, [folder(1)])):
        since(store, key, ago(days))
        assert names(store) == gone


def test_what_was_replaced_and_came_back_stays(store: Store) -> None:
    put(store, folder(2))
    record(store, 2, [variant(4, folder=folder(2))], [])
    record(store, 3, [variant(4, folder=folder(1))], [])
    manifest.compact(store)
    assert names(store) == [folder(2)]


def test_a_failure_after_a_success_replaces_nothing(store: Store) -> None:
    record(store, 2, [], [failure(4)])
    assert names(store) == []


def test_a_stem_goes_with_the_last_variant_that_names_it(store: Store) -> None:
    put(store, source(2))
    put(store, folder(2), stem=2)
    key = record(store, 2, [variant(4, folder=folder(2))], [])
    manifest.compact(store)
    since(store, key, ago(29))
    assert names(store) == []
    since(store, key, ago(31))
    assert names(store) == [folder(1), source(1)]
    write(store, f"{folder(2)}/config.json", b"{", days=90)
    assert names(store) == [folder(1)]  # nobody knows which it names


def test_all_of_a_model_with_a_damaged_record_stays(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, folder(2))
    other = put(store, folder(2).replace("net", "other"))
    write(store, "records/zoo/net/bad.json", b"{")
    assert names(store) == [other]
    assert "records/zoo/net/bad.json is or was damaged: nothing of its model" in caplog.text


def test_what_a_damaged_record_named_stays_until_it_was_set_aside_long_ago(store: Store) -> None:
    (key,) = store.list("records")
    record(store, 2, [variant(4, folder=folder(9))], [], model="other")
    write(store, key, b"{")
    rebuild(store)
    assert names(store) == []
    write(store, f"damaged/{key}", b"{", days=31)
    assert names(store) == [folder(1), source(1)]


def test_without_records_nothing_goes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for key in store.list("records"):
        store.remove(key)
    manifest.compact(store)
    assert gc(store, "--delete", "--older-than", "0m") == 3
    assert "nothing is removed" in capsys.readouterr().err
    assert store.exists(f"{folder(1)}/model.safetensors")


def test_where_there_is_no_mirror_nothing_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(tmp_path))
    put(store, folder(1))
    assert gc(store, "--delete") == 2
    assert "holds no manifest.parquet" in capsys.readouterr().err
    assert store.exists(f"{folder(1)}/model.safetensors")


def test_what_is_written_again_meanwhile_stays(store: Store) -> None:
    put(store, folder(2))
    put(store, folder(3))
    found = garbage.find(store, ago(30))
    put(store, folder(2), days=0)
    assert [item.name for item in garbage.remove(store, found, ago(30))] == [folder(3)]
    assert store.exists(f"{folder(2)}/model.safetensors")


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1.5d", "30 days", "", "30s"])
def test_an_age_needs_a_unit(age: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert gc(store, "--older-than", age) == 2
    assert "such as 30d" in capsys.readouterr().err


def test_one_job_at_a_time_holds_for_gc_too(tmp_path: Path) -> None:
    url = f"dir::file://{tmp_path}"
    store = open_store(url)
    record(store, 1, [variant(4, folder=folder(1))], [])
    manifest.compact(store)
    with store.session("job"):
        assert main(["gc", url]) == 0
        assert main(["gc", url, "--delete"]) == 3
        assert main(["rebuild", url]) == 3
    assert main(["gc", url, "--delete"]) == 0


# S3


@pytest.fixture
def on_s3(bucket: str) -> Store:
    """A mirror with one variant, beside another in the same bucket."""
    store = open_store(f"{bucket}/mirror")
    for root in (store, open_store(f"{bucket}/mirror2")):
        put(root, folder(1))
        put(root, source(1))
        record(root, 1, [variant(4, folder=folder(1))], [])
        manifest.compact(root)
    return store


def begin(store: Store, key: str) -> None:
    """An upload whose writer is killed after 5 MiB."""
    where = multipart.place(store.fs, store.path(key))
    upload = store.fs.call_s3("create_multipart_upload", **where)["UploadId"]
    body = b"x" * (5 * 2**20)
    store.fs.call_s3("upload_part", **where, UploadId=upload, PartNumber=1, Body=body)


def test_uploads_that_were_never_completed_go(on_s3: Store, bucket: str) -> None:
    key = f"{folder(2)}/model.safetensors"
    other = open_store(f"{bucket}/mirror2")
    for store, name in ((on_s3, key), (on_s3, key), (on_s3, "other/x"), (other, key)):
        begin(store, name)
    assert names(on_s3) == []
    later = datetime.now(UTC) + timedelta(hours=1)
    found = [item for item in garbage.find(on_s3, later) if item.upload]
    assert [(item.name, item.bytes) for item in found] == [(key, 5 * 2**20)] * 2
    assert garbage.remove(on_s3, found, later) == found
    assert [item.name for item in garbage.find(on_s3, later)] == []
    assert len(list(other.unfinished("weights"))) == 1
    assert len(list(on_s3.unfinished("other"))) == 1


def test_the_upload_of_an_archive_is_aborted(on_s3: Store) -> None:
    begin(on_s3, "records.parquet")
    begin(on_s3, "records.parquet.other")
    later = datetime.now(UTC) + timedelta(hours=1)
    found = garbage.find(on_s3, later)
    assert [item.name for item in found if item.upload] == ["records.parquet"]


def test_uploads_are_listed_page_by_page(on_s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (2, 3, 4):
        begin(on_s3, f"{folder(number)}/model.safetensors")
    call = on_s3.fs.call_s3

    def one_at_a_time(method: str, **arguments: Any) -> Any:
        page = {"MaxUploads": 1} if method == "list_multipart_uploads" else {}
        return call(method, **arguments, **page)

    monkeypatch.setattr(on_s3.fs, "call_s3", one_at_a_time)
    assert len(list(on_s3.unfinished("weights"))) == 3


def test_what_may_not_list_uploads_still_removes_objects(
    on_s3: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(on_s3, folder(2))
    call = on_s3.fs.call_s3

    def refuse(method: str, **arguments: Any) -> Any:
        if method == "list_multipart_uploads":
            raise PermissionError("Forbidden")
        return call(method, **arguments)

    monkeypatch.setattr(on_s3.fs, "call_s3", refuse)
    assert names(on_s3, days=-1) == [folder(2)]
    assert "unfinished uploads can't be listed: Forbidden" in caplog.text


def test_objects_on_s3_go_by_their_age(on_s3: Store, bucket: str) -> None:
    put(on_s3, folder(2))
    beside = keys(open_store(f"{bucket}/mirror2"))
    assert names(on_s3) == []
    assert names(on_s3, days=-1) == [folder(2)]
    assert main(["gc", f"{bucket}/mirror", "--delete", "--older-than", "0m"]) == 0
    assert not on_s3.list(folder(2))
    assert on_s3.exists(f"{folder(1)}/model.safetensors")
    assert keys(open_store(f"{bucket}/mirror2")) == beside
