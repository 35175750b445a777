"""What a run prints: a line for each model, and how far it has come."""

import pytest

from zooadapt.report.job import Progress, Work, model_line, shortened
from zooadapt.targets import Bands, Target
from zooadapt.types import Failure, ModelEntry, ModelSummary, Request


def entry(name: str) -> ModelEntry:
    return ModelEntry("timm", name, name, "", None)


def request(name: str, *counts: int) -> Request:
    return Request(entry(name), tuple(Target(Bands.counted(count), "repeat") for count in counts))


def failed(count: int, error: str = "it isn't there") -> Failure:
    return Failure(count, "", "repeat", "failed", "fetch", "Absent", error)


def summary(name: str, *made: str, failures: tuple[Failure, ...] = ()) -> ModelSummary:
    seconds = {"fetch": 1.25, "validate": 2.0}
    return ModelSummary(entry(name), made, failures, 10**6, 2 * 10**6, seconds, "cpu")


@pytest.mark.parametrize(
    ("targets", "shown"),
    [
        (["1"], "1"),
        (["1", "4", "8", "25"], "1, 4, 8, 25"),
        ([str(n) for n in range(1, 61)], "1–60"),
        (["1", "2", "3", "5", "6", "8"], "1–3, 5, 6, 8"),
        (["4", "sentinel2-l2a"], "4, sentinel2-l2a"),
    ],
)
def test_many_counts_are_shortened(targets: list[str], shown: str) -> None:
    assert shortened(targets) == shown


def test_a_model_s_line_says_what_was_made_the_time_and_the_bytes() -> None:
    assert model_line(summary("m", "1", "4")) == "m: 1, 4 channels proved on cpu (3.2 s, 3 MB)"


def test_a_failure_s_line_says_why() -> None:
    line = model_line(summary("m", "1", failures=(failed(4), failed(8))))
    assert line.startswith("m: 1 channels proved on cpu; 4, 8 channels failed at fetch: it isn't")


def test_the_time_left_is_weighted_by_bytes_and_variants() -> None:
    work = Work([request("large", 1, 4, 8), request("small", 4), request("tiny", 4)])
    assert work.share() == 0
    work.located(entry("large"), 10**9)
    work.located(entry("small"), 10**8)
    work.ended(entry("small"))
    tiny = 2 * (10**9 + 10**8) / 2  # as large as the average
    assert work.share() == pytest.approx(2e8 / (4e9 + 2e8 + tiny))
    work.ended(entry("large"))
    work.ended(entry("tiny"))
    assert work.share() == 1


def test_where_no_size_is_known_models_count_alike() -> None:
    work = Work([request("a", 4), request("b", 4)])
    work.located(entry("a"), None)
    work.ended(entry("a"))
    assert work.share() == 0.5


def test_every_minute_a_line_says_how_far_the_run_has_come(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("zooadapt.report.job.time.monotonic", lambda: clock[0])
    with Progress([request("a", 1, 4), request("b", 1, 4), request("c", 1, 4)]) as progress:
        clock[0] += 30
        progress.model_ended(summary("a", "1", "4"))
        progress.tell()
        assert "so far" not in capsys.readouterr().out
        clock[0] += 30
        progress.model_ended(summary("b", failures=(failed(1), failed(4))))
        capsys.readouterr()
        progress.tell()
        progress.tell()
    printed = capsys.readouterr().out
    said = "2 of 3 models, 2 of 6 variants made, 1 model failed (fetch 1), 100 kB/s"
    assert printed.count("so far:") == 1
    assert f"so far: {said}, about 30.0 s left" in printed
