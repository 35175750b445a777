"""Fine-tuned checkpoints of one's own, below a URL or in repositories that a file lists."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import zooadapt
from tests.support import fine_tuned
from tests.support.jobs import ROOT, Runner, ok, ray_folder
from tests.support.seaweed import SeaweedFS
from tests.support.web import Files, serving, serving_files
from zooadapt import bands, pipeline
from zooadapt.cli.main import main
from zooadapt.errors import FetchError, StageError, UsageError
from zooadapt.job import plan, run, source_changes
from zooadapt.job.options import Config
from zooadapt.mirror import manifest
from zooadapt.reader.mirror import open_mirror
from zooadapt.stores.opening import open_store
from zooadapt.targets import Bands, Target
from zooadapt.types import Adapted, Job, Listing, ModelEntry, Request
from zooadapt.zoos import registry
from zooadapt.zoos.own.folder import FolderZoo
from zooadapt.zoos.own.folder_search import below

BLUE_FIRST = [
    {"name": "blue", "wavelength": 490, "width": 65},
    {"name": "red", "wavelength": 665, "width": 30},
    "NIR",
]
LABELS = ["field", "forest", "town", "water", "ice"]
SECRET = "hf_Zq81vTokenOfNobody"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good checkpoints and bad ones."""
    root = tmp_path_factory.mktemp("own") / "zoo"
    fine_tuned.write(
        root / "team" / "land.v1", num_classes=5, cfg={"license": "cc-by-4.0"},
        changes={"label_names": LABELS, "label_descriptions": {"ice": "frozen water"}},
    )  # fmt: skip
    fine_tuned.write(
        root / "team" / "land", seed=1, num_classes=2, in_chans=4, wrapper="state_dict"
    )
    named = fine_tuned.write(root / "cir", seed=2, in_chans=3, changes={"bands": BLUE_FIRST})
    fine_tuned.edit(named, {}, {"license": None})
    (named / "README.md").write_text("---\nlicense: mit\ntags: [a]\n---\n# Colour infrared\n")
    fine_tuned.write(root / "vit", "test_vit", seed=3, img_size=96, num_classes=3)
    bad: dict[str, dict[str, Any]] = {
        "bad/absurd": {"model_args": {"depth": 10**9}},
        "bad/classes": {"model_args": {"num_classes": 3}},
        "bad/unknown": {"architecture": "resnet_of_tomorrow"},
        "bad/bands": {"bands": ["R", "G"]},
    }
    for name, changes in bad.items():
        shutil.copytree(root / "team" / "land.v1", root / name)
        fine_tuned.edit(root / name, changes)
    shutil.copytree(root / "cir", root / "bad" / "json")
    (root / "bad" / "json" / "config.json").write_text("{")
    (root / "bad" / "json" / "README.md").write_text("---\nlicense: 2024-13-45\n---\n")
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "config.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with ray_folder() as env:
        yield Runner(env)


@pytest.fixture(scope="module")
def made(own: Path, runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A mirror of `own`, and the job's output. The source root plays no part for folders."""
    dest = tmp_path_factory.mktemp("made") / "mirror"
    done = runner.job(*options(own, dest), "--source-root", str(own / "nowhere"))
    assert done.returncode == 1, done.stderr
    return dest, done.stdout + done.stderr


def options(own: Path, dest: Path) -> list[str]:
    zoo = f"folder:{os.path.relpath(own, ROOT)}"
    return ["--zoo", zoo, "--chans", "1,6", "--bands", "R,G,B,NIR", "--dest", str(dest)]


def rows(dest: Path | str, name: str = "manifest") -> pd.DataFrame:
    return pd.read_parquet(f"{dest}/{name}.parquet")


def listed(own: Path | str, **options: Any) -> dict[str, ModelEntry]:
    return {entry.name: entry for entry in registry.list_models(f"folder:{own}", options=options)}


def test_every_good_one_is_proved_and_every_bad_one_said(made: tuple[Path, str]) -> None:
    found, lacking = rows(made[0]), rows(made[0], "failures").set_index(["model", "in_chans"])
    assert sorted(set(found["model"])) == ["cir", "team/land", "team/land.v1", "vit"]
    assert found["equivalent"].all()
    assert (found["zoo"] == "folder").all()
    counts = found.groupby("model").size().to_dict()
    assert counts == {"cir": 3, "team/land": 2, "team/land.v1": 3, "vit": 3}
    # Four channels without names can't be adapted to named bands.
    assert lacking.loc[("team/land", 4), "status"] == "unsupported"
    reasons = lacking.xs(1, level="in_chans")
    assert reasons["status"].to_dict() == {
        "bad/absurd": "failed", "bad/bands": "failed", "bad/classes": "failed",
        "bad/json": "failed", "bad/unknown": "unsupported",
    }  # fmt: skip
    for model, why in {
        "bad/absurd": "model_args has 1e+09, and no model is that large",
        "bad/bands": "bands names 2 channels, and the model has 3",
        "bad/classes": "where the model wants (3,",
        "bad/json": "isn't one that timm writes",
        "bad/unknown": "knows no architecture 'resnet_of_tomorrow'",
    }.items():
        assert why in reasons["error"][model]
    assert "are left out: tokenizer" in made[1]


def test_the_table_says_what_config_json_says(made: tuple[Path, str], own: Path) -> None:
    found = rows(made[0]).drop_duplicates("model").set_index("model")
    assert found["license"].to_dict() == {
        "cir": "mit", "team/land": "apache-2.0", "team/land.v1": "cc-by-4.0", "vit": "apache-2.0",
    }  # fmt: skip
    assert found["num_classes"].to_dict() == {
        "cir": 1000, "team/land": 2, "team/land.v1": 5, "vit": 3,
    }  # fmt: skip
    assert found["input_height"]["vit"] == 96
    assert found["source_uri"]["team/land"] == str(own / "team" / "land" / "pytorch_model.bin")
    assert (found["min_timm"] == "1.0.16").all()


def test_plain_timm_loads_what_it_makes_of_the_folder_itself(
    made: tuple[Path, str], own: Path
) -> None:
    found = rows(made[0])
    for row in found[found["scheme"] == "repeat"].to_dict("records"):
        ours = fine_tuned.loaded(made[0] / row["folder"])
        timms = fine_tuned.loaded(own / row["model"], in_chans=row["in_chans"]).state_dict()
        stored = ours.state_dict()
        assert stored.keys() == timms.keys()
        assert all(torch.equal(stored[name], timms[name]) for name in timms), row["folder"]


def test_labels_and_arguments_are_kept(made: tuple[Path, str]) -> None:
    found = rows(made[0])
    folders = found[found["in_chans"] == 6].set_index("model")["folder"]
    land = fine_tuned.loaded(made[0] / folders["team/land.v1"])
    assert land.num_classes == 5
    cfg: Any = land.pretrained_cfg
    assert cfg["label_names"] == LABELS
    assert cfg["label_descriptions"] == {"ice": "frozen water"}
    vit = fine_tuned.loaded(made[0] / folders["vit"])
    assert vit(torch.zeros(1, 6, 96, 96)).shape == (1, 3)


def test_named_bands_go_by_their_wavelengths(made: tuple[Path, str]) -> None:
    """The base reads blue, red and NIR; each of R, G, B, NIR gets the nearest of its filters."""
    found = rows(made[0])
    row = found[(found["model"] == "cir") & (found["bands"] == "R,G,B,NIR")].iloc[0]
    config = json.loads((made[0] / row["folder"] / "config.json").read_text())
    blue, red, nir = config["zooadapt"]["matrix"]
    assert (blue[2], red[0], nir[3]) == (0.5, 1.0, 1.0) or (blue[2], red[0], nir[3]) == (1, 0.5, 1)
    assert not blue[0]
    assert not red[2]


def test_a_model_comes_by_its_name(made: tuple[Path, str]) -> None:
    """A name can begin with another; a variant that the mirror lacks is made from the stem."""
    model = zooadapt.create_model("folder/team/land", in_chans=6, mirror=str(made[0]))
    assert model.num_classes == 2
    assert zooadapt.create_model("team/land.v1", in_chans=1, mirror=str(made[0])).num_classes == 5
    derived = zooadapt.create_model("folder/vit", in_chans=5, mirror=str(made[0]))
    assert derived(torch.zeros(1, 5, 96, 96)).shape == (1, 3)
    few = zooadapt.create_model("cir", in_chans=6, mirror=str(made[0]), num_classes=2)
    assert few.num_classes == 2
    assert len(open_mirror(str(made[0])).find("team/*")) == 5
    assert len(open_mirror(str(made[0])).find("folder/vit")) == 3


def test_the_mirror_is_whole(made: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(made[0]), "--deep"]) == 0
    assert "each proved again" in capsys.readouterr().out


def test_again_there_is_nothing_to_do(own: Path, made: tuple[Path, str], runner: Runner) -> None:
    done = runner.job(*options(own, made[0]))
    assert "0 variants to make" in done.stdout
    assert done.returncode == 1  # four bad ones are still there
    checked = runner.job(*options(own, made[0]), "--check-sources", "--dry-run")
    assert "0 variants to make" in ok(checked)


def test_what_changed_in_place_is_made_again_when_asked(own: Path, tmp_path: Path) -> None:
    """A change of the weights, or of config.json."""
    shutil.copytree(own / "cir", tmp_path / "zoo" / "cir")
    shutil.copytree(own / "team" / "land.v1", tmp_path / "zoo" / "land")
    spec, dest = f"folder:{tmp_path}/zoo", tmp_path / "made"
    before = made_here(spec, dest)
    assert due(spec, dest, check_sources=True) == []
    fine_tuned.write(tmp_path / "zoo" / "cir", seed=9, changes={"bands": BLUE_FIRST})
    fine_tuned.edit(tmp_path / "zoo" / "land", {}, {"mean": [0.1, 0.2, 0.3]})
    assert due(spec, dest) == []
    assert due(spec, dest, check_sources=True) == ["cir", "land"]
    after = made_here(spec, dest)
    assert after["sha256"]["cir"] != before["sha256"]["cir"]
    assert after["sha256"]["land"] == before["sha256"]["land"]
    assert after["input_mean"]["land"] != before["input_mean"]["land"]


def made_here(spec: str, dest: Path, root: Path | None = None) -> pd.DataFrame:
    """The manifest's rows, by model, after this process adapted and proved all models of a zoo."""
    job = Job(uuid.uuid4().hex, str(dest), source_root=str(root) if root else None)
    for entry in registry.list_models(spec, job.source_root):
        adapted = pipeline.adapt(Request(entry, (Target.of(Bands.counted(2)),)), job)
        assert isinstance(adapted, Adapted), adapted
        assert not pipeline.prove(adapted, job).failures
    found = manifest.compact(open_store(str(dest))).usable
    return pd.DataFrame(found).set_index("model")


def due(spec: str, dest: Path, **options: Any) -> list[str]:
    """The names of the models that a job would adapt."""
    config = replace(config_of(spec, str(dest)), **options)
    job, entries = config.job(), plan.select(config)
    found = source_changes.ask(entries, config, job)
    histories = manifest.histories(open_store(str(dest)))
    todo = plan.make(entries, config, histories, source_changes.differs(found))
    return [request.entry.name for request in todo.requests]


def config_of(spec: str, dest: str = "m") -> Config:
    return Config(
        (2,), (), None, dest, tuple(spec.split(",")), (), (), (), None, None, False, False, False
    )


@pytest.mark.slow  # a job of a minute; other tests hold the same in memory and archives
def test_on_s3_with_options_of_its_own(
    own: Path, s3: SeaweedFS, bucket: str, runner: Runner, tmp_path: Path
) -> None:
    s3.filesystem().put(str(own / "team"), f"{bucket}/zoo/team", recursive=True)
    config = {
        "chans": [2], "zoo": [f"folder:{bucket}/zoo", "sample"], "models": "folder/*",
        "dest": str(tmp_path / "made"), "source_storage_options": s3.options,
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(json.dumps(config))
    job = ["--config", str(tmp_path / "job.yaml")]
    bare = dict.fromkeys(s3.env, "")
    assert "4 variants" not in ok(runner.job(*job, "--dry-run", **bare))
    ok(runner.job(*job, **bare))
    found = rows(tmp_path / "made").set_index("model")
    assert sorted(found.index) == ["team/land", "team/land.v1"]
    assert found["source_uri"]["team/land.v1"] == f"{bucket}/zoo/team/land.v1/model.safetensors"
    assert "0 variants to make" in ok(runner.job(*job, "--check-sources", **bare))


def test_a_secret_in_the_url_is_neither_printed_nor_kept(
    own: Path, runner: Runner, tmp_path: Path
) -> None:
    url = f"http://bob:{SECRET}@127.0.0.1:9/zoo"
    done = runner.job("--zoo", f"folder:{url}", "--chans", "1", "--dest", str(tmp_path / "made"))
    assert done.returncode == 2
    assert "127.0.0.1:9/zoo can't be listed" in done.stderr
    assert SECRET not in done.stdout + done.stderr


class Listed(Files):
    """A static web server that lists its folders."""

    list_directory = SimpleHTTPRequestHandler.list_directory  # type: ignore[assignment]


def test_over_http_a_password_becomes_no_name(own: Path) -> None:
    with serving(Listed, root=own / "cir", asked=[]) as url:
        host = url.removeprefix("http://")
        (entry,) = listed(f"http://bob:{SECRET}@{host}").values()
    assert entry.name == host
    assert entry.url == f"http://bob:{SECRET}@{host}/model.safetensors"


def test_over_http_a_query_is_taken_of_an_archive_only(own: Path, tmp_path: Path) -> None:
    """A file below a URL with a query has no URL of its own; and the query can be a secret."""
    shutil.make_archive(str(tmp_path / "all"), "zip", own / "team")
    with serving_files(tmp_path) as url:
        assert "land" in listed(f"zip://::simplecache::{url}/all.zip?sig={SECRET}")
    for place in (f"{url}/zoo?sig={SECRET}", f"simplecache::{url}/zoo?sig={SECRET}"):
        with pytest.raises(
            UsageError, match=r"has a query \(\?…\), so that files below it have no URL"
        ) as raised:
            listed(place)
        assert SECRET not in str(raised.value)


def test_the_run_s_options_name_the_zoo_without_secrets(tmp_path: Path) -> None:
    config = config_of(f"folder:s3://key:{SECRET}@bucket/zoo,timm", str(tmp_path))
    run.open_mirror(config, config.job())
    (kept,) = tmp_path.glob("runs/*/config.json")
    assert json.loads(kept.read_text())["zoo"] == ["folder:s3://bucket/zoo", "timm"]


# The list


def test_names_are_paths_and_globs_take_them(own: Path) -> None:
    entries = list(listed(own).values())
    chosen = plan.matching(entries, ["team/*"], "--models")
    assert [entry.name for entry in chosen] == ["team/land", "team/land.v1"]
    assert len(plan.matching(entries, ["folder/cir"], "--models")) == 1
    assert [*listed(own / "cir")] == ["cir"]
    assert [*listed(f"file://{own}/team/")] == ["land", "land.v1"]


@pytest.mark.parametrize("name", ["a[1]", "v1.2", "with space", "ünïcode", "a?b"])
def test_any_name_matches_itself(name: str, own: Path, tmp_path: Path) -> None:
    shutil.copytree(own / "cir", tmp_path / "zoo" / name)
    entries = list(listed(tmp_path / "zoo").values())
    assert plan.matching(entries, [name], "--models") == entries


def test_in_memory_at_the_root_and_in_an_archive(own: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("config.json", "model.safetensors"):
        memory.pipe_file(f"/own/net/{name}", (own / "cir" / name).read_bytes())
    assert listed("memory://own")["net"].url == "memory://own/net/model.safetensors"
    assert [*listed("memory://own/net")] == ["net"]
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", own / "team")
    entry = listed(f"zip://::{archive}")["land.v1"]
    assert entry.url == f"zip://land.v1/model.safetensors::{archive}"
    with fsspec.open(entry.url) as file:
        assert file.read() == (own / "team" / "land.v1" / "model.safetensors").read_bytes()


def test_below_a_chained_url() -> None:
    assert below("simplecache::s3://b/zoo/", "/net/x") == "simplecache::s3://b/zoo/net/x"
    assert below("/data", "/x") == "/data/x"


def test_nothing_there_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder below .* holds a config.json together with a"):
        listed(tmp_path)
    with pytest.raises(UsageError, match="the place is missing; write --zoo folder:URL"):
        registry.list_models("folder")
    for url in ("nosuch://x", tmp_path / "nosuch", "http://127.0.0.1:9/zoo"):
        with pytest.raises(UsageError, match="can't be listed"):
            listed(url)


def test_two_of_one_name_are_refused(own: Path) -> None:
    with pytest.raises(UsageError, match="two models are called folder/bad/absurd"):
        plan.select(config_of(f"folder:{own},folder:{own}/team/../."))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", '{"architecture": 3}', '{"architecture": "test_resnet"}', "[" * 10**5,
        '{"architecture": "test_resnet", "model_args": [], "pretrained_cfg": {}}',
        '{"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3, 1e9, 1e9]}}',
        '{"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3, 99999, 99999]}}',
        '{"architecture": "test_resnet", "pretrained_cfg": {"mean": [NaN, 0, 0]}}',
        '{"architecture": "test_resnet", "pretrained_cfg": {"std": "x"}}',
        '{"architecture": "test_resnet", "pretrained_cfg": {"nosuch": 1}}',
        '{"architecture": "test_resnet", "num_classes": 1e99, "pretrained_cfg": {}}',
        '{"architecture": "test_resnet", "bands": {"a": 1}, "pretrained_cfg": {}}',
        '{"architecture": "test_resnet", "bands": ["R", "R", "B"], "pretrained_cfg": {}}',
        '{"architecture": "test_resnet", "bands": [1, 2, 3], "pretrained_cfg": {}}',
        '{"architecture": "test_resnet", "zooadapt": {"bands": [1, [], 3]}, "pretrained_cfg": {}}',
    ],
)  # fmt: skip
def test_any_config_json_is_facts_or_one_line(text: str) -> None:
    entry = ModelEntry("folder", "x", "", "", None, url="x", config=text)
    if text == '{"architecture": "test_resnet"}':
        assert FolderZoo().facts(entry).chans == 3  # timm's own defaults
        return
    with pytest.raises(StageError) as raised:
        FolderZoo().facts(entry)
    assert len(str(raised.value)) < 500


def test_a_variant_that_was_tuned_keeps_its_bands(own: Path, tmp_path: Path) -> None:
    for name, count in (("sentinel2-l2a", 12), ("", 3)):
        folder = fine_tuned.write(tmp_path / str(count), in_chans=count)
        names = list(bands.preset(name).names) if name else ["VV", "mine", "NIR"]
        fine_tuned.edit(folder, {"zooadapt": {"bands": names}})
    found = {name: FolderZoo().facts(entry).bands for name, entry in listed(tmp_path).items()}
    assert found["12"].channels == bands.preset("sentinel2-l2a").channels
    assert [band.wavelength for band in found["3"].channels] == [None, None, 842.0]


# Repositories that a file lists


def test_repositories_of_a_list(own: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("team/land.v1\n\nteam/land\n")
    found = made_here(f"hub:{tmp_path}/ids", tmp_path / "made", own)
    assert sorted(found.index) == ["team/land", "team/land.v1"]
    assert (found["zoo"] == "hub").all()
    assert found["license"]["team/land.v1"] == "cc-by-4.0"
    model = zooadapt.create_model("hub/team/land", in_chans=2, mirror=str(tmp_path / "made"))
    assert model.num_classes == 2


def test_the_list_keeps_its_order(own: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("team/land.v1\nteam/land\n")
    zoo = registry.get("hub")
    entries = list(zoo.models(Listing(str(tmp_path / "ids"), str(own))))
    assert [entry.hub_id for entry in entries] == ["team/land.v1", "team/land"]
    assert not any(entry.in_place for entry in entries)


def test_a_repository_that_is_none_of_timms_has_no_facts(own: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("team/land\nteam/other\n")
    (own / "team" / "other").mkdir(exist_ok=True)
    there, other = registry.list_models(f"hub:{tmp_path}/ids", str(own))
    assert FolderZoo().facts(there).chans == 4
    with pytest.raises(FetchError, match=r"^team/other has no config.json$"):
        FolderZoo().facts(other)
