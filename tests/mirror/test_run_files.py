"""What a run leaves behind, however it ends, and how `zooadapt runs` lists it."""

import json
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from tests.support.options import options
from tests.support.rows import summarise
from zooadapt import __version__
from zooadapt.cli.main import main
from zooadapt.errors import RunError
from zooadapt.job import plan, run
from zooadapt.job.interim import Heart
from zooadapt.job.tally import Tally
from zooadapt.mirror import manifest, runs
from zooadapt.mirror.run_files import EventLog
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.types import Failure, Job, ModelEntry, ModelSummary

ENTRY = ModelEntry("zoo", "net", "net", "", "mit", url="https://bob:s3cret@host/net")
FAILED = Failure(8, "", "repeat", "failed", "fetch", "FetchError", "broken")


def summary(*failures: Failure) -> ModelSummary:
    return ModelSummary(ENTRY, ("1", "4"), failures, 10, 20, {"fetch": 1.0, "adapt": 2.0}, "cpu")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    local = request.param == "local"
    return open_store(str(tmp_path) if local else request.getfixturevalue("bucket"))


def begun(store: Store, day: int, **content: Any) -> str:
    run_id = f"202611{day:02}T020000Z-abc123"
    store.write(f"runs/{run_id}/config.json", [json.dumps(content).encode()])
    return run_id


def listed(store: Store, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    url = store.fs.unstrip_protocol(store.root)
    assert main(["runs", url, *arguments]) == 0
    out = capsys.readouterr().out
    return json.loads(out) if "--json" in arguments else out


def test_each_run_is_a_line_the_latest_first(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(store, 3)
    summarise(store, 3)
    killed = begun(store, 4, zooadapt_version="0.1.0")
    stopped = begun(store, 5, zooadapt_version="0.1.0")
    with TemporaryFile() as log:
        tally = Tally(stopped, EventLog(log), ())
        tally.add(summary())
        tally.add(summary(FAILED))
        tally.events.leave(store, stopped)  # as 0.1 did: without a sign of life
    begun(store, 6)
    text = {"new": 1, "usable": 1, "unsupported": 0, "failed": 0, "seconds": 7200.0, "left": 3}
    summarise(store, 6, json.dumps(text))
    store.write("runs/lease.json", [b"{}"])
    rows = listed(store, capsys, "--json")
    assert [row["ended"] for row in rows] == ["time up", "stopped", "no end", "done"]
    assert [row["began"][:10] for row in rows] == [f"2026-11-{day:02}" for day in (6, 5, 4, 3)]
    assert rows[0]["left"] == 3
    figures = {"models": 2, "new": 4, "failed": 1, "unsupported": 0, "bytes_written": 40}
    assert {name: rows[1][name] for name in figures} == figures
    assert rows[2] | {"run_id": killed, "models": None, "seconds": None} == rows[2]
    assert rows[2]["zooadapt_version"] == "0.1.0"
    assert rows[3]["seconds"] == 4.5
    lines = listed(store, capsys).splitlines()
    assert len(lines) == 5
    assert lines[0].split()[:4] == ["run_id", "began", "took", "ended"]
    assert "2 h 0 min" in lines[1]
    assert not {"nan", "None"} & {cell for line in lines for cell in line.split()}
    assert len(listed(store, capsys, "--limit", "2").splitlines()) == 3


def test_where_nothing_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path))
    assert listed(store, capsys) == "the mirror has no runs\n"
    assert listed(store, capsys, "--json") == []


def test_what_is_damaged_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path))
    summarise(store, 3, "[]")
    assert listed(store, capsys, "--json")[0]["ended"] == "damaged"
    assert "runs/20261103T020000Z-abc123 is damaged and shown without figures" in caplog.text


def test_an_event_says_when_what_and_how_long(tmp_path: Path) -> None:
    store, job = open_store(str(tmp_path)), Job("20261124T020000Z-abc123", str(tmp_path))
    with TemporaryFile() as log:
        tally = Tally(job.run_id, EventLog(log), ())
        for failures in ([], [FAILED]):
            tally.add(summary(*failures))
        tally.events.leave(store, job.run_id)
    text = store.read(f"runs/{job.run_id}/events.jsonl").decode()
    first, second = map(json.loads, text.splitlines())
    assert (first["outcome"], second["outcome"]) == ("made", "failed")
    assert first["seconds"] == {"fetch": 1.0, "adapt": 2.0}
    assert first["time"].startswith("20")
    assert "s3cret" not in text


@pytest.mark.parametrize("end", [KeyboardInterrupt(), RunError("the cluster is gone")])
def test_a_run_that_is_stopped_leaves_its_events(
    end: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(config: Any, job: Any, records: Any, heart: Heart, *rest: Any) -> None:
        heart.tally.add(summary())
        raise end

    monkeypatch.setattr(run, "work", work)
    monkeypatch.setattr(plan, "list_models", lambda config: [ENTRY])
    monkeypatch.setattr(plan, "check_targets", lambda entries, targets: None)
    of = options()
    with pytest.raises(type(end)):
        run.adapt(_at(of, tmp_path))
    (seen,) = runs.latest(open_store(str(tmp_path)), 20)
    assert (seen.state, seen.zooadapt_version) == ("stopped", __version__)
    assert seen.run
    assert (seen.run.models, seen.run.new, seen.run.left, seen.run.due) == (1, 2, 0, 2)
    assert seen.run.seconds > 0
    (left,) = tmp_path.glob("runs/*/config.json")
    assert json.loads(left.read_text())["chans"] == [1, 4]


def test_events_are_left_where_the_tables_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: Store, records: object) -> None:
        raise OSError(28, "No space left")

    monkeypatch.setattr(manifest, "compact", full)
    monkeypatch.setattr(run, "work", lambda *of: of[3].tally.add(summary()))
    monkeypatch.setattr(plan, "list_models", lambda config: [ENTRY])
    monkeypatch.setattr(plan, "check_targets", lambda entries, targets: None)
    with pytest.raises(RunError, match="the manifest can't be made"):
        run.adapt(_at(options(), tmp_path))
    assert len(list(tmp_path.glob("runs/*/events.jsonl"))) == 1


def _at(config: Any, folder: Path) -> Any:
    from dataclasses import replace

    return replace(config, dest=str(folder), check_sources=False)
