"""The cache: what it holds, and making room in it."""

import os
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.support import hub
from tests.support.pipelines import counted, entry, run
from zooadapt.cli.main import main
from zooadapt.errors import UsageError
from zooadapt.reader import kept
from zooadapt.reader.mirror import open_mirror


@pytest.fixture(scope="module")
def mirror(small: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    dest = tmp_path_factory.mktemp("mirror")
    run(entry(SMALL), counted(1, 4), small, dest)
    return str(dest)


def aged(folder: Path, days: float) -> None:
    when = (folder / "config.json").stat().st_mtime - days * 86400
    os.utime(folder / "config.json", (when, when))


def test_it_is_listed_and_emptied(
    mirror: str, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (open_mirror(mirror).pull(SMALL, chans) for chans in (5, 6))
    aged(old, 40)
    assert main(["cache", "ls"]) == 0
    head, first, second, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "variant", "from", "size", "used"]
    assert first.split()[:3] == [f"timm/{SMALL}", new.name, "derived"]
    assert second.split()[:2] == [f"timm/{SMALL}", old.name]
    assert last == f"2 variants, 3.79 MB, in {cache_dir}"
    assert main(["cache", "prune", "--older-than", "30d"]) == 0
    assert "1 variant removed, 1.9 MB" in capsys.readouterr().out
    assert (old.exists(), new.exists()) == (False, True)
    assert main(["cache", "prune", "--to", "0B"]) == 0
    assert kept.found(cache_dir) == []
    assert open_mirror(mirror).pull(SMALL, 5).exists()


def test_what_was_used_last_stays(mirror: str, cache_dir: Path) -> None:
    folders = [open_mirror(mirror).pull(SMALL, chans) for chans in (5, 6, 7)]
    for folder, days in zip(folders, (3, 2, 1), strict=True):
        aged(folder, days)
    open_mirror(mirror).load(SMALL, 5)
    kept.prune(cache_dir, most=4_000_000)
    assert [folder.exists() for folder in folders] == [True, False, True]
    assert not list(cache_dir.glob("trash/*"))


def test_a_limit_is_kept_by_itself(
    mirror: str, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOOADAPT_CACHE_LIMIT", "4MB")
    for chans in (5, 6, 7, 8):
        folder = open_mirror(mirror).pull(SMALL, chans)
        aged(folder, 9 - chans)
    assert {each.variant[:3] for each in kept.found(cache_dir)} == {"7ch", "8ch"}
    monkeypatch.setenv("ZOOADAPT_CACHE_LIMIT", "1kB")
    assert open_mirror(mirror).pull(SMALL, 9).exists(), "the one that was asked for stays"
    assert open_mirror(mirror).pull(SMALL, 10).exists()
    assert len(kept.found(cache_dir)) == 2, "and what was used a moment ago"
    monkeypatch.setenv("ZOOADAPT_CACHE_LIMIT", "much")
    with pytest.raises(UsageError, match="ZOOADAPT_CACHE_LIMIT much: give a size"):
        open_mirror(mirror).pull(SMALL, 11)
    assert len(kept.found(cache_dir)) == 2


def test_what_was_made_is_made_again_after_it_was_removed(
    small: Path, tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    with hub.serving(small) as served:
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        here = open_mirror()
        first = here.pull(SMALL, 4)
        digest = (first / "model.safetensors").read_bytes()
        assert [each.kind for each in kept.found(cache_dir)] == ["made"]
        assert main(["cache", "prune", "--to", "0B"]) == 0
        assert not first.exists()
        assert (here.pull(SMALL, 4) / "model.safetensors").read_bytes() == digest
        assert open_mirror().find(in_chans=4)["model"].tolist() == [SMALL]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "takes --older-than, --to or both"),
        (["--to", "lots"], "--to lots: give a size"),
        (["--older-than", "1y"], "--older-than 1y: give a number"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "prune", *arguments]) == 2
    assert words in capsys.readouterr().err
