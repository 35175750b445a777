"""What is taken down is gone, says why, and stays away until that is undone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.options import config
from tests.support.records import by_model, keys, later, made, put, record, variant, variant_folder
from zooadapt.cli.main import main
from zooadapt.errors import RunError
from zooadapt.job import plan
from zooadapt.mirror import manifest, records
from zooadapt.mirror.records import ADAPTER_VERSION, write_record
from zooadapt.mirror.takedowns import Takedowns
from zooadapt.report import page, page_data
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.types import ModelEntry, Row
from zooadapt.upkeep import garbage, removal
from zooadapt.upkeep.sync import sync
from zooadapt.upkeep.verify import verify

ENTRY = ModelEntry("zoo", "net", "net", "", "mit", url="here")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A mirror of two models."""
    local = request.param == "local"
    store = open_store(str(tmp_path / "mirror") if local else request.getfixturevalue("bucket"))
    made(store, 1, "net", 1, 4)
    made(store, 2, "other", 1, 4)
    manifest.compact(store)
    return store


@pytest.fixture
def local(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "mirror"))
    made(store, 1, "net", 1, 4)
    made(store, 2, "other", 1, 4)
    manifest.compact(store)
    return store


def remove(store: Store, *options: str) -> int:
    url = store.fs.unstrip_protocol(store.root)
    return main(["remove", *options, "--mirror", url])


def usable(store: Store) -> list[tuple[str, int]]:
    rows = manifest.read_table(store, manifest.MANIFEST).to_pylist()
    return [(row["model"], row["in_chans"]) for row in rows]


def failures(store: Store) -> list[Row]:
    return manifest.read_table(store, manifest.FAILURES).to_pylist()  # type: ignore[no-any-return]


def planned(store: Store, *options: str) -> plan.Plan:
    records = [{"versions": {}, **r} for r in manifest.read_records(store)]
    assert ADAPTER_VERSION == 1  # as the made-up records say
    return plan.make([ENTRY], config(*options), by_model(records))


def below(store: Store, model: str = "net") -> list[str]:
    return store.list(f"weights/zoo/{model}")


def test_a_model_goes_with_all_that_is_of_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    page.write(store)
    before = keys(store)
    assert remove(store, "net") == 0
    out = capsys.readouterr().out
    assert "zoo/net  1,4 and its original stems" in out
    assert "1 model, 2 variants" in out
    assert "--yes removes them" in out
    assert keys(store) == before
    assert remove(store, "net", "--yes", "--reason", "asked by its  author") == 0
    assert usable(store) == [("other", 1), ("other", 4)]
    assert below(store) == []
    assert len(below(store, "other")) == 5
    rows = failures(store)
    assert [row["in_chans"] for row in rows] == [1, 4]
    stated = {(row["status"], row["stage"], row["error"], row["attempts"]) for row in rows}
    assert stated == {("removed", "remove", "asked by its author", 0)}
    assert "asked by its author" in store.read(manifest.PAGE).decode()
    assert variant_folder("net", 1) not in store.read(manifest.PAGE).decode()
    manifest.compact(store)
    assert usable(store) == [("other", 1), ("other", 4)]


def test_it_is_not_made_again_until_that_is_undone(local: Store) -> None:
    assert (planned(local).done, planned(local).due) == (2, 0)
    assert remove(local, "net", "--yes") == 0
    for options in ([], ["--retry-failed"], ["--check-sources", "--retry-failed"]):
        todo = planned(local, *options)
        assert (todo.due, todo.removed, todo.done, todo.failed) == (0, 2, 0, 0)
    assert planned(local, "--chans", "13").removed == 1  # never made so far
    assert remove(local, "net", "--undo") == 0
    assert planned(local).due == 0
    assert remove(local, "net", "--undo", "--yes") == 0
    todo = planned(local)
    assert (todo.due, todo.removed) == (2, 0)
    assert failures(local) == []
    assert usable(local) == [("other", 1), ("other", 4)]
    made(local, 59, "net", 1)  # of the hour before: what was recorded before counts no more
    manifest.compact(local)
    assert usable(local) == [("other", 1), ("other", 4)]
    later(local, made(local, 3, "net", 1))
    manifest.compact(local)
    assert ("net", 1) in usable(local)


def test_a_job_at_work_meanwhile_brings_nothing_back(local: Store) -> None:
    assert remove(local, "net", "--yes") == 0
    later(local, made(local, 3, "net", 1, 4, 8))
    manifest.compact(local)
    assert usable(local) == [("other", 1), ("other", 4)]
    assert [row["in_chans"] for row in failures(local)] == [1, 4, 8]
    assert planned(local).due == 0
    assert below(local) != []
    assert remove(local, "net", "--yes") == 0
    assert below(local) == []


def test_some_variants_of_it(local: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert remove(local, "n*", "--chans", "4", "--yes") == 0
    assert "zoo/net  4\n" in capsys.readouterr().out
    assert usable(local) == [("net", 1), ("other", 1), ("other", 4)]
    assert not [key for key in below(local) if "/4ch" in key]
    assert [key for key in below(local) if "/source-" in key]
    todo = planned(local)
    assert (todo.done, todo.removed, todo.due) == (1, 1, 0)
    assert planned(local, "--bands", "R,G,B,NIR", "--chans", "8").removed == 1  # of four channels
    assert remove(local, "net", "--yes") == 0
    assert remove(local, "net", "--chans", "1", "--undo", "--yes") == 0
    todo = planned(local)
    assert (todo.due, todo.removed) == (1, 1)


def test_named_bands_alone(local: Store) -> None:
    rows = [variant(4, bands="R,G,B,NIR", scheme="nearest", folder=variant_folder("net", 5))]
    put(local, variant_folder("net", 5))
    record(local, 3, rows, [], model="net")
    assert remove(local, "net", "--bands", "R,G,B,NIR", "--yes") == 0
    assert usable(local) == [("net", 1), ("net", 4), ("other", 1), ("other", 4)]
    assert planned(local, "--bands", "R,G,B,NIR").removed == 1
    assert planned(local).done == 2


@pytest.mark.parametrize("killed_at", ["compact", "_tidy"])
def test_what_was_killed_goes_on(
    killed_at: str, local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(manifest if killed_at == "compact" else removal, killed_at, killed)
        assert remove(local, "net", "--yes") == 3
    manifest.compact(local)  # any job's
    assert usable(local) == [("other", 1), ("other", 4)]
    assert remove(local, "net", "--yes") == 0
    assert below(local) == []
    assert len(local.list("records/zoo/net")) == 2


def test_a_store_that_refuses_is_said(
    local: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Store, key: str) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(type(local), "remove", refuse)
    assert remove(local, "net", "--yes") == 3
    assert "run the same command again to finish" in capsys.readouterr().err


def test_what_is_not_there_is_a_usage_error(local: Store) -> None:
    assert remove(local, "nosuch", "--yes") == 2
    assert remove(local, "net", "--zoo", "timm", "--yes") == 2
    assert remove(local, "net", "--reason", " ") == 2


def test_a_name_goes_before_a_glob(local: Store) -> None:
    made(local, 3, "net.v1", 1)
    assert [each.model for each in removal.find(local, "net")] == ["net"]
    assert [each.model for each in removal.find(local, "net*")] == ["net", "net.v1"]


def test_a_model_in_the_same_folder_stays(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a store that knows no upper and lower case."""
    record(
        local,
        3,
        [variant(1, folder=variant_folder("net", 1).replace("net", "Net"))],
        [],
        model="Net",
    )
    (found,) = removal.find(local, "net")
    assert {key.rpartition("/")[0] for key in found.keys} == {variant_folder("net", 4)}


def test_an_older_zooadapt_refuses_the_record(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remove(local, "net", "--yes") == 0
    monkeypatch.setattr(records, "REMOVING", 1)
    with pytest.raises(RunError, match=r"newer zooadapt \(layout 2\): upgrade"):
        manifest.compact(local)


@pytest.mark.parametrize("pattern", [{}, {"in_chans": "4", "bands": None, "reason": ""}, 1])
def test_patterns_that_are_none_are_damage(pattern: Any, local: Store) -> None:
    content = {**removal.content_of("removed", [pattern])}
    write_record(local, "zoo", "net", "remove", content)
    assert len(manifest.scan_records(local)[1]) == 1


def test_the_last_of_removals_and_undoings_counts() -> None:
    def told(kind: str, in_chans: int | None) -> Row:
        pattern = {"in_chans": in_chans, "bands": None, "reason": "so"}
        return {"zoo": "zoo", "model": "net", "run_id": "r", "created_at": "t", kind: [pattern]}

    def state(*records: Row) -> list[bool]:
        taken = Takedowns(records)
        base = {"zoo": "zoo", "model": "net", "bands": ""}
        return [taken.removed({**base, "in_chans": chans}) for chans in (1, 4)]

    whole, part = told("removed", None), told("restored", 4)
    assert state(whole) == [True, True]
    assert state(whole, part) == [True, False]
    assert state(part, whole) == [True, True]
    assert state(whole, told("restored", None)) == [False, False]
    assert state(told("removed", 4)) == [False, True]
    assert Takedowns([whole, part]).holds("zoo", "net", 1, None)
    assert not Takedowns([whole, part]).holds("zoo", "net", None, None)
    assert not Takedowns([told("removed", 4)]).holds("zoo", "net", None, None)


def test_gc_removes_what_a_removal_left(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "remove", lambda self, key: None)
    assert remove(local, "net", "--yes") == 0
    monkeypatch.undo()
    assert below(local) != []
    assert main(["gc", local.root, "--delete", "--older-than", "0m"]) == 0
    assert below(local) == []
    assert len(below(local, "other")) == 5
    assert garbage.find(local, _now()) == []


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def test_verify_misses_nothing(local: Store) -> None:
    assert remove(local, "*", "--yes") == 0
    found = verify(local)
    assert (found.wrong, found.variants, found.unlisted) == ([], 0, 0)


def test_a_copy_takes_nothing_that_its_destination_took_down(
    local: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dest = open_store(str(tmp_path / "copy"))
    made(dest, 1, "net", 1, 4)
    assert remove(dest, "net", "--yes") == 0
    rows = manifest.read_table(local, manifest.MANIFEST).to_pylist()
    done = sync(local, dest, [row for row in rows if row["model"] == "net"])
    assert (done.copied, done.already, done.wrong) == (0, 0, {})
    assert "2 variants were taken down" in caplog.text
    assert usable(dest) == []


def test_the_page_counts_what_was_taken_down(local: Store) -> None:
    assert remove(local, "net", "--yes") == 0
    tables = manifest.compact(local)
    (one, four) = page_data.coverage(tables.usable, tables.failures)
    assert (one.usable, one.removed, one.total) == (1, 1, 2)
    assert replace(one, in_chans=4) == four
