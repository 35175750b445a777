"""A run reads each record once, at its start. At its end it reads all new records, of any job."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import SMALL
from tests.support.pipelines import counted, entry, run
from tests.support.records import record, variant
from zooadapt.cli.main import main
from zooadapt.job import run as job
from zooadapt.job.interim import Heart
from zooadapt.mirror import manifest
from zooadapt.mirror.scan import Records
from zooadapt.stores.local import LocalStore
from zooadapt.stores.opening import open_store
from zooadapt.types import ModelSummary


@pytest.fixture
def mirror(small: Path, tmp_path: Path) -> Path:
    """A mirror with one real model, and with a record of another model."""
    run(entry(SMALL), counted(4), small, tmp_path / "mirror")
    record(open_store(str(tmp_path / "mirror")), 1, [variant(1)], [], model="other")
    return tmp_path / "mirror"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each object was read."""
    counts: Counter[str] = Counter()
    read, read_many = LocalStore.read, LocalStore.read_many

    def read_one(self: LocalStore, key: str) -> bytes:
        counts[key] += 1
        return read(self, key)

    def read_several(self: LocalStore, keys: list[str]) -> dict[str, bytes]:
        counts.update(keys)
        return read_many(self, keys)

    monkeypatch.setattr(LocalStore, "read", read_one)
    monkeypatch.setattr(LocalStore, "read_many", read_several)
    return counts


def adapted(small: Path, mirror: Path, chans: str) -> int:
    options = ["--models", SMALL, "--source-root", str(small), "--check-sources"]
    return main(["adapt", "--chans", chans, "--dest", str(mirror), *options])


def of_records(reads: Counter[str]) -> dict[str, int]:
    return {key: count for key, count in reads.items() if key.startswith("records/")}


def test_a_nightly_run_with_nothing_to_do(
    small: Path, mirror: Path, reads: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert adapted(small, mirror, "4") == 0
    assert "0 variants to make, 1 done already" in capsys.readouterr().out
    assert list(of_records(reads).values()) == [1, 1]
    # Each table is read to check it for damage, and to compare it with the new one.
    assert reads[manifest.MANIFEST] <= 2
    assert reads[manifest.FAILURES] <= 2


def test_what_came_meanwhile_is_read_at_the_end(
    small: Path, mirror: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def work(config: object, job: object, records: Records, heart: Heart, *rest: object) -> None:
        reads.clear()
        heart.tally.add(ModelSummary(heart.tally.requests[0].entry, (), (), 0, 0, {}, ""))
        written.append(record(records.store, 5, [variant(7)], [], model="of another job"))

    monkeypatch.setattr(job, "work", work)
    assert adapted(small, mirror, "4,8") == 0
    assert of_records(reads) == {written[0]: 1}
    rows = pd.read_parquet(mirror / "manifest.parquet")
    assert sorted(rows["model"]) == ["of another job", "other", SMALL]
