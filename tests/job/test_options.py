"""Options: where they come from, and one clear line for each wrong one."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.options import parse
from zooadapt.cli.common import USAGE

SECRET = "s3cr3t-key"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command line with exit code 2 prints on stderr."""
    with pytest.raises(SystemExit) as stopped:
        parse(*arguments)
    assert stopped.value.code == USAGE
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_defaults(tmp_path: Path) -> None:
    config = parse("--chans", "4")
    assert config.dest == str(tmp_path / "mirror")
    assert (config.zoo, config.scheme, config.models) == (("timm",), None, ())
    assert (config.source_root, config.max_models, config.dry_run) == (None, None, False)


def test_channel_counts_are_merged_and_sorted() -> None:
    assert parse("--chans", "25, 1,4,4,8").chans == (1, 4, 8, 25)


@pytest.mark.parametrize("chans", ["", " ", ",", "0", "-1", "a", "1,a", "1.5", "4;8", "²"])
def test_bad_channel_counts(capsys: pytest.CaptureFixture[str], chans: str) -> None:
    assert "--chans" in refused(capsys, "--chans", chans)


def test_channel_counts_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--chans" in refused(capsys)


SOURCES = ["command line", "environment", "file"]


@pytest.mark.parametrize(
    "given", [s for n in (1, 2, 3) for s in itertools.combinations(SOURCES, n)]
)
def test_command_line_before_environment_before_file(
    given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["--chans", "1"]
    if "command line" in given:
        arguments += ["--models", "command line"]
    if "environment" in given:
        monkeypatch.setenv("ZOOADAPT_MODELS", "environment")
    if "file" in given:
        (tmp_path / "job.yaml").write_text("models: file")
        monkeypatch.setenv("ZOOADAPT_CONFIG", "job.yaml")
    assert parse(*arguments).models == (given[0],)


def test_bands_beside_or_instead_of_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    both = parse("--chans", "4", "--bands", "naip", "--bands", "R,G,B,NIR", "--bands", "naip")
    assert [(t.label, t.names) for t in both.targets] == [
        ("4ch-repeat", ""),
        ("4ch-naip", "R,G,B,NIR"),
    ]
    monkeypatch.setenv("ZOOADAPT_BANDS", "naip grey")
    assert [target.in_chans for target in parse().targets] == [4, 1]


def test_bands_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("bands: [R, {name: X, wavelength: 850}]")
    (tmp_path / "job.yaml").write_text("bands: [naip, mine.yaml]\nscheme: nearest")
    naip, mine = parse("--config", "job.yaml").targets
    assert naip.scheme == "nearest"
    assert re.fullmatch(r"2ch-mine-nearest\.[0-9a-f]{8}", mine.label)


def test_a_scheme_that_goes_by_bands_needs_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give --bands" in refused(capsys, "--chans", "4", "--scheme", "nearest")


def test_a_file_may_hold_every_option(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        """
        chans: [1, 4]
        scheme: repeat
        dest: s3://bucket/mirror
        zoo: [timm, sample]
        models: resnet*,vit*
        exclude: [vit_giant*]
        license: apache-2.0
        source-root: s3://checkpoints
        max_models: 7
        dry-run: true
        retry_failed: yes
        check_sources: false
        storage_options: {key: a, secret: s3cr3t-key}
        source_storage_options: {anon: true}
        """
    )
    config = parse("--config", "job.yaml")
    assert config.chans == (1, 4)
    assert (config.zoo, config.models) == (("timm", "sample"), ("resnet*", "vit*"))
    assert (config.source_root, config.max_models) == ("s3://checkpoints", 7)
    assert (config.dry_run, config.retry_failed, config.check_sources) == (True, True, False)
    assert config.storage_options["secret"] == SECRET
    assert config.source_storage_options == {"anon": True}
    assert SECRET not in repr(config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("chanels: 4", "unknown option chanels; choose from bands, bandwidth"),
        ("- a list", "must hold options"),
        ("chans: [1", "isn't valid YAML"),
        ("chans: 4\nstorage_options: key", "storage_options must be a mapping"),
        ("chans: 4\nmax_models: many", "'many' is not a valid integer"),
        ("chans: {a: 1}", "chans takes one value"),
        ("chans: 4\ndest: [a, b]", "dest takes one value"),
        ("chans: 4\nmax_models: 2.5", "'2.5' is not a valid integer"),
        ("chans: 4\ndest: ''", "--dest is empty"),
        ("chans: 99999999999999999999", "isn't a channel count; give numbers from 1 to 65536"),
    ],
)
def test_a_bad_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "job.yaml").write_text(content)
    assert message in refused(capsys, "--config", "job.yaml")


def test_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.yaml can't be read" in refused(capsys, "--config", "nowhere.yaml")


@pytest.mark.parametrize(
    "arguments", [["--max-models", "0"], ["--scheme", "none"], ["--nosuch"], ["extra"]]
)
def test_other_bad_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    refused(capsys, "--chans", "4", *arguments)


def test_a_relative_dest_in_ray_s_working_directory_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    temporary.mkdir(parents=True)
    monkeypatch.chdir(temporary)
    assert "temporary working directory" in refused(capsys, "--chans", "4")
    assert parse("--chans", "4", "--dest", "s3://bucket/mirror").dest == "s3://bucket/mirror"


def test_relative_local_places_are_made_absolute(tmp_path: Path) -> None:
    options: dict[str, Any] = {"--dest": "out", "--source-root": "in"}
    config = parse("--chans", "4", *itertools.chain(*options.items()))
    assert (config.dest, config.source_root) == (str(tmp_path / "out"), str(tmp_path / "in"))
