"""The commands for people who use a mirror."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from s3fs import S3FileSystem

import zooadapt
from tests.conftest import SMALL
from tests.support.pipelines import counted, entry, run
from zooadapt import bands
from zooadapt.cli.main import main
from zooadapt.errors import UsageError
from zooadapt.mirror import manifest
from zooadapt.stores.opening import open_store
from zooadapt.targets import Target

S2 = "sentinel2-l2a"


@pytest.fixture(scope="module")
def root(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("mirror")
    run(entry(SMALL), (*counted(1, 4), Target(bands.preset(S2), "nearest")), small, dest)
    return dest


@pytest.fixture
def mirror(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mirror, named by the environment."""
    monkeypatch.setenv("ZOOADAPT_MIRROR", str(root))
    return root


def out(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(list(arguments)) == code
    return capsys.readouterr().out


def test_ls_lists_filters_and_sorts(mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = out(capsys, "ls").splitlines()
    assert lines[0].split() == [
        "model", "in_chans", "bands", "scheme", "equivalent", "params", "input_height", "license",
    ]  # fmt: skip
    assert len(lines) == 5
    assert lines[-1] == "3 variants"
    assert "1 variant" in out(capsys, "ls", "test_res*", "--bands", S2)
    assert "0 variants" in out(capsys, "ls", "--license", "gpl*")
    found = json.loads(out(capsys, "ls", "--columns", "in_chans,bytes", "--sort=-bytes", "--json"))
    assert [row["in_chans"] for row in found] == [12, 4, 1]
    assert main(["ls", "--columns", "nosuch"]) == 2
    assert "no column nosuch" in capsys.readouterr().err


def test_show_says_all_of_a_model(mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = out(capsys, "show", "test_resnet")
    for word in ("apache-2.0", "conv1.0.weight", "4ch-repeat-", "min_timm"):
        assert word in shown
    assert len(json.loads(out(capsys, "show", "test_resnet", "--json"))) == 3
    assert main(["show", "resnet50"]) == 2
    assert "the mirror has no resnet50" in capsys.readouterr().err


def test_pull_prints_a_folder_that_timm_loads(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "mine"
    assert out(capsys, "pull", SMALL, "--chans", "4", "--to", str(to)) == f"{to}\n"
    model = timm.create_model(f"local-dir:{to}", pretrained=True)
    assert model.conv1[0].weight.shape[1] == 4
    assert main(["pull", SMALL, "--chans", "9", "--no-derive"]) == 2
    assert "but for 1; 4; B01" in capsys.readouterr().err
    assert main(["pull", SMALL]) == 2
    assert "either --chans or --bands" in capsys.readouterr().err


def test_status_names_what_timm_has_besides(
    mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = out(capsys, "status")
    assert "3 variants of 1 model," in shown
    assert "just now" in shown or "minute" in shown
    others = len(timm.list_models(pretrained=True)) - 1
    assert f"{others:,} pretrained models that the mirror lacks: " in shown
    found = json.loads(out(capsys, "status", "--json"))
    assert found["channels"] == [1, 4, 12]
    assert len(found["lacking"]) == others


def test_no_mirror_is_said_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["ls"], ["show", "x"], ["status"]):
        assert main(command) == 2
        assert "which mirror?" in capsys.readouterr().err
    with pytest.raises(UsageError, match="which mirror"):
        zooadapt.open_mirror().manifest()


def test_one_line_creates_a_model(mirror: Path) -> None:
    model = zooadapt.create_model(SMALL, in_chans=4)
    assert model.training
    few = zooadapt.create_model(SMALL, in_chans=4, mirror=str(mirror), num_classes=7)
    stored = model.state_dict()
    for name, tensor in few.state_dict().items():
        assert name.startswith("fc.") or bool((tensor == stored[name]).all())
    assert few.num_classes == 7
    import torch

    image = torch.randn(1, 4, 160, 160)
    maps = zooadapt.create_model(SMALL, in_chans=4, features_only=True)(image)
    assert len(maps) == 5
    assert zooadapt.create_model(SMALL, in_chans=4, num_classes=0, global_pool="")(image).ndim == 4
    derived = zooadapt.create_model(SMALL, in_chans=6, num_classes=2)
    assert next(derived.parameters()).shape[1] == 6
    untrained = zooadapt.create_model(SMALL, in_chans=4, pretrained=False)
    assert not torch.equal(next(untrained.parameters()), next(model.parameters()))


def test_an_old_timm_is_told_to_be_upgraded(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "__version__", "1.0.15")
    with pytest.raises(UsageError, match=r"needs timm 1\.0\.16, and 1\.0\.15 is installed"):
        zooadapt.create_model(SMALL, in_chans=4)


def test_a_mirror_is_read_as_it_was(small: Path, tmp_path: Path) -> None:
    from zooadapt.job.run import compacted
    from zooadapt.mirror.scan import Records
    from zooadapt.types import Job

    run(entry(SMALL), counted(4), small, tmp_path)
    store = open_store(str(tmp_path))
    compacted(Records(store), Job("20260101T000000Z-abcdef", str(tmp_path)))
    before = manifest.read_records(store)[-1]["created_at"]
    run(entry(SMALL), counted(8), small, tmp_path)

    def counts(at: str) -> list[int]:
        mirror = zooadapt.open_mirror(f"{tmp_path}/manifest@{at}")
        return [int(count) for count in mirror.find()["in_chans"]]

    assert counts("20260101T000000Z-abcdef") == [4]
    assert counts(before) == [4]
    assert counts("2020-01-01") == []
    assert counts(before[:10]) == [4, 8]
    with pytest.raises(UsageError, match="holds no runs/nosuch/manifest"):
        counts("nosuch")


ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "timm", "ray", "safetensors", "huggingface_hub"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from zooadapt.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ls"], 0),
        (["show", SMALL], 0),
        (["status"], 0),
        (["pull", SMALL, "--chans", "4"], 0),
        (["pull", SMALL, "--chans", "9"], 2),
        (["adapt", "--chans", "4"], 2),
        (["adapt", "--help"], 0),
    ],
)
def test_without_torch_timm_and_ray(arguments: list[str], code: int, mirror: Path) -> None:
    """Finding and pulling need little; other commands say what to install."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    if code:
        assert "pip install 'zooadapt[" in done.stderr
        assert done.stderr.count("\n") == 1


# What can't be written, or reached


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int) -> str:
    assert main(list(arguments)) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_folder_that_cannot_be_written_is_named(
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOOADAPT_CACHE", str(tmp_path / "file" / "cache"))
    for arguments, where in (
        (["pull", SMALL, "--chans", "4", "--to", f"{tmp_path}/file/x"], f"{tmp_path}/file/x"),
        (["pull", SMALL, "--chans", "8"], f"{tmp_path}/file/cache/derived/"),
        (["ls", "--available", "test_res*"], f"{tmp_path}/file/cache/parameters"),
    ):
        line = refused(capsys, *arguments, code=2)
        assert line.startswith(f"zooadapt: the folder {where}")
        assert "can't be written (Not a directory): choose another one" in line


def test_a_cache_that_cannot_be_written_keeps_nobody_from_reading(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOOADAPT_CACHE", str(tmp_path / "file"))
    assert len(zooadapt.open_mirror(f"simplecache::file://{root}").find()) == 3
    assert "the manifest can't be kept for offline use: the folder" in caplog.text


@pytest.mark.parametrize("command", [["ls", "--mirror"], ["runs"], ["verify"], ["gc"]])
def test_a_store_that_cannot_be_used_is_named_with_a_remedy(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    line = refused(capsys, *command, "s3://bucket/without-keys", code=3)
    assert "s3://bucket/without-keys" in line
    assert "for a public bucket give --anon" in line
    S3FileSystem.clear_instance_cache()  # fsspec keeps filesystems, with their credentials
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    line = refused(capsys, *command, "s3://bucket/nobody-there", code=3)
    assert "s3://bucket/nobody-there" in line
    assert "AWS_ENDPOINT_URL must name the store's server" in line
    S3FileSystem.clear_instance_cache()
