"""A year of nightly runs over a zoo that grows, changes and loses models: the mirror stays right.

Each night is the real command with ``--check-sources``, but for Ray: what is due is made in this
process. So four hundred nights take minutes.
"""

import logging
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Lock

import pandas as pd
import pytest

from tests.support import checker, fine_tuned
from zooadapt import pipeline
from zooadapt.cli.main import main
from zooadapt.cluster.connection import Connection
from zooadapt.job import run
from zooadapt.job.interim import Heart
from zooadapt.job.options import Config
from zooadapt.mirror.scan import Records
from zooadapt.types import Job

_log = logging.getLogger(__name__)
_making = Lock()

NIGHTS = int(os.environ.get("NIGHTS", "400"))
MOST = 12
"""The most models that the zoo has at once."""


def work(
    config: Config, job: Job, records: Records, heart: Heart, connection: Connection,
    ending: ExitStack,
) -> None:  # fmt: skip
    """Make what is due in this process, as `run.work` does on Ray.

    Jobs are processes; here two jobs are threads, so they make one model at a time.
    """
    for request in heart.tally.requests:
        with _making:
            heart.tally.add(pipeline.make(request, job))


@dataclass
class Zoo:
    """A zoo in a folder, and what should be in the mirror of it."""

    root: Path
    mirror: Path
    chance: random.Random
    seeds: dict[str, int] = field(default_factory=dict)
    """The seed of the weights of each model that is there."""
    damaged: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    """Models that were taken down."""
    seen: int = 0

    def changes(self, night: int) -> None:
        """What happens to the zoo on a day: mostly nothing."""
        happens = self.chance.random()
        if not self.seeds or (happens < 0.08 and len(self.seeds) < MOST):
            self._write(f"model{self.seen:03}")
            self.seen += 1
        elif happens < 0.14:
            self._write(self._any())
        elif happens < 0.16 and len(self.seeds) > 2:
            name = self._any()
            shutil.rmtree(self.root / name)
            del self.seeds[name]
            self.damaged.discard(name)
        elif happens < 0.18:
            name = self._any()
            (self.root / name / "model.safetensors").write_bytes(b"damaged %d" % night)
            self.damaged.add(name)
        elif happens < 0.19:
            self._take_down(self._any())

    def _take_down(self, name: str) -> None:
        rows = pd.read_parquet(self.mirror / "manifest.parquet")
        if name in set(rows["model"]):
            command = ["remove", name, str(self.mirror), "--reason", "somebody asked", "--yes"]
            assert main(command) == 0
            self.removed.add(name)

    def _any(self) -> str:
        return self.chance.choice(sorted(self.seeds))

    def _write(self, name: str) -> None:
        self.seeds[name] = self.chance.randrange(10**6)
        shutil.rmtree(self.root / name, ignore_errors=True)
        fine_tuned.write(self.root / name, seed=self.seeds[name], num_classes=5)
        self.damaged.discard(name)

    def check(self) -> None:
        """The mirror is sound, and holds what it should."""
        checker.check(str(self.mirror))
        rows = pd.read_parquet(self.mirror / "manifest.parquet")
        usable = {name for name in self.seeds if name not in self.removed | self.damaged}
        current = rows[rows["source_gone"].isna()]
        found = current.groupby("model")["in_chans"].agg(sorted).to_dict()
        assert {name: found.get(name) for name in usable} == {name: [1, 4] for name in usable}
        assert not set(rows["model"]) & self.removed
        gone = set(rows.loc[rows["source_gone"].notna(), "model"])
        assert not gone & set(self.seeds)

    @property
    def bytes(self) -> dict[str, int]:
        """The bytes of the mirror by its folders, "" for what lies in none."""
        found: dict[str, int] = {}
        for file in self.mirror.rglob("*"):
            if file.is_file():
                top = file.relative_to(self.mirror).parts
                place = top[0] if len(top) > 1 else ""
                found[place] = found.get(place, 0) + file.stat().st_size
        return found


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    monkeypatch.setattr(run, "work", work)
    (tmp_path / "zoo").mkdir()
    return Zoo(tmp_path / "zoo", tmp_path / "mirror", random.Random(1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_year_of_nights(zoo: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["adapt", "--zoo", f"folder:{zoo.root}", "--chans", "1,4", "--check-sources",
               "--dest", str(zoo.mirror)]  # fmt: skip
    seconds, sizes = list[float](), list[dict[str, int]]()
    for night in range(NIGHTS):
        zoo.changes(night)
        began = time.monotonic()
        if night % 20 == 19:
            with ThreadPoolExecutor(2) as pool:
                codes = list(pool.map(main, [command, command]))
        else:
            codes = [main(command)]
        seconds.append(time.monotonic() - began)
        assert set(codes) <= {0, 1}, capsys.readouterr()
        if night % 10 == 9 or night % 25 == 24:
            assert main(["gc", str(zoo.mirror), "--older-than", "0m", "--delete"]) == 0
        if night % 25 == 24:
            zoo.check()
            assert main(["verify", str(zoo.mirror)]) == 0, capsys.readouterr()
            sizes.append(zoo.bytes)
        capsys.readouterr()
    live = pd.read_parquet(zoo.mirror / "manifest.parquet")["bytes"].sum()
    assert sizes[-1]["weights"] < 1.5 * live, "gc keeps up"
    quarter = NIGHTS // 4
    first, last = median(seconds[:quarter]), median(seconds[-quarter:])
    told = f"median {first:.2f} s a night in the first quarter, {last:.2f} s in the last"
    _log.warning("%s; bytes: %s", told, [sizes[0], sizes[len(sizes) // 2], sizes[-1]])
