"""Records are read from the archive where it has them, and the tables are the same without it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.records import failure, variant
from zooadapt.errors import Damaged, RunError
from zooadapt.mirror import columns, layout, manifest, scan
from zooadapt.mirror.columns import FAILURES_SCHEMA, MANIFEST_SCHEMA
from zooadapt.mirror.records import write_record
from zooadapt.mirror.scan import ARCHIVE
from zooadapt.stores.local import LocalStore
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.types import Row
from zooadapt.upkeep import removal, verify
from zooadapt.upkeep.rebuild import rebuild

MODELS = ("net", "net-a", "net.b", "other", "Ünïcode/ñ")


class Counting(LocalStore):
    """Notes the records that are read one by one."""

    def __init__(self, root: Path) -> None:
        store = open_store(str(root))
        super().__init__(store.fs, store.root)
        self.read_alone: list[str] = []

    def read_many(self, keys: list[str]) -> dict[str, bytes]:
        """As any."""
        self.read_alone += keys
        return super().read_many(keys)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "RECORDS_AT_ONCE", 3)


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    """A mirror with an archive of two records of each model."""
    store = Counting(tmp_path)
    for model in MODELS:
        record(store, 1, model, [variant(1), variant(4)], [failure(8)])
        record(store, 2, model, [variant(8)])
    manifest.compact(store)
    store.read_alone.clear()
    return store


def record(
    store: Store, number: int, model: str, variants: list[Row], failures: list[Row] | None = None
) -> str:
    when = f"2026-11-24T00:00:{number:02}+00:00"
    content = {
        "created_at": when, "adapter_version": 1, "versions": {}, "source": {"location": "there"},
        "variants": variants, "failures": failures or [],
    }  # fmt: skip
    return write_record(store, "zoo", model, f"run{number}", content)


def tables(store: Store) -> tuple[list[Row], list[Row]]:
    made = manifest.compact(store)
    return list(made.usable), list(made.failures)


def from_records(store: Store) -> tuple[list[Row], list[Row]]:
    """The tables of the records themselves, however they are read."""
    merged = manifest.merge(manifest.scan_records(store)[0])
    usable: list[Row] = layout.table(merged.usable, MANIFEST_SCHEMA).to_pylist()
    return usable, layout.table(merged.failures, FAILURES_SCHEMA).to_pylist()


def by_key(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=columns.key)


def test_what_is_in_the_archive_is_not_read_again(store: Counting) -> None:
    usable, failures = tables(store)
    assert store.read_alone == []
    assert {row["model"] for row in usable} == set(MODELS)
    assert (len(usable), failures) == (3 * len(MODELS), [])
    assert (by_key(usable), failures) == from_records(store)


def test_models_come_in_the_order_of_their_names(store: Counting) -> None:
    plain = [row["model"] for row in tables(store)[0] if row["model"].isascii()]
    assert plain == sorted(plain)


def test_what_came_since_is_read_and_counts(store: Counting) -> None:
    late = [record(store, 3, "net-a", [variant(4, folder="newer")]), record(store, 3, "zzz", [])]
    usable, _ = tables(store)
    assert sorted(store.read_alone) == sorted(late)
    (newer,) = [row for row in usable if (row["model"], row["in_chans"]) == ("net-a", 4)]
    assert newer["folder"] == "newer"


def test_an_archive_is_made_anew_when_it_lacks_many(store: Counting) -> None:
    before = store.read(ARCHIVE)
    for number in (3, 4, 5):
        record(store, number, "net", [variant(1)])
    manifest.compact(store)
    assert store.read(ARCHIVE) == before
    record(store, 6, "net", [variant(1)])
    manifest.compact(store)
    store.read_alone.clear()
    assert (by_key(tables(store)[0]), []) == from_records(store)
    manifest.read_records(store)
    assert store.read(ARCHIVE) != before


def test_of_some_models_only_their_records_are_read(store: Counting) -> None:
    reading = scan.Records(store, models=[("zoo", "net.b"), ("zoo", "gone")])
    assert [[record["model"] for record in each] for each in reading.histories()] == [["net.b"] * 2]
    assert {key.rpartition("/")[0] for key in store.read_alone} == {"records/zoo/net.b"}


def test_a_small_mirror_has_none(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for number in (1, 2, 3):
        record(store, number, "net", [variant(1)])
    manifest.compact(store)
    assert not store.exists(ARCHIVE)


def test_what_was_set_aside_is_no_longer_told(store: Counting) -> None:
    for key in store.list("records/zoo/other"):
        store.remove(key)
    assert "other" not in {row["model"] for row in tables(store)[0]}


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-100],
    "empty": lambda data: b"",
    "changed": lambda data: data[:400] + bytes([data[400] ^ 255]) + data[401:],
    "another file": lambda data: b"PAR1 and something else PAR1",
}


@pytest.mark.parametrize("how", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_archive_is_said_and_the_records_tell(
    how: Callable[[bytes], bytes], store: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(ARCHIVE, [how(store.read(ARCHIVE))])
    with caplog.at_level(logging.WARNING):
        usable, failures = tables(store)
    assert f"{ARCHIVE} is damaged" in caplog.text
    assert (by_key(usable), failures) == from_records(store)
    manifest.compact(store)
    store.read_alone.clear()
    manifest.compact(store)
    assert store.read_alone == []


def test_one_whose_records_were_judged_by_other_columns_is_not_used(store: Counting) -> None:
    table = pq.read_table(f"{store.root}/{ARCHIVE}")
    stated = {**table.schema.metadata, b"zooadapt_columns": b"others"}
    store.write(ARCHIVE, [layout.encoded(table.replace_schema_metadata(stated))])
    manifest.compact(store)
    assert len(store.read_alone) == 2 * len(MODELS)


def test_one_of_a_newer_layout_is_neither_used_nor_replaced(store: Counting) -> None:
    table = pq.read_table(f"{store.root}/{ARCHIVE}")
    stated = {**table.schema.metadata, columns.VERSION_KEY.encode(): b"9"}
    newer = layout.encoded(table.replace_schema_metadata(stated))
    store.write(ARCHIVE, [newer])
    assert (by_key(tables(store)[0]), []) == from_records(store)
    with pytest.raises(RunError, match=f"{ARCHIVE} was written by a newer zooadapt"):
        rebuild(store)
    assert store.read(ARCHIVE) == newer


def test_one_that_may_not_be_read_or_written_stops_nobody(
    store: Counting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, write = store.read, store.write

    def refused(key: str, *content: object) -> Any:
        if key == ARCHIVE:
            raise ValueError("403, message='Forbidden'")  # not every filesystem raises OSError
        return write(key, *content) if content else read(key)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "read", refused)
    monkeypatch.setattr(store, "write", refused)
    assert len(tables(store)[0]) == 3 * len(MODELS)
    assert f"{ARCHIVE}: 403" in caplog.text
    assert f"{ARCHIVE} wasn't written: 403" in caplog.text


def test_rebuilding_and_verifying_trust_the_records_alone(store: Counting) -> None:
    """An archive that tells something else, in good order: nobody knows of it who doesn't look."""
    table = pq.read_table(f"{store.root}/{ARCHIVE}")
    wrong = [data.replace(b'"bytes": 1,', b'"bytes": 7,') for data in table["record"].to_pylist()]
    store.write(ARCHIVE, [layout.encoded(table.set_column(1, table.schema.field(1), [wrong]))])
    assert {row["bytes"] for row in tables(store)[0]} == {7}
    found = {(wrong.where, wrong.what.split(":")[0]) for wrong in verify.verify(store).wrong}
    assert ("folder", "no record says what the manifest says of it") in found
    rebuild(store)
    assert {row["bytes"] for row in tables(store)[0]} == {1}


def test_a_record_that_went_meanwhile_is_left_out(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = record(store, 3, "late", [variant(1)])
    listed = store.list("records")
    store.remove(key)
    monkeypatch.setattr(store, "list", lambda prefix: listed)
    assert "late" not in {row["model"] for row in tables(store)[0]}


def test_records_may_go_while_it_is_seen_which_went(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "RECORDS_AT_ONCE", 100)
    late = [record(store, 3, f"late{number}", [variant(1)]) for number in (1, 2)]
    read_many = store.read_many

    def read(keys: list[str]) -> dict[str, bytes]:
        if late:
            store.remove(late.pop())
        return read_many(keys)

    monkeypatch.setattr(store, "read_many", read)
    assert not any(row["model"].startswith("late") for row in tables(store)[0])


def test_a_record_of_another_models_folder_is_damaged(store: Counting) -> None:
    key = record(store, 3, "net", [variant(1, folder="stray")])
    astray = key.replace("/net/", "/other/")
    store.write(astray, [store.read(key)])
    store.remove(key)
    sound, damaged = manifest.scan_records(store)
    assert len(sound) == 2 * len(MODELS)
    assert isinstance(damaged[astray], Damaged)
    assert "lie elsewhere" in str(damaged[astray])


def test_two_models_share_a_folder_where_a_store_knows_no_case(store: Counting) -> None:
    key = record(store, 3, "NET", [variant(1)])
    store.write(key.replace("/NET/", "/net/"), [store.read(key)])
    store.remove(key)
    rows = [row for row in tables(store)[0] if row["model"].lower() == "net"]
    assert [(row["model"], row["in_chans"]) for row in rows] == [
        ("NET", 1), ("net", 1), ("net", 4), ("net", 8),
    ]  # fmt: skip


def test_a_model_has_one_history_though_its_records_lie_in_two_folders(tmp_path: Path) -> None:
    """As after a mirror was copied from a store that knows no case to one that does."""
    store = open_store(str(tmp_path))
    for number, model in enumerate(("NET", "net"), 1):
        key = record(store, number, model, [variant(1)])
        if model == "NET":
            store.write(key.replace("/NET/", "/net/"), [store.read(key)])
            store.remove(key)
    record(store, 3, "NET", [variant(1, folder="newer")])
    for _ in range(2):  # from the records, and from the archive
        found = [(row["model"], row["folder"]) for row in tables(store)[0]]
        assert found == [("NET", "newer"), ("net", "folder")]
        record(store, 0, "another", [])
    removal.remove(store, removal.find(store, "NET"), "asked for", "run9")
    assert [row["model"] for row in tables(store)[0]] == ["net"]


def test_a_newer_record_stops_a_compaction_and_nothing_is_replaced(store: Counting) -> None:
    before = store.read(manifest.MANIFEST)
    key = record(store, 3, "net", [variant(1)])
    store.write(key, [store.read(key).replace(b'"layout_version": 1', b'"layout_version": 9')])
    with pytest.raises(RunError, match="upgrade zooadapt"):
        manifest.compact(store)
    assert store.read(manifest.MANIFEST) == before


def test_nobody_fails_for_want_of_an_archive(
    store: Counting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.remove(ARCHIVE)
    write = store.write

    def full(key: str, chunks: list[bytes]) -> None:
        if key == ARCHIVE:
            raise OSError("no space left")
        write(key, chunks)

    monkeypatch.setattr(store, "write", full)
    assert len(tables(store)[0]) == 3 * len(MODELS)
    assert f"{ARCHIVE} wasn't written: no space left" in caplog.text


def test_without_room_to_keep_them_records_are_read_again(
    store: Counting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.remove(ARCHIVE)

    def full(self: layout.Writer, rows: object) -> None:
        raise OSError(28, "No space left on device")

    kept = scan.Records(store, keep=True)
    with monkeypatch.context() as patch:
        patch.setattr(layout.Writer, "add", full)
        first = [*kept.histories()]
    (line,) = [line for line in caplog.messages if "can't be kept" in line]
    assert "No space left" in line
    store.read_alone.clear()
    assert [*kept.histories()] == first
    assert len(store.read_alone) == 2 * len(MODELS)
    store.read_alone.clear()
    assert [*kept.histories()] == first  # now they were kept
    assert not store.read_alone


def test_a_record_that_was_misread_once_counts_when_it_is_read_again(store: Counting) -> None:
    store.remove(ARCHIVE)
    key = store.list("records")[0]
    right = store.read(key)
    store.write(key, [right[:50]])
    kept = scan.Records(store, keep=True)
    assert sum(map(len, kept.histories())) == 2 * len(MODELS) - 1
    assert list(kept.damaged) == [key]
    store.write(key, [right])
    assert sum(map(len, kept.histories())) == 2 * len(MODELS)
    assert not kept.damaged
