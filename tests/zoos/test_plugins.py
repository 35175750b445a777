"""Zoos that other packages add."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.support.jobs import ROOT, Runner, ok, ray_folder
from zooadapt.cli.main import main
from zooadapt.errors import UsageError
from zooadapt.zoos import registry

PLUGIN = ROOT / "tests" / "plugin"
MODEL = "efficientnet-lite0"

LOAD = """
import sys, torch, zooadapt
from efficientnet_lite_pytorch import EfficientNet
from skimage import data, transform

mirror, chans = sys.argv[1], int(sys.argv[2])
model = zooadapt.create_model("lite/efficientnet-lite0", in_chans=chans, mirror=mirror).eval()
assert isinstance(model, EfficientNet)
image = torch.tensor(transform.resize(data.coffee(), (224, 224))).float().permute(2, 0, 1)
image = (image.mean(0, keepdim=True).expand(chans, 224, 224) - 0.5) / 0.5
with torch.inference_mode():
    print(model(image[None]).argmax().item())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plug-in as pip installs it."""
    folder = tmp_path_factory.mktemp("site")
    source = folder / "source"  # pip builds in the source's own folder
    shutil.copytree(PLUGIN, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder / "packages"), str(source)], check=True)
    return folder / "packages"


@pytest.fixture(scope="module")
def with_plugin(site: Path) -> Iterator[Runner]:
    """Runs commands where the plug-in is installed."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    with ray_folder() as env:
        yield Runner({**env, "PYTHONPATH": path})


@pytest.fixture(scope="module")
def mirror(with_plugin: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror of the plug-in's zoo and of the sample."""
    dest = tmp_path_factory.mktemp("lite") / "mirror"
    ok(with_plugin.job("--zoo", "lite,sample", "--chans", "1,4", "--dest", str(dest)))
    return dest


def test_its_models_are_adapted_and_proved(mirror: Path) -> None:
    rows = pd.read_parquet(mirror / "manifest.parquet")
    assert rows[["zoo", "in_chans"]].values.tolist() == [
        ["lite", 1], ["lite", 4], ["sample", 1], ["sample", 4],
    ]  # fmt: skip
    lite = rows[rows["zoo"] == "lite"]
    assert (lite["model"] == MODEL).all()
    assert lite["equivalent"].all()
    assert (lite["proof"] == "forward").all()
    assert (lite["equivalence_error"] < 1e-4).all()
    assert [list(stems) for stems in lite["stems"]] == [["_conv_stem.weight"]] * 2
    assert set(lite["params"]) == {4_652_008 - 2 * 288, 4_652_008 + 288}
    assert len(pd.read_parquet(mirror / "failures.parquet")) == 0


@pytest.mark.parametrize("chans", ["1", "4", "7"])
def test_a_variant_is_a_model_of_its_library(mirror: Path, with_plugin: Runner, chans: str) -> None:
    """Also with 7 channels, which the mirror lacks; grey coffee is still classed as espresso."""
    printed = ok(with_plugin.run(sys.executable, "-c", LOAD, str(mirror), chans))
    assert printed.split()[-1] == "967"


@pytest.mark.slow  # half a minute of proofs
def test_what_it_makes_is_whole(mirror: Path, with_plugin: Runner) -> None:
    verify = "import sys; from zooadapt.cli.main import main; sys.exit(main(sys.argv[1:]))"
    printed = ok(with_plugin.run(sys.executable, "-c", verify, "verify", str(mirror), "--deep"))
    assert "4 variants" in printed
    assert "each proved again" in printed


# A mirror with rows of a zoo that isn't installed


def test_all_other_rows_are_served(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import zooadapt

    opened = zooadapt.open_mirror(str(mirror))
    assert len(opened.find("lite/*")) == 2
    assert opened.pull("lite/efficientnet-lite0", in_chans=4, to=tmp_path / "lite").exists()
    assert opened.load("tf_efficientnet_lite0", in_chans=4)
    with pytest.raises(
        UsageError, match="--zoo lite: no such zoo is installed; choose from folder, hub, sample"
    ):
        opened.load("lite/efficientnet-lite0", in_chans=4)
    assert main(["verify", str(mirror)]) == 1
    shown = capsys.readouterr().out
    assert shown.count("no such zoo") == 2
    assert "4 variants" in shown
    assert "2 faults, see above" in shown
    assert main(["adapt", "--zoo", "sample", "--chans", "1,4", "--dest", str(mirror)]) == 0
    assert "0 variants to make, 2 done already" in capsys.readouterr().out


# Plug-ins with faults


def installed(folder: Path, module: str, name: str = "mine") -> None:
    """A distribution with one module `their`, whose entry point is the zoo `name`."""
    info = folder / "their-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[zooadapt.zoos]\n{name} = their:Zoo\n")
    (folder / "their.py").write_text(module)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("import nosuch", "--zoo mine: their:Zoo can't be loaded: No module named 'nosuch'"),
        ("class Zoo:\n    name = 'other'", "--zoo mine: their:Zoo calls itself 'other' instead"),
        ("class Zoo:\n    def __init__(self): 1 / 0", "can't be loaded: division by zero"),
        ("class Zoo:\n    name = 'mine'", "lacks layer, arguments, version, new in zooadapt 0.2"),
    ],
)
def test_one_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, module: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their", raising=False)
    with pytest.raises(UsageError) as raised:
        registry.get("mine")
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert "mine" in registry.names()
    assert registry.get("sample").name == "sample"


ONE = """
from zooadapt.records import ModelEntry

class Zoo:
    name, library, place = "mine", "timm", ""
    layer = arguments = version = None

    def models(self, listing):
        return [ModelEntry("mine", "one", "one", "", None, url="package://a/b")]

    def facts(self, entry):
        return {}["one"]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", "it raises KeyError: 'one'"),
        ('{}["one"]', "None", "it raises AttributeError: 'NoneType' object has no attribute"),
        ("return [", "return len, [", "it raises AttributeError: "),
        ("return [", "import nosuch; [", "it raises ModuleNotFoundError: No module named 'nosuch'"),
        ("return [", "yield 1 / 0; [", "it raises ZeroDivisionError: division by zero"),
        (', url="package://a/b"', "", "its model one has neither url nor hub_id"),
    ],
)
def test_what_it_should_not_do_is_one_line_that_names_it(
    old: str, new: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    installed(tmp_path, ONE.replace(old, new) if old else ONE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their", raising=False)
    job = ["adapt", "--dest", str(tmp_path / "made"), "--chans", "4", "--dry-run"]
    for command in (job, ["ls", "--available"]):
        assert main([*command, "--zoo", "mine"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"zooadapt: --zoo mine: {message}")
        assert line.endswith(": tell its author")


def test_none_takes_the_place_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "import nosuch", name="timm")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.get("timm").library == "timm"


def test_the_example_is_short() -> None:
    assert len((PLUGIN / "lite_zoo.py").read_text().splitlines()) <= 40
