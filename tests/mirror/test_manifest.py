"""Records are the truth; the tables made from them hold exactly the usable variants."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.support.options import config as options
from tests.support.records import failure, record, table, variant
from tests.support.seaweed import SeaweedFS
from zooadapt.errors import Damaged, FetchError, RunError, UsageError
from zooadapt.job import source_changes
from zooadapt.mirror import manifest
from zooadapt.mirror.columns import KEY
from zooadapt.mirror.scan import Records
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.types import ModelEntry, Row
from zooadapt.upkeep.rebuild import rebuild


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_the_columns_are_the_stated_ones_and_described(store: Store) -> None:
    manifest.compact(store)
    schema = pq.read_schema(Path(store.root) / "manifest.parquet")
    assert schema.names[:5] == list(KEY)
    nullable = [
        "input_mean",
        "input_std",
        "license",
        "source_gone",
        "changed",
        "source_note",
        "macs",
        "activations",
    ]
    assert [field.name for field in schema if field.nullable] == nullable
    assert all(field.metadata[b"description"] for field in schema)
    assert schema.metadata[b"zooadapt_layout_version"] == b"1"
    assert not [name for name in schema.names if hasattr(pd.Series, name)]


def test_an_empty_mirror_has_empty_tables(store: Store) -> None:
    manifest.compact(store)
    assert len(table(store)) == len(table(store, "failures")) == 0


def test_success_hides_failure_and_the_latest_wins(store: Store) -> None:
    record(store, 1, [], [failure(1), failure(4)])
    record(store, 2, [variant(1, sha256="old")], [failure(4, "still broken")])
    record(store, 3, [variant(1, sha256="new")], [])
    record(store, 4, [], [failure(1)])
    manifest.compact(store)
    usable, failed = table(store), table(store, "failures")
    assert usable[["in_chans", "sha256", "run_id"]].to_numpy().tolist() == [[1, "new", "run3"]]
    assert usable["created_at"][0] == pd.Timestamp("2026-01-01T00:03", tz="UTC")
    assert failed[["in_chans", "error", "attempts"]].to_numpy().tolist() == [[4, "still broken", 2]]


def test_compacting_again_changes_nothing(store: Store) -> None:
    record(store, 1, [variant(1)], [failure(2)])
    manifest.compact(store)
    files = [Path(store.root) / name for name in (manifest.MANIFEST, manifest.FAILURES)]
    before = [(file.stat().st_mtime_ns, file.read_bytes()) for file in files]
    manifest.compact(store)
    assert [(file.stat().st_mtime_ns, file.read_bytes()) for file in files] == before


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-9],
    "not JSON": lambda data: b"\x00" * len(data),
    "a list": lambda data: b"[]",
    "no fields": lambda data: b'{"layout_version": 1}',
    "no column": lambda data: data.replace(b'"sha256"', b'"sha257"'),
    "a wrong type": lambda data: data.replace(b'"bytes": 1', b'"bytes": "much"'),
    "a null": lambda data: data.replace(b'"bytes": 1', b'"bytes": null'),
    "a list of wrong types": lambda data: data.replace(b'"stems": []', b'"stems": [{}]'),
    "no date": lambda data: data.replace(b"2026-01-01T", b"yesterday"),
    "a version that is none": lambda data: data.replace(
        b'"layout_version": 1', b'"layout_version": "a"'
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_is_named_and_the_rest_go_on(
    kind: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    key = record(store, 1, [variant(1)], [])
    record(store, 2, [variant(4)], [failure(8)], model="other")
    damaged = DAMAGE[kind](store.read(key))
    assert damaged != store.read(key)
    store.write(key, [damaged])
    assert [found["model"] for found in manifest.read_records(store)] == ["other"]
    (line,) = caplog.messages
    assert line.startswith(f"{key} is damaged (")
    assert "zooadapt rebuild sets it aside" in line
    manifest.compact(store)
    assert table(store)["model"].tolist() == ["other"]
    assert store.read(key) == damaged


def test_a_record_of_a_newer_layout_is_refused(store: Store) -> None:
    key = record(store, 1, [variant(1)], [])
    newer = store.read(key).replace(b'"layout_version": 1', b'"layout_version": 3, "variants": 0')
    store.write(key, [newer.replace(b'"variants": [', b'"parts": [')])
    with pytest.raises(RunError, match=r"newer zooadapt \(layout 3\): upgrade") as refused:
        manifest.compact(store)
    assert key in str(refused.value)
    assert not isinstance(refused.value, Damaged)


def damage_table(store: Store, name: str, how: Callable[[bytes], bytes]) -> None:
    store.write(name, [how(store.read(name))])


@pytest.mark.parametrize("name", [manifest.MANIFEST, manifest.FAILURES])
@pytest.mark.parametrize(
    "how",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: b"PAR1" + data,
    ],
)
def test_a_damaged_table_is_named_and_made_again(
    name: str, how: Callable[[bytes], bytes], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    record(store, 1, [variant(1)], [failure(2)])
    manifest.compact(store)
    whole = store.read(name)
    damage_table(store, name, how)
    with pytest.raises(Damaged, match=rf"/{name} is damaged .*: zooadapt rebuild") as named:
        manifest.read_table(store, name)
    assert "\n" not in str(named.value)
    manifest.check_tables(store)
    assert caplog.messages == [str(named.value)]
    manifest.compact(store)
    assert store.read(name) == whole


def test_no_flipped_byte_in_the_rows_goes_unseen(store: Store) -> None:
    record(store, 1, [variant(n, sha256="0123456789abcdef" * 4) for n in range(1, 40)], [])
    manifest.compact(store)
    data = store.read(manifest.MANIFEST)
    footer = int.from_bytes(data[-8:-4], "little") + 8
    rows = manifest.read_table(store, manifest.MANIFEST)
    for place in range(4, len(data) - footer, 7):
        store.write(
            manifest.MANIFEST, [data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]]
        )
        with suppress(Damaged):
            assert manifest.read_table(store, manifest.MANIFEST).equals(rows)


def test_a_table_that_is_not_ours_is_damaged(store: Store) -> None:
    pd.DataFrame({"model": ["net"]}).to_parquet(Path(store.root) / manifest.MANIFEST)
    with pytest.raises(Damaged, match="it has no 'zooadapt_layout_version'"):
        manifest.read_table(store, manifest.MANIFEST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop_columns(["sha256"]), "sha256"),
        (lambda rows: rows.drop_columns(["bytes"]).append_column("bytes", [["much"]]), "much"),
    ],
)
def test_a_table_of_other_columns_is_damaged(
    change: Callable[[Any], Any], message: str, store: Store
) -> None:
    record(store, 1, [variant(1)], [])
    manifest.compact(store)
    file = Path(store.root) / manifest.MANIFEST
    pq.write_table(change(pq.read_table(file)), file)
    with pytest.raises(Damaged, match=message):
        manifest.read_table(store, manifest.MANIFEST)


@pytest.mark.parametrize("name", [manifest.MANIFEST, manifest.FAILURES])
def test_a_table_of_a_newer_layout_is_refused_and_kept(name: str, store: Store) -> None:
    record(store, 1, [variant(1)], [])
    damaged = record(store, 2, [], [])
    store.write(damaged, [b"{"])
    manifest.compact(store)
    file = Path(store.root) / name
    newer = pq.read_table(file).replace_schema_metadata({"zooadapt_layout_version": "2"})
    pq.write_table(newer, file)
    before = file.read_bytes()
    for refused in (manifest.compact, manifest.check_tables, rebuild):
        with pytest.raises(RunError, match=rf"{name} was written by a newer zooadapt"):
            refused(store)
    assert file.read_bytes() == before
    assert store.exists(damaged)


def test_rebuilding_makes_the_tables_and_sets_damaged_records_aside(store: Store) -> None:
    record(store, 1, [variant(1)], [failure(2)])
    key = record(store, 2, [variant(4)], [], model="other")
    manifest.compact(store)
    store.write(key, [b"{"])
    damage_table(store, manifest.MANIFEST, lambda data: data[:-1])
    (Path(store.root) / manifest.FAILURES).unlink()
    made = rebuild(store)
    assert table(store)["model"].tolist() == ["net"]
    assert table(store, "failures")["in_chans"].tolist() == [2]
    assert list(made.aside) == [f"damaged/{key}"]
    assert store.read(f"damaged/{key}") == b"{"
    assert not store.exists(key)
    again = rebuild(store)
    assert (again.records, again.aside) == (1, {})


def test_what_has_no_records_is_not_rebuilt(store: Store) -> None:
    manifest.compact(store)
    before = store.read(manifest.MANIFEST)
    with pytest.raises(UsageError, match="holds no records"):
        rebuild(store)
    assert store.read(manifest.MANIFEST) == before


def test_a_record_that_is_set_aside_meanwhile_does_not_stop_a_reader(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(store, 1, [variant(1)], [])
    gone = record(store, 2, [variant(4)], [])
    read_many = store.read_many

    def late(keys: list[str]) -> dict[str, bytes]:
        store.remove(gone)
        return read_many(keys)

    monkeypatch.setattr(store, "read_many", late)
    assert [found["run_id"] for found in manifest.read_records(store)] == ["run1"]


def test_pandas_duckdb_and_polars_read_the_same(store: Store) -> None:
    record(store, 1, [variant(4, input_mean=[0.1] * 4, license=None), variant(1)], [])
    manifest.compact(store)
    path = f"{store.root}/manifest.parquet"
    frame = pd.read_parquet(path)
    assert frame["in_chans"].tolist() == [1, 4]
    assert frame["license"].isna().tolist() == [False, True]
    assert list(frame["input_mean"][1]) == [0.1] * 4
    assert pl.read_parquet(path)["in_chans"].to_list() == [1, 4]
    query = f"SELECT model FROM '{path}' WHERE in_chans = 4"
    assert duckdb.connect().execute(query).fetchall() == [("net",)]


def test_pandas_reads_it_from_s3(s3: SeaweedFS, bucket: str) -> None:
    store = open_store(f"{bucket}/mirror")
    record(store, 1, [variant(4)], [])
    manifest.compact(store)
    assert len(pd.read_parquet(f"{bucket}/mirror/manifest.parquet")) == 1


def _record_and_compact(root: str, number: int) -> None:
    store = open_store(root)
    for turn in range(5):
        record(store, turn, [variant(number * 100 + turn)], [])
        manifest.compact(store)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_compactions_at_once_lose_no_row(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if kind == "local" else request.getfixturevalue("bucket")
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_record_and_compact, args=(root, n)) for n in (1, 2, 3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    expected = sorted(n * 100 + turn for n in (1, 2, 3) for turn in range(5))
    assert pd.read_parquet(f"{root}/manifest.parquet")["in_chans"].tolist() == expected


def test_who_reads_records_blocks_no_other_compaction(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(store, 1, [variant(4)], [])
    read = Records.histories

    def slowly(self: Records, archiving: bool = False) -> Iterator[list[Row]]:
        yield from read(self, archiving)
        monkeypatch.setattr(Records, "histories", read)
        record(store, 2, [variant(8)], [])
        other = multiprocessing.get_context("spawn").Process(
            target=_record_and_compact, args=(str(store.root), 3)
        )
        other.start()
        other.join(60)
        assert other.exitcode == 0

    monkeypatch.setattr(Records, "histories", slowly)
    manifest.compact(store)
    assert len(table(store)) == 7


def test_a_new_licence_is_recorded_and_nothing_else_changes(store: Store) -> None:
    record(store, 1, [variant(1, license="mit"), variant(4, license="mit")], [])
    entry = ModelEntry("zoo", "net", "net", "", "apache-2.0", hub_id="x/y")
    view = source_changes.View(options("--check-sources"), [entry], {entry: FetchError("silent")})
    before = manifest.merge(manifest.read_records(store)).usable
    follower = source_changes.Follower(store, view, "run9")
    for _ in follower.through(manifest.histories(store)):
        pass
    assert str(follower.followed) == "models with another licence: 1"
    after = manifest.compact(store).usable
    assert [row["license"] for row in after] == ["apache-2.0"] * 2
    changing = ("license", "run_id", "created_at")
    assert [{k: v for k, v in row.items() if k not in changing} for row in after] == [
        {k: v for k, v in row.items() if k not in changing} for row in before
    ]
