"""A part of a mirror copied elsewhere is a mirror of its own: for readers, checks and jobs."""

from pathlib import Path

import pytest

import zooadapt
from tests.conftest import SMALL
from tests.support import checker, checkpoints, web
from tests.support.pipelines import counted, entry, run
from zooadapt.cli.main import main
from zooadapt.job import plan
from zooadapt.job.options import Config
from zooadapt.mirror import manifest
from zooadapt.names import WEIGHTS
from zooadapt.stores.opening import open_store

OTHER = "test_vit.r160_in1k"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_hub_repos(tmp_path_factory.mktemp("zoo"), [SMALL, OTHER])


@pytest.fixture(scope="module")
def root(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("mirror")
    for name in (SMALL, OTHER):
        run(entry(name), counted(1, 4), zoo, dest)
    return dest


def variants(url: Path | str) -> list[tuple[str, int]]:
    rows = zooadapt.open_mirror(str(url)).find()
    return list(zip(rows["model"], rows["in_chans"], strict=True))


def due(dest: Path, zoo: Path) -> int:
    """Variants that a job for 1 and 4 channels would make there."""
    config = Config(
        chans=(1, 4), bands=(), scheme=None, dest=str(dest), zoo=("timm",),
        models=(SMALL, OTHER), exclude=(), license=(), source_root=str(zoo), max_models=None,
        dry_run=False, retry_failed=False, check_sources=False,
    )  # fmt: skip
    entries = [entry(SMALL), entry(OTHER)]
    return plan.make(entries, config, manifest.histories(open_store(str(dest)))).due


def test_a_part_is_a_mirror_that_jobs_go_on_with(root: Path, zoo: Path, tmp_path: Path) -> None:
    assert main(["sync", str(root), str(tmp_path), "--models", "test_res*", "--chans", "4"]) == 0
    assert variants(tmp_path) == [(SMALL, 4)]
    checker.check(str(tmp_path))
    assert main(["verify", str(tmp_path), "--deep"]) == 0
    assert due(tmp_path, zoo) == 3
    assert zooadapt.open_mirror(str(tmp_path)).pull(SMALL, 9).exists()  # its stem is there


def test_it_grows_and_is_not_copied_twice(
    root: Path, zoo: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", str(root), bucket, "--exclude", "test_vit"]) == 0
    assert "2 variants copied" in capsys.readouterr().out
    assert main(["sync", str(root), bucket]) == 0
    assert "2 variants copied" in (out := capsys.readouterr().out)
    assert "2 were there already" in out
    assert variants(bucket) == variants(root)
    assert main(["verify", bucket]) == 0


def test_a_damaged_variant_is_named_and_the_others_are_copied(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, dest = tmp_path / "source", tmp_path / "dest"
    rows = run(entry(SMALL), counted(1, 4), zoo, source)
    weights = source / rows[0]["folder"] / WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))
    assert main(["sync", str(source), str(dest)]) == 1
    assert f"{rows[0]['folder']}" in (out := capsys.readouterr().out)
    assert "other bytes" in out
    assert variants(dest) == [(SMALL, 4)]
    checker.check(str(dest))


def test_from_behind_a_web_server(
    root: Path, zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with web.serving_files(root) as url:
        assert main(["sync", url, str(tmp_path)]) == 0
    assert "4 variants have no record" in caplog.text
    assert variants(tmp_path) == variants(root)
    assert main(["verify", str(tmp_path)]) == 0


def test_a_destination_that_can_not_be_written_is_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["sync", str(root), str(tmp_path / "file" / "mirror")]) == 3
    assert "can't be written" in capsys.readouterr().err


def test_nothing_that_matches_is_exit_2(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", str(root), str(tmp_path / "x"), "--models", "nosuch*"]) == 2
    assert "none of the 4 variants matches" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
