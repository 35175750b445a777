"""A column that is added spoils nothing that was written before."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tests.support.jobs import ROOT
from tests.test_compatibility import FILE

LAST = '    Column("created_at", _TIME, "when it was recorded"),\n'
NEW = '    Column("gsd", pa.float64(), "metres a pixel"{older}),\n'

# What a job does at its end, and what a reader does, with the copy of the package.
PROGRAM = """
import sys, zooadapt
from zooadapt.mirror import manifest
from zooadapt.stores.opening import open_store

root = sys.argv[1]
old = zooadapt.open_mirror(root).manifest()
assert "gsd" in old.columns and len(old) == 6, old
tables = manifest.compact(open_store(root))
print(len(tables.usable), len(tables.failures))
"""


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A mirror that was written before there was the column."""
    with zipfile.ZipFile(FILE) as archive:
        archive.extractall(tmp_path)
    return tmp_path / "mirror"


def with_column(folder: Path, older: str, mirror: Path) -> "subprocess.CompletedProcess[str]":
    """Read and compact a mirror by a copy of the package that has one column more."""
    shutil.copytree(ROOT / "zooadapt", folder / "zooadapt")
    columns = folder / "zooadapt" / "mirror" / "columns.py"
    text = columns.read_text()
    assert text.count(LAST) == 1
    columns.write_text(text.replace(LAST, LAST + NEW.format(older=older)))
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(mirror)], cwd=folder, text=True, check=False,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip


def test_older_records_and_tables_have_its_default(mirror: Path, tmp_path: Path) -> None:
    done = with_column(tmp_path / "copy", ", older=10.0", mirror)
    assert done.stdout == "6 4\n", done.stderr
    rows = pd.read_parquet(mirror / "manifest.parquet")
    assert rows["gsd"].tolist() == [10.0] * 6
    assert "damaged" not in done.stderr


def test_without_a_default_older_tables_are_refused(mirror: Path, tmp_path: Path) -> None:
    before = (mirror / "manifest.parquet").read_bytes()
    done = with_column(tmp_path / "copy", "", mirror)
    assert done.returncode == 1
    assert "gsd" in done.stderr
    assert (mirror / "manifest.parquet").read_bytes() == before
