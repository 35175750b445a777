"""Each guarantee's check or order is taken away in a copy; a test has to turn red."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.jobs import ROOT


@dataclass(frozen=True)
class Mutant:
    """A line of a module replaced by another, and the tests that hold the guarantee."""

    guarantee: int
    module: str
    line: str
    instead: str
    tests: str


MUTANTS = [
    Mutant(
        1,
        "mirror/read_back.py",
        "if not variant.folder.endswith(content_id(variant.sha256, config)):",
        "if False:",
        "mirror/test_read_back.py",
    ),
    Mutant(
        1,
        "mirror/read_back.py",
        "if digest != variant.sha256:",
        "if False:",
        "mirror/test_read_back.py",
    ),
    Mutant(
        1,
        "mirror/read_back.py",
        "if hashlib.sha256(head).hexdigest() != variant.head_sha256:",
        "if False:",
        "mirror/test_read_back.py",
    ),
    Mutant(
        1,
        "mirror/read_back.py",
        "elif not _equal(self.store.chunks(key, variant.head), _bytes(self.body)):",
        "elif False:",
        "mirror/test_read_back.py",
    ),
    Mutant(
        1,
        "mirror/read_back.py",
        "if not _equal([stored], between(pieces(body), start, stop)):",
        "if False:",
        "mirror/test_read_back.py",
    ),
    Mutant(1, "stores/s3.py", "if False in verdicts:", "if False:", "stores/test_compose.py"),
    Mutant(
        2, "checkpoints/checkpoint.py", "if random:", "if False:", "checkpoints/test_checkpoint.py"
    ),
    Mutant(
        3,
        "adapt/contract.py",
        "return torch.stack(columns, dim=1).to(weight.dtype)",
        "return torch.stack(columns, dim=1).mul(1 + 1e-6).to(weight.dtype)",
        "adapt/test_schemes.py",
    ),
    Mutant(
        4,
        "proof/compare.py",
        "return one.data_ptr() == other.data_ptr() or torch.equal(one, other)",
        "return True",
        "proof/test_compare.py",
    ),
    Mutant(
        4,
        "proof/verdict.py",
        "if not result.equivalent and exact(stems, scheme, matrix):",
        "if False:",
        "proof/test_compare.py test_pipeline.py jobs/test_conformance.py",
    ),
    Mutant(
        4,
        "proof/compare.py",
        "_check_stored(variant, adapted, self._body)",
        "pass",
        "proof/test_compare.py",
    ),
    Mutant(
        4,
        "proof/compare.py",
        "wrong = [name for name, tensor in body.items() if not _same(state.get(name), tensor)]",
        "wrong: list[str] = []",
        "proof/test_compare.py",
    ),
    Mutant(
        4,
        "proof/passes.py",
        "if _makes_any_image(matrix):",
        "if False:",
        "proof/test_passes.py proof/test_compare.py",
    ),
    Mutant(
        5,
        "stores/store.py",
        "self._move(temporary, self.path(key))",
        "self._move(temporary, self.path(key) + 'x')",
        "stores/test_store.py",
    ),
    Mutant(
        5,
        "stores/multipart.py",
        'call_s3(filesystem, "abort_multipart_upload", **upload)',
        "pass",
        "stores/test_faults.py -k shows_nothing",
    ),
    Mutant(
        6,
        "proof/published.py",
        "raise DeviceLost(one_line(error)) from error",
        "pass",
        "proof/test_devices.py -k breaks_the_device",
    ),
    Mutant(
        6,
        "cluster/schedule.py",
        "if work.deaths >= _DEATHS or work.losses >= _LOSSES:",
        "if False:",
        "cluster/test_schedule.py -k kills",
    ),
    Mutant(7, "checkpoints/checkpoint.py", "vet(file)", "pass", "checkpoints/test_hostile.py"),
    Mutant(
        8,
        "stores/s3.py",
        "if not self.exists(key) or self.read(key) != data:",
        "if False:",
        "stores/test_faults.py mirror/test_manifest.py",
    ),
    Mutant(
        8,
        "mirror/layout.py",
        "return [row.get(name, OLDER[name]) for row in held]",
        "return [row[name] for row in held]",
        "mirror/test_columns.py",
    ),
    Mutant(
        9,
        "errors.py",
        "text = pattern.sub(replacement, text)",
        "pass",
        "job/test_secrets.py -k password",
    ),
    Mutant(10, "pipeline.py", "if error.passes:", "if False:", "job/test_outages.py -k no_answer"),
    Mutant(
        10,
        "cluster/nodes.py",
        """return {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"}""",
        "return {}",
        "cluster/test_nodes.py -k alone_reaches",
    ),
    Mutant(
        11,
        "reader/original.py",
        'return located is None or located.source.sha256 in ("", row["source_sha256"])',
        "return True",
        "reader/test_original.py -k newer",
    ),
    Mutant(
        12,
        "reader/card.py",
        "if result.equivalent:",
        "if True:",
        "reader/test_share.py -k where_the_function_changed",
    ),
    Mutant(
        13,
        "reader/share.py",
        "if bool(api.model_info(self.repo).private) != self.private:",
        "if False:",
        "reader/test_share.py -k private_unless",
    ),
    Mutant(
        14,
        "job/interim.py",
        '_trying("the tables", self._compact)',
        "pass",
        "job/test_interim.py -k come_with_the_first_variant",
    ),
    Mutant(
        14,
        "upkeep/garbage.py",
        "return min([before, *(began(seen.run_id) for seen in at_work)])",
        "return before",
        "upkeep/test_garbage.py",
    ),
    Mutant(
        15,
        "job/run.py",
        "tally.events.leave(store, job.run_id)",
        "pass",
        "job/test_resume.py -k a_stopped_run",
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.guarantee}-{mutant.line}")
def test_a_mutant_s_line_is_there(mutant: Mutant) -> None:
    assert (ROOT / "zooadapt" / mutant.module).read_text().count(f" {mutant.line}\n") == 1
    for file in mutant.tests.split(" -k ")[0].split():
        assert (ROOT / "tests" / file).exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.guarantee}-{mutant.line}")
def test_a_mutant_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    for name in ("zooadapt", "tests", "jobs", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    module = tmp_path / "zooadapt" / mutant.module
    text = module.read_text()
    assert text.count(f" {mutant.line}\n") == 1
    module.write_text(text.replace(f" {mutant.line}\n", f" {mutant.instead}\n"))
    file, *options = mutant.tests.split(" -k ")
    files = [f"tests/{name}" for name in file.split()]
    chosen = ["-k", options[0]] if options else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", *files, *chosen],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
