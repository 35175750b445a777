"""Named bands are parsed, wrong ones are refused, and their matrices follow the rule."""

from pathlib import Path

import pytest
import torch

from zooadapt import bands
from zooadapt.adapt import schemes
from zooadapt.bands import COMMON, RGB, parse
from zooadapt.errors import Unsupported, UsageError
from zooadapt.targets import SCHEMES, Band, Bands

COUNTS = {
    "sentinel2-l1c": 13, "sentinel2-l2a": 12, "sentinel1": 2, "landsat8-oli": 9, "hls": 6,
    "naip": 4, "planetscope-superdove": 8, "worldview3": 8, "grey": 1, "eurosat": 13,
    "so2sat": 18, "satlas": 9, "bigearthnet-s1": 2, "landsat-tm": 7, "landsat-etm": 8,
    "landsat8-oli-tirs": 11,
}  # fmt: skip


def column(matrix: torch.Tensor, target: Bands, name: str) -> list[float]:
    values: list[float] = matrix[:, target.names.index(name)].tolist()
    return values


def nearest(text: str) -> tuple[torch.Tensor, Bands]:
    target = parse(text)
    return schemes.matrix("nearest", RGB, target), target


# Presets


def test_the_presets_are_these() -> None:
    assert {name: len(bands.preset(name)) for name in bands.presets()} == COUNTS


@pytest.mark.parametrize("name", COUNTS)
def test_every_preset_has_a_matrix_for_every_scheme_it_can_have(name: str) -> None:
    target = parse(name)
    for scheme in SCHEMES:
        if scheme == "rgb-only" and not target.rgb:
            with pytest.raises(Unsupported, match="red, green and blue"):
                schemes.matrix(scheme, RGB, target)
        else:
            matrix = schemes.matrix(scheme, RGB, target)
            assert matrix.shape == (3, len(target))
            assert matrix.abs().sum() > 0


def test_native_order_is_the_products() -> None:
    assert parse("sentinel2-l2a").names == (
        "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"
    )  # fmt: skip


# The rule


def test_red_green_and_blue_get_their_own_filters_whatever_their_order() -> None:
    matrix, target = nearest("sentinel2-l2a:B02,B03,B04")
    assert column(matrix, target, "B02") == [0, 0, 1]
    assert column(matrix, target, "B03") == [0, 1, 0]
    assert column(matrix, target, "B04") == [1, 0, 0]


@pytest.mark.parametrize(
    "name",
    ["sentinel2-l1c", "sentinel2-l2a", "hls", "naip", "planetscope-superdove", "worldview3"],
)
def test_a_scene_that_repeats_rgb_gives_the_bases_image(name: str) -> None:
    target = parse(name)
    kinds = [schemes._kind(band, RGB) for band in target.channels]
    image = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    scene = [float(image[read[0]]) if kind == "own" else 0.0 for kind, read in kinds]
    matrix = schemes.matrix("nearest", RGB, target)
    assert torch.allclose(matrix @ torch.tensor(scene, dtype=torch.float64), image)


def test_the_near_infrared_shares_one_more_copy_of_red() -> None:
    matrix, target = nearest("sentinel2-l2a")
    near = ["B05", "B06", "B07", "B08", "B8A", "B09"]
    assert all(column(matrix, target, name) == [1 / 6, 0, 0] for name in near)
    assert column(matrix, target, "B01") == column(matrix, target, "B02") == [0, 0, 0.5]


def test_what_is_far_shares_one_more_copy_of_the_mean() -> None:
    matrix, target = nearest("sentinel2-l2a")
    for name in ("B11", "B12"):
        assert column(matrix, target, name) == pytest.approx([1 / 6] * 3)


def test_panchromatic_reads_all_and_radar_alone_is_scaled() -> None:
    assert nearest("grey")[0].tolist() == [[1], [1], [1]]
    assert torch.allclose(nearest("sentinel1")[0], torch.full((3, 2), 0.5, dtype=torch.float64))


def test_rgb_only_is_the_base_on_red_green_and_blue() -> None:
    target = parse("sentinel2-l2a")
    matrix = schemes.matrix("rgb-only", RGB, target)
    assert matrix.sum() == 3
    assert column(matrix, target, "B04") == [1, 0, 0]
    assert column(matrix, target, "B02") == [0, 0, 1]
    assert column(matrix, target, "B08") == [0, 0, 0]


def test_a_base_with_names_of_its_own_is_matched_by_name_first() -> None:
    base = Bands("base", (Band("NIR", 842.0), Band("B04", 665.0), Band("VV")))
    target = Bands("t", (Band("vv"), Band("nir", 700.0), Band("B04", 400.0)))
    assert schemes.matrix("nearest", base, target).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_a_base_without_names_is_unsupported() -> None:
    for target in (parse("R,G,B,NIR"), Bands.counted(4)):
        with pytest.raises(Unsupported):
            schemes.matrix("nearest", Bands.counted(5), target)


# Files and lists


def write(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


def test_explicit_weights(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "bands: [R, G, B, NIR, SAR]\nweights: {NIR: {R: 1.0}, SAR: {R: 0.33, G: 0.33, B: 0.33}}\n",
    )
    matrix, target = nearest(file)
    assert matrix[:, :3].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert column(matrix, target, "NIR") == [1, 0, 0]
    assert column(matrix, target, "SAR") == [0.33, 0.33, 0.33]


def test_a_known_name_has_its_wavelength_however_it_is_written(tmp_path: Path) -> None:
    found = parse(write(tmp_path, "rgb:\nbands: [{name: NIR}, {name: SAR, wavelength: null}]"))
    assert found.channels[0].wavelength == COMMON["NIR"].wavelength
    assert found.channels[1].wavelength is None


def test_two_files_with_the_same_names_are_told_apart(tmp_path: Path) -> None:
    one = parse(write(tmp_path, "bands: [{name: X, wavelength: 500}]"))
    other = parse(write(tmp_path, "bands: [{name: X, wavelength: 900}]"))
    assert one.names == other.names
    assert one.digest != other.digest


def test_lists_of_names() -> None:
    found = parse("R,G,B,NIR")
    assert (found.names, found.label, found.rgb) == (
        ("R", "G", "B", "NIR"),
        "R-G-B-NIR",
        ("R", "G", "B"),
    )
    assert found.channels[3] == COMMON["NIR"]
    assert parse("nir, swir1").names == ("NIR", "SWIR1")


def test_a_preset_in_another_order() -> None:
    found = parse("naip:NIR,R")
    assert found.names == ("NIR", "R")
    assert found.label == "naip-NIR-R"
    assert parse("naip:R,G,B,NIR") == parse("naip")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("sentinel2-l2a:b4,S2_B03,B2,b08,B8a", ["B04", "B03", "B02", "B08", "B8A"]),
        ("SENTINEL2-L2A:B1", ["B01"]),
        ("BigEarthNet-S2:B12", ["B12"]),
        ("landsat8-oli-tirs:B1,b10", ["B1", "B10"]),
        ("landsat-tm:B3,B2,B1", ["TM_B3", "TM_B2", "TM_B1"]),
        ("sentinel1+sentinel2-l2a:B4", ["VV", "VH", "B04"]),
        ("R,G,B+sentinel1", ["R", "G", "B", "VV", "VH"]),
        ("red,Green,blue,nir", ["R", "G", "B", "NIR"]),
    ],
)
def test_names_as_people_write_them(text: str, names: list[str]) -> None:
    assert list(parse(text).names) == names


@pytest.mark.parametrize("text", ["landsat8-oli:TM_B3", "landsat8-oli:S2_B8", "naip:S2_R"])
def test_another_sensor_s_band_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no band"):
        parse(text)


def test_a_file_in_a_joined_list_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    digests = []
    for wavelength in (400, 500):
        file.write_text(f"bands: [{{name: X, wavelength: {wavelength}}}]")
        digests.append(parse(f"{file}+sentinel1").digest)
    assert all(digests)
    assert digests[0] != digests[1]
    file.write_text(f"bands: {file}+R")
    with pytest.raises(UsageError, match="--bands"):
        parse(str(file))
    with pytest.raises(UsageError):
        bands.described(f"{file}+R")


def test_two_sensors_are_remembered_by_their_names() -> None:
    both = parse("sentinel1+sentinel2-l2a")
    assert bands.remembered(list(both.names)).channels == both.channels


def test_presets_of_data_sets_have_their_own_order() -> None:
    one, other = parse("eurosat"), parse("sentinel2-l1c")
    assert one.names[-1] == "B8A"
    assert one.names != other.names
    assert sorted(one.names) == sorted(other.names)
    assert one.label == "eurosat"
    assert parse("ssl4eo-s2c") == other
    assert " ".join(parse("so2sat").names[8:]) == "B02 B03 B04 B05 B06 B07 B08 B8A B11 B12"
    assert " ".join(parse("satlas").names) == "B04 B03 B02 B05 B06 B07 B08 B11 B12"
    assert parse("bigearthnet-s1").names == ("VH", "VV")


def test_two_sensors_together_keep_red_green_and_blue() -> None:
    both = parse("sentinel1+sentinel2-l2a")
    assert (len(both), both.label, both.rgb) == (
        14,
        "sentinel1-sentinel2-l2a",
        ("B04", "B03", "B02"),
    )
    with pytest.raises(UsageError, match="B02 is named twice"):
        parse("sentinel2-l2a+eurosat:B02")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentinel2-l2", "no such preset; did you mean sentinel2-l2a?"),
        ("R,G,B,XYZ", "unknown band XYZ;"),
        ("R,G,B,NRI", r"unknown band NRI \(did you mean NIR"),
        ("R,G,R", "R is named twice"),
        ("", "empty"),
        ("R,,B", "empty name"),
        ("sentinel2-l2a:B02,B99", "no band B99"),
        ("sentinel2-l2a:B02,B02", "B02 is named twice"),
        ("missing.yaml", "can't be read"),
    ],
)
def test_bad_bands(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bands: []", "lists no band"),
        ("[a]", "must hold `bands:`"),
        ("bands: [R]\nbandz: 1", "unknown key bandz"),
        ("bands: [{name: X, wavelenght: 3}]", "unknown key wavelenght"),
        ("bands: [R, R]", "named twice"),
        ("bands: [XYZ]", "needs a wavelength"),
        ("bands: [{name: X, wavelength: red}]", "isn't a number"),
        ("bands: [R]\nweights: {NIR: {R: 1}}", "NIR isn't one of its bands"),
        ("bands: [R]\nweights: {R: 1}", "isn't a number"),
        ("bands: [R]\nrgb: [R]", "rgb must name three"),
        ('bands: ["a,b"]', "no commas"),
        ("bands: [{name: X}]", "needs a wavelength"),
        ("bands: [{name: X, wavelength: 0.665}]", "wavelengths are in nm"),
        ("bands: [{name: X, wavelength: .nan}]", "not finite"),
        ("bands: [R]\nweights: {R: {R: .inf}}", "not finite"),
        ("bands: [R]\nweights: [R]", "must be a mapping"),
        ("bands: [12]", "put it in quotes"),
        ("bands: {", "isn't YAML"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(write(tmp_path, content))


def test_a_weight_for_a_base_channel_that_does_not_exist(tmp_path: Path) -> None:
    target = parse(write(tmp_path, "bands: [R, X]\nweights: {X: {Q: 1.0}}"))
    with pytest.raises(Unsupported, match="base channel Q; the model has R, G, B"):
        schemes.matrix("nearest", RGB, target)
