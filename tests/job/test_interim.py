"""A mirror is readable while it is made, and says that a run is at work."""

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests.support.nodes import until
from tests.support.pipelines import counted
from tests.support.records import record, variant
from zooadapt.cli.main import main
from zooadapt.job import interim
from zooadapt.job.interim import Heart, Interim
from zooadapt.job.tally import Tally
from zooadapt.mirror import manifest, run_files, runs
from zooadapt.mirror.run_files import EventLog
from zooadapt.reader.mirror import open_mirror
from zooadapt.stores.local import LocalStore
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.types import Failure, ModelEntry, ModelSummary, Request

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


@pytest.fixture
def heart(store: Store) -> Iterator[Heart]:
    """Of a run for one variant each of three models."""
    with TemporaryFile() as log:
        entry = ModelEntry("zoo", "net", "net", "", None)
        yield Heart(store, Tally(RUN, EventLog(log), [Request(entry, counted(4))] * 3))


def add(heart: Heart) -> None:
    entry = heart.tally.requests[0].entry
    heart.tally.add(ModelSummary(entry, ("4",), (), 5, 7, {"fetch": 1.0}, "cpu"))


def test_the_tables_come_with_the_first_variant_and_follow(store: Store, heart: Heart) -> None:
    with Interim(store, heart):
        until(lambda: store.exists(f"runs/{RUN}/heartbeat.json"))
        assert not store.exists(manifest.MANIFEST)
        record(store, 1, [variant(4)], [])
        add(heart)
        until(lambda: store.exists(manifest.PAGE))
        assert manifest.read_table(store, manifest.MANIFEST).num_rows == 1
        record(store, 2, [variant(8)], [], model="another")
        until(lambda: manifest.read_table(store, manifest.MANIFEST).num_rows == 2)


def shown(store: Store, capsys: pytest.CaptureFixture[str], *of: str) -> str:
    assert main(["runs", *of, "--mirror", store.root]) == 0
    return capsys.readouterr().out


def test_a_run_at_work_is_seen_with_its_figures(
    store: Store, heart: Heart, capsys: pytest.CaptureFixture[str]
) -> None:
    add(heart)
    heart.seconds_left = lambda: 6000.0
    heart.beat()
    (row,) = open_mirror(store.root).runs().to_dict("records")
    figures = {"ended": "running", "models": 1, "left": 2, "new": 1, "due": 3, "bytes_read": 5}
    assert row | figures == row
    assert 0 <= row["silent"] < 60
    assert 5900 < row["seconds_left"] <= 6000
    assert abs((row["last_model"] - datetime.now(UTC)).total_seconds()) < 60
    listed = shown(store, capsys)
    for cell in ("running", "1 of 3", "/s", "1 h ", " ago", "0.2.0"):
        assert cell in listed
    told = shown(store, capsys, "show", RUN)
    assert re.search(r"^last model +2", told, re.MULTILINE)
    assert re.search(r"^  zooadapt_version +0.2.0", told, re.MULTILINE)


def test_one_run_is_shown_with_its_failures(
    store: Store, heart: Heart, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = heart.tally.requests[0].entry
    failure = Failure(4, "", "repeat", "failed", "fetch", "FetchError", "net isn't there")
    heart.tally.add(ModelSummary(entry, (), (failure,), 5, 7, {"fetch": 1.0}, ""))
    heart.tally.events.leave(store, RUN)
    heart.beat(stopped=True)
    told = shown(store, capsys, "show", RUN[:12])
    assert re.search(r"^ended +stopped", told, re.MULTILINE)
    assert "net isn't there" in told
    (event,) = json.loads(shown(store, capsys, "show", RUN, "--json"))["events"]
    assert event["outcome"] == "failed"
    assert main(["runs", "show", "2031", "--mirror", store.root]) == 2
    assert "the mirror has no run 2031; zooadapt runs lists them" in capsys.readouterr().err


def test_a_damaged_line_of_the_events_is_named_and_the_others_are_shown(
    store: Store,
    heart: Heart,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    entry = heart.tally.requests[0].entry
    heart.tally.add(ModelSummary(entry, ("4",), (), 5, 7, {"fetch": 1.0}, ""))
    heart.tally.events.leave(store, RUN)
    heart.beat(stopped=True)
    key = f"runs/{RUN}/events.jsonl"
    store.write(key, [store.read(key), b'{"outcome": "fai'])
    (event,) = json.loads(shown(store, capsys, "show", RUN, "--json"))["events"]
    assert event["outcome"] == "made"
    assert f"{key}, line 2, is damaged and left out" in caplog.text


def test_a_run_at_work_is_watched_until_it_ends(
    store: Store,
    heart: Heart,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    heart.beat()

    def end(seconds: float) -> None:
        assert "running" in capsys.readouterr().out
        heart.beat(stopped=True)

    monkeypatch.setattr("zooadapt.cli.jobs.time.sleep", end)
    assert "stopped" in shown(store, capsys, "--watch")


def test_a_run_that_gives_no_sign_any_more_was_killed(store: Store, heart: Heart) -> None:
    heart.beat()
    long_ago = time.time() - 360
    os.utime(store.path(f"runs/{RUN}/heartbeat.json"), (long_ago, long_ago))
    (seen,) = runs.latest(store, 20)
    assert seen.state == "killed"
    assert seen.seconds_left is None


def test_the_age_of_a_sign_is_told_by_the_store_s_clock(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(bucket)
    store.write("runs/sign", [b"x"])
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a reader whose clock is wrong
    assert timedelta(0) <= store.age("runs/sign") < timedelta(minutes=1)


def test_what_fails_meanwhile_is_only_said(
    store: Store, heart: Heart, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add(heart)

    def full(self: Store, key: str, chunks: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalStore, "write", full)
    with Interim(store, heart):
        until(lambda: "the sign of life couldn't be brought up to date" in caplog.text)
        until(lambda: "the tables couldn't be brought up to date" in caplog.text)


def test_leaving_waits_for_what_is_under_way(
    store: Store, heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(heart)
    began: list[int] = []
    ended: list[int] = []
    leaving: list[int] = []

    def compact(*of: object) -> manifest.Compacted:
        began.append(1)
        until(lambda: bool(leaving))
        ended.append(1)
        raise RuntimeError("that is all")

    monkeypatch.setattr(manifest, "compact", compact)
    with Interim(store, heart):
        until(lambda: bool(began))
        leaving.append(1)
    assert ended == began
