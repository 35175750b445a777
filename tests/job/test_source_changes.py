"""What --check-sources follows: changed weights and licences, and sources that go or come back."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub import LoopbackHub, serving
from tests.support.options import options
from tests.support.records import by_model, later, put, record, table, variant
from zooadapt.checkpoints import sources
from zooadapt.cli.main import main
from zooadapt.errors import Absent, FetchError, Unreachable
from zooadapt.job import plan, source_changes
from zooadapt.job.options import Config
from zooadapt.mirror import layout, manifest
from zooadapt.mirror import records as mirror_records
from zooadapt.mirror.columns import MANIFEST_SCHEMA
from zooadapt.mirror.records import write_record
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.types import Job, ModelEntry, Row, Source
from zooadapt.upkeep import sync
from zooadapt.upkeep.verify import verify

NET = ModelEntry("zoo", "net", "net", "", "mit", url="here")
THERE = Source("here", "1", 1, "")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A mirror of two models: one with two variants, one with one."""
    store = open_store(str(tmp_path))
    record(store, 1, [variants(1), variants(4)], [])
    record(store, 2, [variants(1)], [], model="other.a")
    manifest.compact(store)
    return store


def variants(chans: int, **changes: Any) -> Row:
    made = {"license": "mit", "source_gone": None, "folder": f"{chans}ch", **changes}
    return variant(chans, **made)


def follow(
    store: Store, found: source_changes.Found, records: list[Row] | None = None,
    of: Config | None = None, listed: list[ModelEntry] | None = None, run: str = "night",
) -> source_changes.Followed:  # fmt: skip
    known = by_model(manifest.read_records(store) if records is None else records)
    everything = [*found] if listed is None else listed
    view = source_changes.View(of or options(), everything, found)
    follower = source_changes.Follower(store, view, run)
    assert [*follower.through(known)] == known
    manifest.compact(store)
    return follower.followed


def gone(store: Store) -> dict[str, bool]:
    rows = table(store)
    return dict(zip(rows["model"], rows["source_gone"].notna(), strict=True))


OTHER = ModelEntry("zoo", "other.a", "other", "a", "mit", url="here")
BOTH: dict[ModelEntry, Source | FetchError] = {NET: THERE, OTHER: THERE}


def test_nothing_changed_is_nothing_recorded(store: Store) -> None:
    before = store.list("records")
    assert str(follow(store, BOTH)) == ""
    assert store.list("records") == before


def test_what_is_gone_is_kept_marked_and_unmarked_when_it_is_back(store: Store) -> None:
    before = table(store)
    done = follow(store, {**BOTH, NET: Absent("here isn't there")})
    assert str(done) == "models whose source is gone (kept and marked): 1 (zoo/net)"
    assert gone(store) == {"net": True, "other.a": False}
    kept = ["model", "in_chans", "sha256", "folder", "license"]
    assert table(store)[kept].equals(before[kept])
    since = table(store)["source_gone"][0]
    assert abs((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()) < 60
    records = store.list("records")
    assert str(follow(store, {**BOTH, NET: Absent("here isn't there")})) == ""
    assert store.list("records") == records  # recorded once, with the time
    for silent in (Unreachable("no answer"), FetchError("refused")):
        follow(store, {**BOTH, NET: silent})
        assert gone(store)["net"]
    assert str(follow(store, BOTH)) == "models whose source is back: 1"
    assert gone(store) == {"net": False, "other.a": False}
    assert verify_rows(store) == []


def verify_rows(store: Store) -> list[str]:
    """The rows that no record states."""
    return [wrong.what for wrong in verify(store).wrong if "no record" in wrong.what]


@pytest.mark.parametrize("silent", [Unreachable("no answer"), FetchError("refused")])
def test_silence_and_refusal_mark_nothing(silent: FetchError, store: Store) -> None:
    assert str(follow(store, {NET: silent, OTHER: silent})) == ""


def test_what_its_zoo_lists_no_longer_is_gone(store: Store) -> None:
    assert follow(store, {NET: THERE}).gone == ("zoo/other.a",)
    assert gone(store) == {"net": False, "other.a": True}
    assert follow(store, BOTH).back == 1


@pytest.mark.parametrize(
    "of",
    [
        options("--models", "n*"),
        options("--exclude", "other"),
        options("--license", "apache*"),
        options(zoo="timm"),
        options(zoo="zoo:/elsewhere"),
    ],
)
def test_what_is_not_asked_for_has_not_vanished(of: Config, store: Store) -> None:
    assert str(follow(store, {NET: THERE}, of=of)) == ""


def test_what_is_listed_and_not_selected_has_not_vanished(store: Store) -> None:
    """``--max-models`` leaves models out so."""
    assert str(follow(store, {NET: THERE}, listed=[NET, OTHER])) == ""


def test_of_a_place_only_what_was_made_from_it_vanishes(store: Store) -> None:
    content = {
        "created_at": datetime(2026, 1, 1, tzinfo=UTC).isoformat(), "adapter_version": 1,
        "source": {"location": "/models/far/model.safetensors", "identity": "1"},
        "variants": [variants(1)], "failures": [],
    }  # fmt: skip
    write_record(store, "zoo", "far", "run1", content)
    assert follow(store, {}, of=options(zoo="zoo:/models/")).gone == ("zoo/far",)
    assert follow(store, {}, of=options(zoo="zoo:/mod")).gone == ()


def test_another_source_root_says_nothing_of_what_was_made_elsewhere(store: Store) -> None:
    of = replace(options(), source_root="/mistyped")
    missing = Absent("/mistyped/here isn't there")
    assert str(follow(store, {NET: missing, OTHER: missing}, of=of)) == ""


def test_the_licence_of_weights_that_another_run_replaced_meanwhile(store: Store) -> None:
    """A run amends a variant that another run has made from new weights meanwhile."""
    seen = manifest.read_records(store)
    record(store, 30, [variants(1, folder="new", sha256="new")], [])
    follow(store, {**BOTH, replace(NET, license="apache-2.0"): THERE}, seen, listed=[NET, OTHER])
    rows = table(store)
    of = rows[rows["model"] == "net"].set_index("in_chans")
    assert of["sha256"].to_dict() == {1: "new", 4: "sha256"}
    assert of["license"][4] == "apache-2.0"
    assert of["license"][1] == "mit"  # as the other run states it, until the next run follows
    again = {OTHER: THERE, replace(NET, license="apache-2.0"): THERE}
    assert follow(store, again).licences == 1
    assert set(table(store)["license"]) == {"apache-2.0", "mit"}
    assert verify_rows(store) == []


@pytest.mark.parametrize("first", ["licence", "gone"])
def test_two_runs_at_once_lose_nothing_of_each_other(first: str, store: Store) -> None:
    """Both read the same records. One finds another licence, the other finds the source gone."""
    seen = manifest.read_records(store)
    changes: dict[str, source_changes.Found] = {
        "licence": {replace(NET, license="apache-2.0"): FetchError("refused"), OTHER: THERE},
        "gone": {NET: Absent("gone"), OTHER: THERE},
    }
    for name in (first, *(changes.keys() - {first})):
        follow(store, changes[name], seen, run=name)
    rows = table(store)
    net = rows[rows["model"] == "net"]
    assert set(net["license"]) == {"apache-2.0"}
    assert net["source_gone"].notna().all()
    assert len(rows) == 3
    assert verify_rows(store) == []


def test_new_models_and_changed_weights_are_due_and_what_is_gone_is_not(store: Store) -> None:
    tag = ModelEntry("zoo", "net.new", "net", "new", "mit", url="there")
    follow(store, {NET: Absent("gone"), OTHER: THERE})
    records = [{"versions": {}, **r} for r in manifest.read_records(store)]

    def due(changed: bool) -> list[tuple[str, list[int]]]:
        made = plan.make(
            [NET, OTHER, tag],
            options(),
            by_model(records),
            lambda entry, seen: changed and entry == OTHER,
        )
        return [(r.entry.name, [t.in_chans for t in r.targets]) for r in made.requests]

    assert due(changed=False) == [("other.a", [4]), ("net.new", [1, 4])]
    assert due(changed=True) == [("other.a", [1, 4]), ("net.new", [1, 4])]


def test_a_removal_that_overlaps_wins(store: Store) -> None:
    seen = manifest.read_records(store)
    assert main(["remove", "net", "--yes", "--mirror", store.root]) == 0
    follow(store, {NET: Absent("gone"), OTHER: THERE}, seen)
    assert list(gone(store)) == ["other.a"]


def test_tables_and_records_from_before_the_column_are_read(store: Store) -> None:
    key = record(store, 3, [variants(8)], [], model="old")
    text = store.read(key).decode().replace('   "source_gone": null,\n', "")
    text = text.replace(',\n   "source_gone": null', "")
    assert "source_gone" not in text
    store.write(key, [text.encode()])
    tables = manifest.compact(store)
    older = layout.table(tables.usable, MANIFEST_SCHEMA).drop_columns(
        ["source_gone", "source_note"]
    )
    store.write(manifest.MANIFEST, [layout.encoded(older)])
    rows = manifest.read_table(store, manifest.MANIFEST)
    assert rows["source_gone"].null_count == len(rows) == 4
    assert rows.schema.names == MANIFEST_SCHEMA.names
    assert len(sync.select(rows.to_pandas())) == 4


def test_an_older_reader_takes_the_column_for_what_it_is_not_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = MANIFEST_SCHEMA.remove(MANIFEST_SCHEMA.get_field_index("source_gone"))
    data = store.read(manifest.MANIFEST)
    assert len(layout.decoded(data, "manifest", older).select(older.names)) == 3
    (key, *_) = store.list("records")
    monkeypatch.setattr(mirror_records, "MANIFEST_SCHEMA", older)
    sound, damaged = mirror_records.parse({key: store.read(key)})
    assert sound[key]["model"]
    assert not damaged


def test_amends_is_a_list_of_columns(store: Store) -> None:
    content = {**manifest.read_records(store)[0], "amends": "license"}
    write_record(store, "zoo", "net", "run", content)
    assert len(manifest.scan_records(store)[1]) == 1


def test_gc_keeps_what_was_amended(store: Store) -> None:
    folder = "weights/zoo/net/1ch-repeat-" + "0" * 16
    put(store, folder)
    later(store, record(store, 5, [variants(1, folder=folder)], []))
    follow(store, {NET: Absent("gone"), OTHER: THERE})
    assert main(["gc", store.root, "--delete", "--older-than", "0m"]) == 0
    assert len(store.list(folder)) == 2


def test_a_copy_of_what_was_amended_is_no_amendment(tmp_path: Path) -> None:
    from tests.support.records import made

    source, dest = open_store(str(tmp_path / "a")), open_store(str(tmp_path / "b"))
    made(source, 1, "net", 1)
    follow(source, {NET: Absent("gone")})
    rows = manifest.read_table(source, manifest.MANIFEST).to_pylist()
    with pytest.MonkeyPatch.context() as patched:  # the bytes and hashes are made up
        patched.setattr(sync.Copying, "_variant", lambda self, row: {"zooadapt": {}})
        patched.setattr(sync.Copying, "_stem", lambda self, key: None)
        patched.setattr(sync, "source_stem", lambda folder, config: "")
        assert sync.sync(source, dest, rows).copied == 1
    (copied,) = manifest.read_records(dest)
    assert "amends" not in copied
    assert gone(dest) == {"net": True}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    file = tmp_path / "hub" / "timm" / "net" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    with serving(tmp_path / "hub") as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


def test_what_a_source_says_when_it_is_gone(tmp_path: Path, hub: LoopbackHub) -> None:
    """On the Hub, behind a web server and below a source root."""
    net = replace(NET, hub_id="timm/net", url=None)
    job = Job("run", "mirror")
    web = replace(NET, url=f"{hub.url}/files/timm/net/model.safetensors")
    root = replace(job, source_root=str(tmp_path / "hub"))
    asked = [(net, job), (web, job), (net, root)]
    for entry, of in asked:
        assert sources.locate(entry, of).source.bytes == 7
    shutil.rmtree(hub.root / "timm" / "net")
    for entry, of in asked:
        with pytest.raises(Absent):
            sources.locate(entry, of)


def test_what_is_refused_is_not_gone(hub: LoopbackHub) -> None:
    hub.token = "hf_wanted"
    with pytest.raises(FetchError) as refused:
        sources.locate(replace(NET, hub_id="timm/net", url=None), Job("run", "mirror"))
    assert not isinstance(refused.value, Absent)


def test_on_s3(bucket: str) -> None:
    store = open_store(f"{bucket}/mirror")
    record(store, 1, [variants(1)], [])
    follow(store, {NET: Absent("gone")})
    follow(store, {replace(NET, license="apache-2.0"): Absent("gone")})
    (row,) = manifest.read_table(store, manifest.MANIFEST).to_pylist()
    assert row["license"] == "apache-2.0"
    assert row["source_gone"]
