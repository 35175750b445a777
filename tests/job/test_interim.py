"""A mirror is readable while it is made, and says that a run is at work."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import until
from tests.support.records import record, variant
from zooadapt.cli.main import main
from zooadapt.job import interim
from zooadapt.job.interim import Interim
from zooadapt.mirror import manifest, run_files
from zooadapt.stores.local import LocalStore
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store

RUN = f"{datetime.now(UTC) - timedelta(minutes=10):%Y%m%dT%H%M%SZ}-abcdef"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interim, "_TICK", 0.01)
    monkeypatch.setattr(interim, "LEAST", 0.05)
    monkeypatch.setattr(interim, "_SPARSE", 0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(str(tmp_path))
    run_files.write_options(made, RUN, {"zooadapt_version": "0.2.0"})
    return made


def figures(made: int) -> dict[str, Any]:
    return {
        "models": made, "made": made, "failed": 0, "bytes_read": 5, "bytes_written": 7,
        "left": 3, "postponed": 1,
    }  # fmt: skip


def test_the_tables_come_with_the_first_variant_and_follow(store: Store) -> None:
    so_far = figures(0)
    with Interim(store, RUN, lambda: so_far):
        until(lambda: store.exists(f"runs/{RUN}/heartbeat.json"))
        assert not store.exists(manifest.MANIFEST)
        record(store, 1, [variant(4)], [])
        so_far = figures(1)
        until(lambda: store.exists(manifest.PAGE))
        assert manifest.read_table(store, manifest.MANIFEST).num_rows == 1
        record(store, 2, [variant(8)], [], model="another")
        until(lambda: manifest.read_table(store, manifest.MANIFEST).num_rows == 2)


def test_a_run_at_work_is_seen_with_its_figures(store: Store) -> None:
    run_files.write_heartbeat(store, RUN, 1, figures(2))
    (seen,) = run_files.seen(store, 20)
    assert (seen.ended, seen.zooadapt_version) == ("running", "0.2.0")
    assert seen.run
    assert (seen.run.models, seen.run.new, seen.run.left, seen.run.postponed) == (2, 2, 3, 1)
    assert seen.run.seconds >= 600


def test_a_run_at_work_is_watched_until_it_ends(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_files.write_heartbeat(store, RUN, 1, figures(2))

    def end(seconds: float) -> None:
        assert "running" in capsys.readouterr().out
        store.write(f"runs/{RUN}/events.jsonl", [b""])

    monkeypatch.setattr("zooadapt.cli.jobs.time.sleep", end)
    assert main(["runs", str(tmp_path), "--watch"]) == 0
    assert "stopped" in capsys.readouterr().out


def test_a_run_that_gives_no_sign_any_more_was_killed(store: Store) -> None:
    run_files.write_heartbeat(store, RUN, 1, figures(2))
    key = f"runs/{RUN}/heartbeat.json"
    beat = json.loads(store.read(key))
    beat["time"] = (datetime.now(UTC) - timedelta(minutes=6)).isoformat()
    store.write(key, [json.dumps(beat).encode()])
    assert run_files.seen(store, 20)[0].ended == "killed"


def test_what_fails_meanwhile_is_only_said(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Store, key: str, chunks: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalStore, "write", full)
    with Interim(store, RUN, lambda: figures(1)):
        until(lambda: "the sign of life couldn't be brought up to date" in caplog.text)
        until(lambda: "the tables couldn't be brought up to date" in caplog.text)


def test_leaving_waits_for_what_is_under_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[int] = []
    ended: list[int] = []
    leaving: list[int] = []

    def compact(*of: object) -> manifest.Compacted:
        began.append(1)
        until(lambda: bool(leaving))
        ended.append(1)
        raise RuntimeError("that is all")

    monkeypatch.setattr(manifest, "compact", compact)
    with Interim(store, RUN, lambda: figures(1)):
        until(lambda: bool(began))
        leaving.append(1)
    assert ended == began
