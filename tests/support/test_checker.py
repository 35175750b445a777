"""The tests' own checker finds the fault of a broken mirror, and none in a sound one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import SMALL
from tests.support import checker
from tests.support.damage import edit_table, flip, one
from tests.support.pipelines import counted, entry, run


@pytest.fixture(scope="module")
def sound(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror of one model with 1 and 4 channels."""
    dest = tmp_path_factory.mktemp("sound")
    run(entry(SMALL), counted(1, 4), small, dest)
    return dest


@pytest.fixture
def mirror(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound mirror, which a test breaks."""
    return Path(shutil.copytree(sound, tmp_path / "mirror"))


def stray(mirror: Path) -> None:
    folder = one(mirror, "weights/*/*/1ch-*")
    shutil.copytree(folder, folder.with_name("1ch-repeat-0123456789abcdef"))


def truncated(mirror: Path) -> None:
    file = mirror / "manifest.parquet"
    file.write_bytes(file.read_bytes()[:-100])


def unlisted(mirror: Path) -> None:
    file = mirror / "manifest.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)


def other_figures(mirror: Path) -> None:
    """Change a figure, in the record and in the manifest."""
    file = one(mirror, "records/*/*/*.json")
    record = json.loads(file.read_text())
    record["variants"][0]["equivalence_error"] = 0.01
    file.write_text(json.dumps(record))
    edit_table(mirror, "equivalence_error", [0.01, record["variants"][1]["equivalence_error"]])


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights gone": (lambda m: one(m, "weights/*/*/4ch-*/model.*").unlink(), "not there"),
    "config gone": (lambda m: one(m, "weights/*/*/4ch-*/config.json").unlink(), "holds"),
    "stem gone": (
        lambda m: one(m, "weights/*/*/source-*/*").unlink(),
        r"stem\.safetensors not",
    ),
    "flipped weights": (lambda m: flip(one(m, "weights/*/*/1ch-*/model.*")), "other bytes"),
    "flipped config": (lambda m: flip(one(m, "weights/*/*/1ch-*/config.json")), "the id isn't"),
    "flipped stem": (lambda m: flip(one(m, "weights/*/*/source-*/*")), "the id isn't"),
    "no record": (lambda m: one(m, "records/*/*/*.json").unlink(), "no record backs the row"),
    "other row": (lambda m: edit_table(m, "license", ["x", "y"]), "no record backs the row"),
    "other figures": (other_figures, "don't prove"),
    "stray folder": (stray, "belongs to no row"),
    "row lost": (unlisted, "belongs to no row"),
    "truncated manifest": (truncated, "can't be read"),
    "no failures": (lambda m: (m / "failures.parquet").unlink(), "can't be read"),
    "left behind": (lambda m: (m / "weights" / "x.tmp").touch(), "was left behind"),
    "truncated record": (lambda m: one(m, "records/*/*/*.json").write_text("{"), "can't be read"),
}


def test_a_sound_mirror_passes(sound: Path) -> None:
    checker.check(str(sound))


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_mirror_does_not(name: str, mirror: Path) -> None:
    breaks, expected = BREAKS[name]
    breaks(mirror)
    with pytest.raises(AssertionError, match=expected):
        checker.check(str(mirror))


def test_the_same_made_elsewhere_is_the_same(
    sound: Path, small: Path, bucket: str, mirror: Path
) -> None:
    run(entry(SMALL), counted(1, 4), small, bucket)
    checker.check(bucket)
    assert checker.summary(bucket) == checker.summary(str(sound))
    assert len(checker.summary(bucket).objects) == 5
    flip(one(mirror, "weights/*/*/source-*/*"))
    assert checker.summary(str(mirror)) != checker.summary(str(sound))


def test_another_row_is_another_mirror(sound: Path, mirror: Path) -> None:
    edit_table(mirror, "verification", ["composed", "composed"])
    assert checker.summary(str(mirror)) == checker.summary(str(sound))
    edit_table(mirror, "bytes", [1, 2])
    assert checker.summary(str(mirror)) != checker.summary(str(sound))
