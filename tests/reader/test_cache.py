"""A variant gets to this machine once, whole and as stated, or an error says why it can't."""

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import timm
import torch

import zooadapt
from tests.conftest import SMALL
from tests.support import fine_tuned, seaweed, web
from tests.support.names import ODD
from tests.support.pipelines import counted, entry, run
from tests.support.seaweed import SeaweedFS
from zooadapt import ranges
from zooadapt.cli.main import main
from zooadapt.errors import FetchError, UsageError
from zooadapt.names import CONFIG, WEIGHTS
from zooadapt.reader import cache
from zooadapt.reader.making import Making

NAMES = {WEIGHTS, CONFIG}


@pytest.fixture(scope="module")
def root(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("mirror")
    run(entry(SMALL), counted(1, 4), small, dest)
    return dest


class Ranges(BaseHTTPRequestHandler):
    """A static web server that knows ranges; counts the bytes it sends, and may break off."""

    root: Path
    sent: list[int]
    most: list[int]
    """Of the bytes that are sent before every answer fails; [] for no end."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        file = self.root / self.path.lstrip("/")
        if not file.is_file() or (self.most and sum(self.sent) >= self.most[0] and body):
            self.send_error(503 if file.is_file() else 404)
            return
        data, wanted = file.read_bytes(), self.headers.get("Range")
        size, part = len(data), data
        if wanted:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            part = data[int(start) : int(end) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            self.wfile.write(part)
            self.sent.append(len(part) if file.name == WEIGHTS else 0)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def plain(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The mirror behind a web server without ranges, and what it was asked for."""
    asked: list[str] = []
    with web.serving_files(root, asked) as url:
        yield url, asked


def same_as(folder: Path, root: Path, in_chans: int) -> bool:
    """Whether the folder holds the mirror's own bytes, and beside them only its row or its card."""
    (row,) = zooadapt.open_mirror(str(root)).find(in_chans=in_chans)["folder"]
    both = [[(place / name).read_bytes() for name in NAMES] for place in (folder, root / row)]
    found = {file.name for file in folder.iterdir()} - {"row.json", "README.md"}
    return found == NAMES and both[0] == both[1]


def test_a_mirror_behind_any_web_server(plain: tuple[str, list[str]], root: Path) -> None:
    url, asked = plain
    folder = zooadapt.open_mirror(url).pull(SMALL, 4)
    assert same_as(folder, root, 4)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert model.conv1[0].weight.shape[1] == 4
    before = len(asked)
    assert zooadapt.open_mirror(url).pull(SMALL, 4) == folder
    assert asked[before:] == ["/manifest.parquet"]


def test_a_folder_with_a_percent_sign_behind_a_web_server(small: Path, tmp_path: Path) -> None:
    (row,) = run(entry(SMALL), (ODD,), small, tmp_path)
    assert "%" in row["folder"]
    with web.serving_files(tmp_path) as url:
        assert (zooadapt.open_mirror(url).pull(SMALL, bands="../x,y") / WEIGHTS).exists()


def test_from_s3(bucket: str, small: Path, tmp_path: Path) -> None:
    run(entry(SMALL), counted(4), small, bucket)
    folder = zooadapt.open_mirror(bucket).pull(SMALL, 4)
    assert {file.name for file in folder.iterdir()} == NAMES
    copy = zooadapt.open_mirror(bucket).pull(SMALL, 4, to=tmp_path / "mine")
    assert copy == tmp_path / "mine"
    assert (copy / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_a_public_bucket(
    s3: SeaweedFS, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"s3://{seaweed.BUCKET}/{seaweed.PUBLIC}/mirror"
    with monkeypatch.context() as patch:
        for name, value in s3.env.items():
            patch.setenv(name, value)
        run(entry(SMALL), counted(4), small, url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
    assert main(["pull", SMALL, "--chans", "4", "--mirror", url, "--anon"]) == 0
    folder = capsys.readouterr().out.strip()
    assert zooadapt.open_mirror(url, {"anon": True}).pull(SMALL, 4) == Path(folder)
    assert main(["ls", "--mirror", url.replace(seaweed.PUBLIC, "private"), "--anon"]) == 3


def test_a_folder_of_ones_own_that_was_changed_is_written_again(
    plain: tuple[str, list[str]], root: Path, tmp_path: Path
) -> None:
    mirror, to = zooadapt.open_mirror(plain[0]), tmp_path / "mine"
    mirror.pull(SMALL, 4, to=to)
    (to / WEIGHTS).write_bytes(bytes((to / WEIGHTS).stat().st_size))
    mirror.pull(SMALL, 4, to=to)
    assert same_as(to, root, 4)
    mirror.pull(SMALL, 1, to=to)
    assert same_as(to, root, 1)


def test_an_interrupted_transfer_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "BLOCK", 2**17)
    sent: list[int] = []
    most = [10**6]
    with web.serving(Ranges, root=root, sent=sent, most=most) as url:
        monkeypatch.setattr(
            "zooadapt.checkpoints.fetch.read_range.retry.stop", lambda state: True, raising=False
        )
        with pytest.raises(FetchError, match="503"):
            zooadapt.open_mirror(url).pull(SMALL, 4)
        most.clear()
        before = sum(sent)
        folder = zooadapt.open_mirror(url).pull(SMALL, 4)
    assert same_as(folder, root, 4)
    size = (folder / WEIGHTS).stat().st_size
    assert before > 2**18
    assert sum(sent) - before <= size - before + 4 * 2**17  # what was under way came in vain


def _pull(url: str, folder: str, start: "multiprocessing.synchronize.Barrier") -> None:
    start.wait()
    zooadapt.open_mirror(url, cache_dir=folder).pull(SMALL, 4)


def test_two_processes_at_once_transfer_it_once(
    plain: tuple[str, list[str]], root: Path, cache_dir: Path
) -> None:
    url, asked = plain
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    readers = [context.Process(target=_pull, args=(url, str(cache_dir), start)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(120)
    assert [reader.exitcode for reader in readers] == [0, 0, 0]
    assert len([path for path in asked if path.endswith(WEIGHTS)]) == 1


def test_one_of_two_writers_of_a_file_takes_nothing_from_the_other(tmp_path: Path) -> None:
    file = tmp_path / "manifest.parquet"
    with cache.replacing(file) as first, cache.replacing(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("fault", ["lies", "lacks it", "isn't there"])
def test_the_next_mirror_is_asked_and_the_reader_told(
    fault: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = tmp_path / "first"
    if fault != "isn't there":
        shutil.copytree(root, first)
        for file in first.rglob(WEIGHTS):
            if fault == "lies":
                file.write_bytes(bytes(file.stat().st_size))
            else:
                file.unlink()
    with (
        web.serving_files(first) as bad,
        web.serving_files(root) as good,
    ):
        folder = zooadapt.open_mirror([bad, good]).pull(SMALL, 4)
        assert same_as(folder, root, 4)
        assert bad in caplog.text
        with pytest.raises((FetchError, UsageError)):
            zooadapt.open_mirror(bad, cache_dir=tmp_path / "other").pull(SMALL, 4)


def test_several_mirrors_are_one_list(root: Path, small: Path, tmp_path: Path) -> None:
    run(entry(SMALL), counted(4, 8), small, tmp_path)
    both = zooadapt.open_mirror([str(root), str(tmp_path)])
    assert both.find()["in_chans"].tolist() == [1, 4, 8]
    assert both.pull(SMALL, 8, derive=False).is_relative_to(tmp_path)


def test_offline(
    plain: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = plain
    with pytest.raises(UsageError, match="never read while online"):
        zooadapt.open_mirror(url, offline=True).manifest()
    folder = zooadapt.open_mirror(url).pull(SMALL, 4)
    asked.clear()
    monkeypatch.setenv("ZOOADAPT_OFFLINE", "1")
    mirror = zooadapt.open_mirror(url)
    assert mirror.pull(SMALL, 4) == folder
    assert mirror.pull(SMALL, 4, to=tmp_path / "mine") == tmp_path / "mine"
    with pytest.raises(FetchError, match="offline no mirror is asked"):
        mirror.pull(SMALL, 1)
    assert asked == []


def test_a_local_mirror_is_read_where_it_is_and_checked(root: Path, cache_dir: Path) -> None:
    folder = zooadapt.open_mirror(str(root)).pull(SMALL, 4)
    assert folder.is_relative_to(root)
    assert not list(cache_dir.rglob(WEIGHTS))


def test_what_was_derived_is_what_the_job_would_have_written(
    root: Path, small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = zooadapt.open_mirror(str(root)).pull(SMALL, 7)
    assert "for 7 channels from its original stem" in caplog.text
    run(entry(SMALL), counted(7), small, tmp_path)
    assert same_as(folder, tmp_path, 7)
    caplog.clear()
    assert zooadapt.open_mirror(str(root)).pull(SMALL, 7) == folder
    assert caplog.text == ""
    for file in folder.iterdir():
        assert os.access(file, os.R_OK)


def test_what_was_derived_has_a_row_of_its_own(root: Path) -> None:
    """Also for a model that is named without its tag."""
    mirror = zooadapt.open_mirror(str(root))
    folder, row = mirror.pulled("test_resnet", (7, None, None), Making(), None, None)
    assert row == cache.read_row(folder)
    weights = folder / "model.safetensors"
    assert row["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert row["bytes"] == weights.stat().st_size
    assert (row["in_chans"], row["folder"], row["proof"]) == (7, "", "forward")
    assert row["params"] == sum(p.numel() for p in mirror.load(SMALL, 7).parameters())
    assert row["equivalence_error"] < 1e-5 < row["control_error"]
    assert len(row["input_mean"]) == 7


def test_a_model_of_ones_own_is_not_replaced(root: Path, tmp_path: Path) -> None:
    own = fine_tuned.write(tmp_path / "own", num_classes=5)
    before = (own / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="holds another model: give an empty folder"):
        zooadapt.open_mirror(str(root)).pull(SMALL, 4, to=own)
    assert (own / "model.safetensors").read_bytes() == before


def test_the_weights_can_be_trained_and_the_file_stays(root: Path) -> None:
    mirror = zooadapt.open_mirror(str(root))
    before = (mirror.pull(SMALL, 4) / WEIGHTS).read_bytes()
    model = mirror.load(SMALL, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (mirror.pull(SMALL, 4) / WEIGHTS).read_bytes() == before
