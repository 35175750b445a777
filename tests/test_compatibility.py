"""Nobody is left behind: what zooadapt 0.1.0 wrote is read, and gone on with.

`data/written-by-0.1.0.zip` was written by zooadapt 0.1.0: `mirror/` of four tiny fine-tuned models
of a loopback Hub (`hub/`, listed in `ids.txt`), of which one is broken and one was taken down;
`cache/`, which a reader of that mirror at memory://mirror has left; `pulled.json`, the sha256 of
what each of its calls gave; and `plugin/`, a zoo that a package adds.
"""

import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pandas as pd
import pytest

import zooadapt
from tests.support import hub
from tests.support.hub import LoopbackHub
from tests.support.pipelines import counted
from zooadapt import pipeline
from zooadapt.cli.main import main
from zooadapt.types import Adapted, Job, Request
from zooadapt.zoos.fixed import FixedZoo
from zooadapt.zoos.registry import list_models

FILE = Path(__file__).parent / "data" / "written-by-0.1.0.zip"
KEY = ["model", "in_chans", "bands", "scheme"]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder that holds what was written."""
    with zipfile.ZipFile(FILE) as archive:
        archive.extractall(tmp_path)
    return tmp_path


@pytest.fixture
def served(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """The Hub that holds the models' checkpoints."""
    with hub.serving(earlier / "hub") as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def in_memory(earlier: Path) -> Iterator[str]:
    """The mirror where its reader found it."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{earlier}/mirror/", "/mirror/", recursive=True)
    yield "memory://mirror"
    filesystem.rm("/mirror", recursive=True)


def job(earlier: Path, *options: str) -> int:
    zoo, dest = f"hub:{earlier / 'ids.txt'}", str(earlier / "mirror")
    return main(["adapt", "--zoo", zoo, "--dest", dest, *options])


@pytest.mark.parametrize(
    ("options", "planned"),
    [
        (["--chans", "1,4"], "4 models, 0 variants to make, 4 done already, 2 failed before"),
        (["--bands", "R,G,B,NIR", "--models", "acme/land"], "0 variants to make, 1 done already"),
    ],
)
def test_a_job_plans_nothing_to_do(
    options: list[str], planned: str, earlier: Path, served: LoopbackHub,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = rows(earlier)
    assert job(earlier, *options) == ("--chans" in options)  # one model has failed
    assert planned in capsys.readouterr().out
    pd.testing.assert_frame_equal(known(rows(earlier), before), before)
    assert not served.body_bytes()


def rows(earlier: Path, table: str = "manifest") -> pd.DataFrame:
    return pd.read_parquet(earlier / "mirror" / f"{table}.parquet")


def known(after: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """The columns that were there before. Columns that came later have no value."""
    assert after.drop(columns=before.columns).isna().all(axis=None)
    return after[list(before.columns)]


def test_its_rows_and_new_ones_compact_together(earlier: Path, served: LoopbackHub) -> None:
    before, failed = rows(earlier), rows(earlier, "failures")
    entry = next(e for e in list_models(f"hub:{earlier / 'ids.txt'}") if e.name == "acme/land")
    new = Job("20991231T000000Z-abcdef", str(earlier / "mirror"))
    adapted = pipeline.adapt(Request(entry, counted(5)), new)
    assert isinstance(adapted, Adapted), adapted
    assert pipeline.prove(adapted, new).made == ("5",)
    assert main(["rebuild", str(earlier / "mirror")]) == 0
    after = rows(earlier)
    assert sorted(after["in_chans"]) == sorted([*before["in_chans"], 5])
    kept = after[after["run_id"] != new.run_id].reset_index(drop=True)
    pd.testing.assert_frame_equal(known(kept, before), before)
    pd.testing.assert_frame_equal(rows(earlier, "failures"), failed)
    assert main(["verify", "--deep", str(earlier / "mirror")]) == 0


def calls(earlier: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((earlier / "pulled.json").read_text())
    return found


def pulled(mirror: object, call: dict[str, object], noted: bool = True) -> tuple[str, str]:
    """The sha256 of the weights and of the config.json that a call gives.

    Unless `noted`, the config.json is taken without the note that names bands, which is new.
    """
    arguments = {name: call[name] for name in ("model", "in_chans", "bands", "scheme")}
    if arguments["bands"]:  # what was the default then
        arguments["scheme"] = arguments["scheme"] or "nearest"
    folder: Path = mirror.pull(**arguments)  # type: ignore[attr-defined]
    weights, text = (
        (folder / "model.safetensors").read_bytes(),
        (folder / "config.json").read_text(),
    )
    config = json.loads(text)
    if not noted and config["pretrained_cfg"].pop("notes", None):
        text = json.dumps(config, indent=2)
    return hashlib.sha256(weights).hexdigest(), hashlib.sha256(text.encode()).hexdigest()


def test_a_reader_gets_the_same_bits_for_the_same_call(earlier: Path, in_memory: str) -> None:
    mirror = zooadapt.open_mirror(in_memory, cache_dir=earlier / "empty")
    for call in calls(earlier):
        assert pulled(mirror, call, noted=False) == (call["sha256"], call["config"]), call


def test_a_reader_s_cache_is_used(
    earlier: Path, in_memory: str, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = zooadapt.open_mirror(in_memory, cache_dir=earlier / "cache", offline=True)
    for call in calls(earlier):
        assert pulled(mirror, call) == (call["sha256"], call["config"]), call
    assert not caplog.messages  # nothing was made again


def test_a_plugin_is_imported(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (earlier / "plugin" / "lite_zoo.py").read_text()
    assert "from zooadapt.records import Listing, ModelEntry, ModelFacts" in source
    monkeypatch.syspath_prepend(str(earlier / "plugin"))
    monkeypatch.delitem(sys.modules, "lite_zoo", raising=False)
    import lite_zoo  # type: ignore[import-not-found]

    zoo = lite_zoo.LiteZoo()
    assert isinstance(zoo, FixedZoo)
    (entry,) = zoo.models(zooadapt.types.Listing())
    assert list(zoo.stems(entry, zoo.build(entry, 3))) == ["_conv_stem"]
    monkeypatch.delitem(sys.modules, "lite_zoo")
