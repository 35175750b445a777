"""A reader finds, pulls and loads variants, and gets exactly what the mirror lacks."""

from pathlib import Path

import pytest
import torch
from torch import nn

import zooadapt
from tests.conftest import SMALL
from tests.support.pipelines import counted, entry, run
from zooadapt import bands
from zooadapt.errors import FetchError, RunError, UsageError
from zooadapt.mirror import manifest
from zooadapt.reader.mirror import Mirror
from zooadapt.stores.opening import open_store
from zooadapt.targets import Target

S2 = "sentinel2-l2a"


@pytest.fixture(scope="module")
def root(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror of one model with 4 channels, and with Sentinel-2's bands."""
    dest = tmp_path_factory.mktemp("mirror")
    named = Target(bands.preset(S2), "nearest"), Target(bands.parse("R,G,B,NIR"), "rgb-only")
    run(entry(SMALL), (*counted(4), *named), small, dest)
    return dest


@pytest.fixture
def mirror(root: Path) -> Mirror:
    return zooadapt.open_mirror(str(root))


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_rows_are_found_by_bands_and_other_columns(mirror: Mirror) -> None:
    assert mirror.find(bands=S2)["in_chans"].tolist() == [12]
    assert mirror.find(bands="R,G,B,NIR")["scheme"].tolist() == ["rgb-only"]
    assert mirror.find(in_chans=4)["bands"].tolist() == ["", "R,G,B,NIR"]
    assert len(mirror.find("test_resnet", architecture="test_resnet")) == 3
    assert mirror.find("nosuch*").empty
    with pytest.raises(UsageError, match="no column nosuch"):
        mirror.find(nosuch=1)


def test_numbers_that_an_older_mirror_lacks_are_numbers_still(mirror: Mirror) -> None:
    rows = mirror.find(SMALL)
    assert rows["macs"].dtype == rows["activations"].dtype == "Int64"
    (widest,) = rows.nlargest(1, "macs")["in_chans"]
    assert widest == rows["in_chans"].max()


def test_folders_tell_the_bands(mirror: Mirror) -> None:
    folders = " ".join(mirror.manifest()["folder"])
    assert "/12ch-sentinel2-l2a-nearest-" in folders
    assert "/4ch-R-G-B-NIR-rgb-only-" in folders
    assert "/4ch-repeat-" in folders


def test_what_is_there_is_loaded(mirror: Mirror, root: Path) -> None:
    import timm

    model = mirror.load(SMALL, bands=S2, derive=False)
    (folder,) = mirror.find(bands=S2)["folder"]
    assert same(model, timm.create_model(f"local-dir:{root / folder}", pretrained=True))
    assert model.training
    with torch.inference_mode():
        assert model(torch.randn(1, 12, 160, 160)).shape == (1, 1000)


def test_counts_that_are_not_there_are_made_exactly(
    mirror: Mirror, small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = mirror.load(SMALL, in_chans=7)
    assert "for 7 channels from its original stem" in caplog.text
    run(entry(SMALL), counted(7), small, tmp_path)
    other = zooadapt.open_mirror(str(tmp_path)).load(SMALL, in_chans=7, derive=False)
    assert same(made, other)
    assert made.pretrained_cfg["mean"] == pytest.approx(other.pretrained_cfg["mean"])  # type: ignore[index]


def test_another_order_of_bands_is_the_same_model_permuted(mirror: Mirror) -> None:
    stored = mirror.load(SMALL, bands=S2).eval()
    names = list(bands.preset(S2).names)
    order = [3, 2, 1, 0, *range(4, 12)]
    permuted = mirror.load(SMALL, bands=",".join(names[i] for i in order)).eval()
    image = torch.randn(2, 12, 160, 160)
    with torch.inference_mode():
        assert torch.allclose(permuted(image[:, order]), stored(image), atol=1e-5)
    as_preset = mirror.load(SMALL, bands=f"{S2}:{','.join(names[i] for i in order)}")
    assert same(as_preset, permuted)


def test_bands_that_are_not_there_are_made(mirror: Mirror) -> None:
    model = mirror.load(SMALL, bands="naip").eval()
    rgb_only = mirror.load(SMALL, bands="naip", scheme="rgb-only").eval()
    rgb = mirror.load(SMALL, in_chans=3).eval()
    image = torch.randn(2, 4, 160, 160)
    image[:, 3] = 0
    with torch.inference_mode():
        assert torch.allclose(rgb_only(image), rgb(image[:, :3]), atol=1e-5)
        assert torch.allclose(model(image), rgb(image[:, :3]), atol=1e-5)


def test_a_scheme_or_a_file_of_ones_own_is_never_taken_for_another(
    mirror: Mirror, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("bands: [R, G, B, NIR]\nweights: {NIR: {R: 0.25}}")
    assert mirror.find(bands=str(file)).empty
    image = torch.zeros(1, 4, 160, 160)
    image[:, 3] = torch.randn(160, 160)
    grey = torch.zeros(1, 3, 160, 160)
    grey[:, 0] = 0.25 * image[:, 3]
    with torch.inference_mode():
        base = mirror.load(SMALL, in_chans=3).eval()
        mixed = mirror.load(SMALL, bands=str(file)).eval()
        assert torch.allclose(mixed(image), base(grey), atol=1e-4)
        unread = mirror.load(SMALL, bands="NIR,B,G,R", scheme="rgb-only").eval()
        assert torch.allclose(unread(image[:, [3, 2, 1, 0]]), base(0 * grey), atol=1e-4)


def test_a_damaged_original_stem_is_refused(small: Path, tmp_path: Path) -> None:
    (row,) = run(entry(SMALL), counted(4), small, tmp_path)
    (file,) = (tmp_path / row["folder"]).parent.glob("source-*/stem.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(FetchError, match="other bytes"):
        zooadapt.open_mirror(str(tmp_path)).load(SMALL, in_chans=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_chans": 9, "derive": False}, "has no test_resnet.r160_in1k for 9 channels under"),
        ({"in_chans": 0}, "isn't a channel count"),
        ({"in_chans": 4, "scheme": "nosuch"}, "no scheme nosuch"),
        ({"in_chans": 4, "scheme": "nearest"}, "needs named bands"),
        ({"bands": "VV,VH", "scheme": "rgb-only"}, "needs red, green and blue"),
        ({"bands": "sentinl2-l2a:B04,B03"}, "did you mean"),
        ({"bands": "sentinel2-l2", "derive": False}, "did you mean sentinel2-l2a"),
        ({}, "give in_chans=, such as 4, or bands="),
        ({"in_chans": 4, "bands": "R,G,B,NIR"}, "either in_chans or bands, not both"),
        ({"bands": "X,Y"}, "unknown band X, Y"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    mirror: Mirror, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        mirror.load(SMALL, **arguments)  # type: ignore[arg-type]


def test_a_model_or_a_mirror_that_is_not_there(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no resnet18"):
        mirror.load("resnet18", in_chans=4, derive=False)
    with pytest.raises(UsageError, match=r"holds no manifest\.parquet"):
        zooadapt.open_mirror(str(tmp_path)).manifest()


def test_damaged_objects_are_refused(small: Path, tmp_path: Path) -> None:
    (row,) = run(entry(SMALL), counted(4), small, tmp_path)
    file = tmp_path / row["folder"] / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(FetchError, match="damaged"):
        zooadapt.open_mirror(str(tmp_path)).load(SMALL, in_chans=4)


def test_a_damaged_manifest_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"manifest\.parquet is damaged .* zooadapt rebuild"):
        zooadapt.open_mirror(str(tmp_path)).find("*")


def test_an_empty_manifest_has_no_rows_and_all_columns(tmp_path: Path) -> None:
    manifest.compact(open_store(str(tmp_path)))
    found = zooadapt.open_mirror(str(tmp_path)).find("resnet*", in_chans=4, bands="naip")
    assert found.empty
    assert "folder" in found
