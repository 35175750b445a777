"""A check of a mirror finds every thing that is wrong, names it, and nothing else."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import safetensors.torch

import zooadapt
from tests.conftest import SMALL
from tests.support.damage import edit_table, flip, one
from tests.support.pipelines import counted, entry, run
from tests.support.records import at_work
from zooadapt import bands, ranges
from zooadapt.cli.main import main
from zooadapt.mirror import manifest, safetensors_file
from zooadapt.names import WEIGHTS, content_id
from zooadapt.proof import compare, verdict
from zooadapt.stores.local import LocalStore
from zooadapt.stores.opening import open_store
from zooadapt.stores.s3 import S3Store
from zooadapt.stores.store import Store
from zooadapt.targets import Target
from zooadapt.upkeep import verify

TARGETS = (*counted(1), Target(bands.parse("R,G,B,NIR"), "nearest"))


@pytest.fixture(scope="module")
def sound(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror of one model, with one channel and with four bands."""
    dest = tmp_path_factory.mktemp("sound")
    run(entry(SMALL), TARGETS, small, dest)
    return dest


@pytest.fixture
def mirror(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be broken."""
    return Path(shutil.copytree(sound, tmp_path / "mirror"))


def checked(mirror: str | Path, *options: str) -> int:
    return main(["verify", str(mirror), *options])


def test_a_sound_mirror_is_one_line_and_exit_0(
    sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(sound) == 0
    assert checked(sound, "--deep") == 0
    shallow, deep = capsys.readouterr().out.splitlines()
    assert shallow.startswith("2 variants, ")
    assert shallow.endswith(": all is well")
    assert deep == f"{shallow}, each proved again"


def recorded(mirror: Path, **changes: Any) -> None:
    """The first variant's columns changed in the record and, by compaction, in the manifest."""
    file = one(mirror, "records/*/*/*.json")
    record = json.loads(file.read_text())
    record["variants"][0] |= changes
    file.write_text(json.dumps(record))
    manifest.compact(open_store(str(mirror)))


def relicense(mirror: Path) -> None:
    """The first row's licence, in the manifest alone."""
    licences = pq.read_table(mirror / "manifest.parquet")["license"].to_pylist()
    edit_table(mirror, "license", ["of its own", *licences[1:]])


def other_config(mirror: Path) -> None:
    """A config.json of other content, in the folder of its own id and recorded."""
    folder = one(mirror, "weights/*/*/1ch-*")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.3]
    text = json.dumps(config).encode()
    (folder / "config.json").write_bytes(text)
    digest = manifest.read_table(open_store(str(mirror)), "manifest.parquet")["sha256"][0].as_py()
    moved = folder.with_name(f"1ch-repeat-{content_id(digest, text)}")
    folder.rename(moved)
    recorded(mirror, folder=str(moved.relative_to(mirror)))


def elsewhere(mirror: Path) -> None:
    """A folder of another model's."""
    folder = one(mirror, "weights/*/*/1ch-*")
    other = mirror / "weights" / "timm" / "other"
    shutil.copytree(folder.parent, other)
    recorded(mirror, folder=str((other / folder.name).relative_to(mirror)))


BREAKS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "weights gone": (
        lambda m: one(m, "weights/*/*/1ch-*/model.*").unlink(), "model.safetensors", "isn't there",
    ),
    "config gone": (
        lambda m: one(m, "weights/*/*/1ch-*/config.json").unlink(), "config.json", "isn't there",
    ),
    "stem gone": (
        lambda m: one(m, "weights/*/*/source-*/*").unlink(), "stem.safetensors", "isn't there",
    ),
    "weights flipped": (
        lambda m: flip(one(m, "weights/*/*/1ch-*/model.*")), "model.safetensors", "has other bytes",
    ),
    "weights truncated": (
        lambda m: one(m, "weights/*/*/1ch-*/model.*").write_bytes(b"x"), "model.safetensors",
        "has 1 bytes, the manifest says ",
    ),
    "config flipped": (
        lambda m: flip(one(m, "weights/*/*/1ch-*/config.json")), "config.json", "has other bytes",
    ),
    "stem flipped": (
        lambda m: flip(one(m, "weights/*/*/source-*/*")), "stem.safetensors", "has other bytes",
    ),
    "row changed": (
        lambda m: relicense(m), "1ch-", "no record says what the manifest",
    ),
    "config disagrees": (other_config, "config.json", "differs from the manifest in input_mean"),
    "row disagrees": (
        lambda m: recorded(m, stems=["other"], input_width=161), "config.json",
        "differs from the manifest in input_width, stems",
    ),
    "not proved": (
        lambda m: recorded(m, equivalent=False), "config.json",
        "contradicts the manifest's figures: the variant doesn't",
    ),
    "elsewhere": (elsewhere, "other/1ch-", f"isn't a folder of timm's {SMALL}"),
    "failures gone": (
        lambda m: (m / "failures.parquet").unlink(), "failures.parquet", "isn't there: run zooa",
    ),
    "failures damaged": (
        lambda m: (m / "failures.parquet").write_bytes(b""), "failures.parquet", "is damaged (",
    ),
    "record damaged": (
        lambda m: (m / "records" / "bad.json").write_text("{"), "records/bad.json", "is damaged (",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_wrong_is_one_line_of_a_table_and_exit_1(
    name: str, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks, where, what = BREAKS[name]
    breaks(mirror)
    assert checked(mirror) == 1
    line, closing = capsys.readouterr().out.splitlines()
    assert where in line.split()[0]
    assert f"  {what}" in line
    assert closing.endswith(": 1 fault, see above")


def test_all_that_is_wrong_is_told_at_once(mirror: Path) -> None:
    for file in mirror.glob("weights/*/*/4ch-*/*"):
        file.unlink()
    flip(one(mirror, "weights/*/*/1ch-*/model.*"))
    found = zooadapt.open_mirror(str(mirror)).verify()
    assert [where.rpartition("/")[2] for where in found["where"]] == [
        "model.safetensors", "model.safetensors", "config.json",
    ]  # fmt: skip


def test_what_is_recorded_and_not_listed_is_said_and_not_wrong(
    mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = mirror / "manifest.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    assert checked(mirror) == 0
    told = "1 recorded variant not in the manifest yet: "
    assert f"{told}run zooadapt rebuild" in capsys.readouterr().out
    at_work(open_store(str(mirror)), datetime.now(UTC))
    assert checked(mirror) == 0
    assert f"{told}the job that is at work lists them" in capsys.readouterr().out


def spoil_the_stem(mirror: Path) -> None:
    """Another stem under all the right names, sizes, hashes and ids: only a proof can tell."""
    folder = one(mirror, "weights/*/*/1ch-*")
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    name = next(iter(tensors))
    tensors[name] = tensors[name] * 1.01
    file.unlink()
    file.write_bytes(b"".join(safetensors_file.serialise(tensors)))
    digest, size = safetensors_file.digest_of(tensors)
    moved = folder.with_name(
        f"1ch-repeat-{content_id(digest, (folder / 'config.json').read_bytes())}"
    )
    folder.rename(moved)
    recorded(mirror, folder=str(moved.relative_to(mirror)), sha256=digest, bytes=size)


def test_only_a_deep_check_sees_a_wrong_stem(
    mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_the_stem(mirror)
    assert checked(mirror) == 0
    assert checked(mirror, "--deep") == 1
    assert "can't be proved: conv1.0.weight isn't the source's stem" in capsys.readouterr().out


def test_a_deep_check_compares_the_verdict(
    mirror: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "check", lambda result, *others: result)
    monkeypatch.setattr(compare, "TOLERANCE", 0.0)
    assert checked(mirror, "--deep") == 1
    out = capsys.readouterr().out
    assert "gives equivalent = False when it is proved again; the manifest says True" in out


def test_a_mirror_on_s3_is_read_in_bounded_memory_and_changed_nowhere(
    small: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(entry(SMALL), TARGETS, small, bucket)
    monkeypatch.setattr(ranges, "BLOCK", 2**18)
    asked: list[int] = []
    read_range = S3Store.read_range

    def listen(store: Store, key: str, start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return read_range(store, key, start, stop)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a check writes nothing")

    monkeypatch.setattr(S3Store, "read_range", listen)
    for name in ("write", "replace", "remove"):
        monkeypatch.setattr(S3Store, name, refuse)
    assert checked(bucket) == 0
    assert max(asked) == 2**18
    assert len(asked) > 4
    assert checked(bucket, "--deep") == 0


def test_several_variants_are_read_at_once(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits until another is being read too."""
    barrier = threading.Barrier(2, timeout=20)

    def both(store: Store, key: str) -> Iterator[bytes]:
        if key.endswith(WEIGHTS):
            barrier.wait()
        yield (sound / key).read_bytes()

    monkeypatch.setattr(Store, "chunks", both)
    assert not verify.verify(open_store(str(sound))).wrong


# What can't be checked


def test_no_mirror_is_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checked(tmp_path) == 2
    assert "holds no manifest.parquet" in capsys.readouterr().err
    assert main(["verify"]) == 2
    assert "which mirror?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_damaged_manifest_is_one_line_and_exit_3_for_all_who_read_it(
    mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mirror / "manifest.parquet").write_bytes(b"PAR1")
    for command in (["verify"], ["gc"], ["gc", "--delete"]):
        assert main([*command, str(mirror)]) == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert "manifest.parquet is damaged (" in line
        assert "zooadapt rebuild" in line
    assert main(["rebuild", str(mirror)]) == 0
    assert "manifest.parquet lists 2 variants and failures.parquet 0, made from 1 records" in (
        capsys.readouterr().out
    )
    assert checked(mirror) == 0


def adapted(mirror: Path, small: Path, *options: str) -> int:
    """The job for what the mirror has already: with nothing to make it starts no Ray."""
    wanted = [
        "--chans",
        "1",
        "--bands",
        "R,G,B,NIR",
        "--models",
        SMALL,
        "--source-root",
        str(small),
    ]
    return main(["adapt", *wanted, "--dest", str(mirror), *options])


def test_a_job_names_a_damaged_manifest_and_makes_it_again(
    mirror: Path, small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (mirror / "manifest.parquet").read_bytes()
    (mirror / "manifest.parquet").write_bytes(whole[:-1])
    assert adapted(mirror, small, "--dry-run") == 0
    assert adapted(mirror, small) == 0
    (first, second) = caplog.messages
    assert first == second
    assert f"{mirror}/manifest.parquet is damaged (" in first
    assert (mirror / "manifest.parquet").read_bytes() == whole


def test_a_job_refuses_a_mirror_of_a_newer_layout_before_it_does_anything(
    mirror: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = mirror / "manifest.parquet"
    newer = pq.read_table(file).replace_schema_metadata({"zooadapt_layout_version": "2"})
    pq.write_table(newer, file)
    for code in (adapted(mirror, small, "--dry-run"), adapted(mirror, small), checked(mirror)):
        assert code == 3
    printed, errors = capsys.readouterr()
    assert "plan:" not in printed
    assert len(errors.splitlines()) == 3
    assert errors.count("manifest.parquet was written by a newer zooadapt (layout 2)") == 3


def test_a_damaged_record_is_made_again_by_the_job_and_set_aside_by_rebuild(
    mirror: Path, small: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = one(mirror, "records/*/*/*.json")
    file.write_bytes(file.read_bytes()[:-10])
    assert adapted(mirror, small, "--dry-run") == 0
    assert "1 model, 2 variants to make" in capsys.readouterr().out
    assert f"{file.name} is damaged (" in caplog.text
    assert main(["rebuild", str(mirror)]) == 0
    aside, counts = capsys.readouterr().out.splitlines()
    assert aside.endswith(f"; the record was moved to damaged/{file.relative_to(mirror)}")
    assert counts == "manifest.parquet lists 0 variants and failures.parquet 0, made from 0 records"


def test_a_store_that_stops_answering_is_one_line_and_exit_3(
    sound: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(store: Store, key: str) -> Iterator[bytes]:
        raise ConnectionError("no answer")

    monkeypatch.setattr(LocalStore, "chunks", silent)
    assert checked(sound) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "can't be read: no answer; check the store" in line


def test_the_mirror_and_its_options_come_from_a_job_s_config_or_the_environment(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOOADAPT_MIRROR", str(sound))
    assert main(["verify"]) == 0
    monkeypatch.delenv("ZOOADAPT_MIRROR")
    file = tmp_path / "job.yaml"
    options = {"auto_mkdir": False}
    file.write_text(json.dumps({"chans": 4, "dest": str(sound), "storage_options": options}))
    assert main(["verify", "--config", str(file)]) == 0
    assert checked(tmp_path, "--config", str(file)) == 2
    file.write_text("storage_options: 3")
    assert checked(sound, "--config", str(file)) == 2
    assert "storage_options must be a mapping" in capsys.readouterr().err
