"""How the package is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.jobs import ROOT


def test_it_is_imported_from_the_folder_above_a_clone(tmp_path: Path) -> None:
    """As in a notebook server whose root is there: a clone's own folder is no package."""
    clone = tmp_path / "zooadapt"
    shutil.copytree(ROOT / "zooadapt", clone / "zooadapt")
    shutil.copy(ROOT / "pyproject.toml", clone)
    program = "import zooadapt; print(zooadapt.create_model.__name__, zooadapt.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("create_model "), done.stderr
