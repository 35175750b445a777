"""A run that is stopped, that has bad models, or that shares its mirror with another run."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import FAMILIES, SMALL
from tests.support import checker, checkpoints
from tests.support.jobs import JOB, Runner, contents, ok, ray_cluster, rows
from tests.support.seaweed import SeaweedFS


def four_models(root: Path) -> list[str]:
    return ["--chans", "1,4", "--models", ",".join(FAMILIES[:4]), "--source-root", str(root)]


@pytest.fixture(scope="module")
def cluster(s3: SeaweedFS) -> Iterator[Runner]:
    """Runs jobs on one cluster, whose nodes know the keys of the S3 server."""
    with ray_cluster(s3.env) as runner:
        yield runner


@pytest.fixture(scope="module")
def quiet(families: Path, cluster: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mirror of four models that a run without a stop makes."""
    dest = tmp_path_factory.mktemp("quiet")
    ok(cluster.job(*four_models(families), "--dest", str(dest)))
    return dest


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),  # see also test_kills
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_and_ends_the_same(
    families: Path, cluster: Runner, tmp_path: Path, quiet: Path, number: signal.Signals
) -> None:
    options = [*four_models(families), "--dest", str(tmp_path)]
    process = cluster.start(*JOB, *options)
    assert process.stdout is not None
    for line in process.stdout:
        if "[1/4]" in line:
            process.send_signal(number)
            break
    _, err = process.communicate()
    if number != signal.SIGKILL:
        assert process.returncode == 3
        assert err.strip() == "zooadapt: stopped; run the same command again to resume"
        assert 2 <= len(rows(tmp_path)) < 8
        assert list(tmp_path.glob("runs/*/events.jsonl")), "a run that is stopped leaves its events"
        assert not list(tmp_path.rglob("*.tmp"))
    ok(cluster.job(*options))
    changing = ["run_id", "created_at", "equivalence_error", "control_error"]
    pd.testing.assert_frame_equal(
        rows(tmp_path).drop(columns=changing), rows(quiet).drop(columns=changing)
    )
    assert {k: v for k, v in contents(tmp_path).items() if ".tmp" not in k} == contents(quiet)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_two_jobs_at_once_leave_the_rows_of_both(
    kind: str, small: Path, cluster: Runner, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    dest = str(tmp_path) if kind == "local" else request.getfixturevalue("bucket")
    common = ["--models", SMALL, "--source-root", str(small), "--dest", dest]
    jobs = [cluster.start(*JOB, "--chans", chans, *common) for chans in ("1,4", "4,8")]
    for job in jobs:
        out, err = job.communicate()
        assert job.returncode == 0, out + err
    assert rows(dest)["in_chans"].tolist() == [1, 4, 8]
    checker.check(dest)


# Bad models and bad arguments


def test_bad_models_become_failures_and_the_others_go_on(
    small: Path, cluster: Runner, tmp_path: Path
) -> None:
    root = tmp_path / "zoo"
    good = checkpoints.write_hub_repo(root, SMALL, form="legacy-pickle")
    bad = {
        "test_vit.r160_in1k": b"<html>Please sign in</html>",
        "test_convnext.r160_in1k": good.read_bytes()[:-1000],
        "test_efficientnet.r160_in1k": pickled_canary(tmp_path / "canary"),
    }
    for tag, content in bad.items():
        folder = root / "timm" / tag
        folder.mkdir(parents=True)
        (folder / "pytorch_model.bin").write_bytes(content)
    dest = tmp_path / "mirror"
    chosen = ",".join([SMALL, *bad, "test_byobnet", "csatv2.r512_in1k"])
    options = ["--chans", "4", "--models", chosen, "--source-root", str(root), "--dest", str(dest)]
    done = cluster.job(*options)
    printed = ok(done, code=1)
    assert rows(dest)["model"].tolist() == [SMALL]
    failures = rows(dest, "failures").set_index("model")
    assert failures["stage"].to_dict() == {
        "csatv2.r512_in1k": "stems",
        "test_convnext.r160_in1k": "checkpoint",
        "test_efficientnet.r160_in1k": "checkpoint",
        "test_byobnet.r160_in1k": "fetch",
        "test_vit.r160_in1k": "checkpoint",
    }
    assert "HTML" in failures["error"]["test_vit.r160_in1k"]
    assert "would run code" in failures["error"]["test_efficientnet.r160_in1k"]
    assert failures["status"]["csatv2.r512_in1k"] == "unsupported"
    assert all(name in printed for name in failures.index)
    assert not (tmp_path / "canary").exists()
    assert done.stderr == ""

    for tag in bad:
        (root / "timm" / tag / "pytorch_model.bin").unlink()
        checkpoints.write_hub_repo(root, tag)
    assert "1 unsupported" in ok(cluster.job(*options), code=1)
    ok(cluster.job(*options, "--exclude", "test_byobnet", "--retry-failed"))
    assert len(rows(dest)) == 4


def pickled_canary(canary: Path) -> bytes:
    return b"\x80\x02cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
