"""Outages, through the job: nothing is recorded as a failure, and the same command goes on."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import ray
from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

from tests.conftest import SMALL
from tests.support import checkpoints, faults, hub
from tests.support.faults import Asked, Rule
from tests.support.hub import LoopbackHub
from tests.support.jobs import Runner, ok, ray_folder, rows
from tests.support.pipelines import counted, entry
from tests.support.seaweed import BUCKET, SeaweedFS
from zooadapt import pipeline
from zooadapt.cli.main import main
from zooadapt.cluster import outages as waiting
from zooadapt.cluster import schedule
from zooadapt.job import outages
from zooadapt.mirror import manifest, runs
from zooadapt.mirror.records import ADAPTER_VERSION, write_record
from zooadapt.stores.opening import open_store
from zooadapt.types import Failure, Job, ModelSummary, Request

OTHER = "test_vit.r160_in1k"
NOBODY = "http://127.0.0.1:9"
"""An address at which nothing listens."""


def made(dest: object, root: str | None = None, **options: Any) -> ModelSummary:
    job = Job("run", str(dest), root, source_options=options.get("source", {}))
    return pipeline.make(Request(entry(SMALL), counted(4)), job)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub tries again at once."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def served(
    own_small: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> Iterator[LoopbackHub]:
    with hub.serving(own_small) as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


def check_postponed(summary: ModelSummary, task: str, dest: Path) -> None:
    assert (summary.made, summary.failures, summary.postponed) == ((), (), ("4",))
    assert summary.outage
    assert summary.outage.task == task
    assert not (dest / "records").exists()


# Each kind of cause, through the command


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, impatient: None) -> Iterator[None]:
    """A run that soon gives up what doesn't answer, on a Ray of this process."""
    monkeypatch.setattr(waiting, "_PAUSE", 0.1)
    monkeypatch.setattr(waiting, "_PROBE", 0.1)
    monkeypatch.setattr(schedule, "TRIES", 2)
    with ray_folder() as env:
        monkeypatch.setenv("RAY_TMPDIR", env["RAY_TMPDIR"])
        monkeypatch.setenv("RAY_ADDRESS", "local")
        yield
    assert not ray.is_initialized()


LOOK_UPS = {
    "test_vit.r160_in1k": ("503", "Service Unavailable"),
    "test_vit2.r160_in1k": ("429", "429"),
    "test_convnext.r160_in1k": ("403", "403"),  # a proxy's, without a header of the Hub's
    "test_convnext2.r160_in1k": ("407", "407"),
    "test_convnext3.r160_in1k": ("401", "Invalid credentials"),
    "test_byobnet.r160_in1k": ("page", "something else than the Hub answers"),
    "lcnet_050.ra2_in1k": ("429-days", "the Hub says that it takes no requests for 48 hours"),
    "test_efficientnet_evos.r160_in1k": (
        "503-days",
        "the Hub says that it takes no requests for 48 hours",
    ),
}
"""Models with a fault of the look-up, and words of the reason that the job gives."""
DOWNLOADS = {
    "test_efficientnet.r160_in1k": ("403", "refused by a URL that is new"),
    "test_efficientnet_gn.r160_in1k": ("407", "407"),
    "test_efficientnet_ln.r160_in1k": ("page", "134 bytes came where"),
    "test_nfnet.r160_in1k": ("503", "503"),
}
"""The same for the download of the checkpoint."""
WRITES = {
    "test_vit2.r160_in1k": ("403", "the store can't be used"),
    "test_vit3.r160_in1k": ("500", "the store can't be used"),
}
"""The same for writing to the mirror."""
Kinds = Mapping[str, tuple[str, str]]


def by_model(*kinds: Kinds, methods: str = "GET HEAD") -> Rule:
    """A rule that answers all requests for a model with the model's fault."""
    wrong = {model: fault for each in kinds for model, (fault, _) in each.items()}

    def rule(asked: Asked) -> str | None:
        named = (fault for model, fault in wrong.items() if f"/{model}/" in asked.path)
        return next(named, None) if asked.method in methods.split() else None

    return rule


def check_kinds(printed: str, task: str, kinds: Kinds) -> None:
    """Each model was postponed, and its line names the task and the reason."""
    for model, (_, reason) in kinds.items():
        (line,) = [line for line in printed.splitlines() if f" {model}: " in line]
        assert f"4 channels postponed ({task} from " in line, line
        assert reason in line, line


def check_taken_up(command: list[str], models: int, dest: str, capsys: Any) -> None:
    """Nothing was recorded as a failure, and the same command makes the rest."""
    assert rows(dest, "failures").empty
    assert len(rows(dest)) == 1
    assert main(command) == 0
    assert f"plan: {models + 1} models, {models} variants to make" in capsys.readouterr().out
    assert len(rows(dest)) == models + 1


@pytest.fixture(scope="module")
def various(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source root with SMALL and the models of the kinds."""
    names = {SMALL, *LOOK_UPS, *DOWNLOADS, *WRITES}
    return checkpoints.write_hub_repos(tmp_path_factory.mktemp("various"), sorted(names))


def test_each_kind_of_outage_of_the_hub(
    quick: None,
    various: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = ",".join([SMALL, *LOOK_UPS, *DOWNLOADS])
    command = ["adapt", "--chans", "4", "--models", models, "--dest", str(tmp_path)]
    with hub.serving(various) as served:
        cdn = served.cdn
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        with (
            faults.proxy(served.url, by_model(LOOK_UPS)) as front,
            faults.proxy(cdn, by_model(DOWNLOADS)) as of_cdn,
        ):
            monkeypatch.setenv("HF_ENDPOINT", front.url)
            served.cdn = of_cdn.url
            assert main(command) == 1
            printed = capsys.readouterr().out
            check_kinds(printed, "look-up", LOOK_UPS)
            check_kinds(printed, "download", DOWNLOADS)
            assert "Outages postponed 12 models, which the same command takes up again" in printed
            front.rule = of_cdn.rule = by_model()
            check_taken_up(command, 12, str(tmp_path), capsys)


def test_each_kind_of_outage_of_a_web_server_and_of_the_store(
    quick: None,
    various: Path,
    s3: SeaweedFS,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ("503", "429", "407", "401", "page", "429-days")
    kinds = {m: (fault, "") for m, (fault, _) in LOOK_UPS.items() if fault in names}
    kinds = {m: each for m, each in kinds.items() if m not in WRITES}
    pages = {m: each for m, each in kinds.items() if each[0] == "page"}
    models = ",".join([SMALL, *kinds, *WRITES])
    with (
        hub.serving(various) as served,
        faults.proxy(served.url, by_model(kinds)) as web,
        faults.proxy(s3.endpoint_url, by_model(WRITES, methods="PUT POST")) as store,
    ):
        command = ["adapt", "--chans", "4", "--models", models, "--dest", bucket, "--source-root"]
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        assert main([*command, f"{web.url}/files"]) == 1
        printed = capsys.readouterr().out
        check_kinds(printed, "download", pages)
        check_kinds(printed, "look-up", {m: kinds[m] for m in kinds.keys() - pages.keys()})
        check_kinds(printed, "write", WRITES)
        web.rule = store.rule = by_model()
        check_taken_up([*command, f"{web.url}/files"], len(kinds) + 2, bucket, capsys)


# Where no one answers


def test_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    summary = made(tmp_path)
    check_postponed(summary, "download", tmp_path)
    assert summary.outage
    assert summary.outage.place == f"the Hub at {NOBODY}"


def test_a_limit_says_when_to_come_back(
    served: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faults.proxy(served.url, lambda asked: "429-after") as proxy:
        url = f"{proxy.url}/{SMALL}.pth"
        of = replace(entry(SMALL), hub_id=None, url=url)
        monkeypatch.setenv("HF_ENDPOINT", proxy.url)
        for each in (entry(SMALL), of):
            outage = pipeline.make(Request(each, counted(4)), Job("run", str(tmp_path))).outage
            assert outage
            assert 0 < outage.until - time.time() <= 2


def test_a_download_host_that_nothing_listens_for(served: LoopbackHub, tmp_path: Path) -> None:
    served.cdn = NOBODY
    check_postponed(made(tmp_path), "download", tmp_path)


@pytest.mark.parametrize("url", [f"{NOBODY}/x.pth", "https://nowhere.invalid/x.pth"])
def test_a_web_server_without_answer(url: str, tmp_path: Path) -> None:
    of = replace(entry(SMALL), hub_id=None, url=url)
    summary = pipeline.make(Request(of, counted(4)), Job("run", str(tmp_path)))
    check_postponed(summary, "download", tmp_path)
    assert summary.outage
    assert url.startswith(summary.outage.place)


def test_credentials_that_are_wrong(s3: SeaweedFS, tmp_path: Path) -> None:
    options = {**s3.options, "key": "wrong", "secret": "wrong"}
    job = Job("run", str(tmp_path), f"s3://{BUCKET}/zoo", source_options=options)
    check_postponed(pipeline.make(Request(entry(SMALL), counted(4)), job), "download", tmp_path)


def test_a_store_without_answer(small: Path, tmp_path: Path) -> None:
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": NOBODY}}
    options |= {"config_kwargs": {"retries": {"max_attempts": 0}}}
    job = Job("run", "s3://bucket/mirror", str(small), dest_options=options)
    summary = pipeline.make(Request(entry(SMALL), counted(4)), job)
    assert summary.postponed == ("4",)
    assert summary.outage
    assert (summary.outage.place, summary.outage.task) == ("s3://bucket/mirror", "write")


# The source's own answer about one model is that model's failure


def test_offline_it_is_the_model_s_own_answer(
    served: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    close_session()  # the next one is made for the new setting
    try:
        summary = made(tmp_path)
    finally:
        monkeypatch.undo()
        close_session()
    assert not summary.postponed
    assert "HF_HUB_OFFLINE is set" in summary.failures[0].error


def test_what_is_not_there_or_gated_is_a_failure(served: LoopbackHub, tmp_path: Path) -> None:
    served.token = "needed"
    summary = made(tmp_path)
    assert not summary.postponed
    assert summary.failures[0].stage == "fetch"
    served.token = None
    (summary,) = [pipeline.make(Request(entry(OTHER), counted(4)), Job("r", str(tmp_path)))]
    assert not summary.postponed
    assert "isn't there" in summary.failures[0].error


# A source that is down


def test_a_hub_out_of_reach_ends_the_run_and_blames_nobody(
    quick: None,
    own_small: Path,
    served: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoints.write_hub_repo(own_small, OTHER)
    command = ["adapt", "--chans", "1,4", "--models", f"{SMALL},{OTHER}", "--dest", str(tmp_path)]
    monkeypatch.setattr(waiting, "PATIENCE", 0.05)
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    assert main(command) == 3
    printed = capsys.readouterr().out
    assert f"stopped, because the Hub at {NOBODY} is out of reach (look-up: " in printed
    assert "with 2 of 2 models left; run the same command again to resume" in printed
    assert rows(tmp_path, "failures").empty
    (seen,) = runs.latest(open_store(str(tmp_path)), 20)
    assert (seen.state, seen.run and seen.run.left) == ("outage", 2)
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    assert main(command) == 0
    assert "plan: 2 models, 4 variants to make" in capsys.readouterr().out
    assert len(rows(tmp_path)) == 4


@pytest.mark.slow  # it waits as long as users do
def test_a_hub_out_of_reach_ends_the_run_within_two_minutes(tmp_path: Path) -> None:
    models = "test_resnet,test_vit,test_byobnet,test_convnext,test_efficientnet"
    with ray_folder() as env:
        done = Runner({**env, "HF_ENDPOINT": NOBODY}).job(
            "--chans", "4", "--models", models, "--dest", str(tmp_path)
        )
    assert "is out of reach" in ok(done, code=3)
    assert manifest.read_records(open_store(str(tmp_path))) == []


# What older versions recorded


@pytest.mark.parametrize(
    ("stage", "kind", "error"),
    [
        ("fetch", "ConnectError", "the Hub at https://huggingface.co doesn't answer: [Errno 111]"),
        (
            "fetch",
            "HfHubHTTPError",
            "the Hub refused hf://timm/x: 503 Server Error: for url: https",
        ),
        ("fetch", "HfHubHTTPError", "the Hub refused hf://timm/x: 429 Client Error: Too Many"),
        ("fetch", "ClientConnectorError", "s3://b/x can't be looked up: Cannot connect to host b"),
        ("fetch", "TimeoutError", "hf://timm/x@1/model.bin can't be read: timed out"),
        ("fetch", "OSError", "/data/x can't be read: [Errno 28] No space left on device"),
        ("publish", "OSError", "[Errno 28] No space left on device"),
        ("publish", "EndpointConnectionError", 'Could not connect to the endpoint URL: "http://x"'),
    ],
)
def test_an_old_record_of_an_outage_is_known(stage: str, kind: str, error: str) -> None:
    assert outages.recorded(asdict(Failure(4, "", "repeat", "failed", stage, kind, error)))


@pytest.mark.parametrize(
    ("stage", "kind", "error"),
    [
        ("fetch", "X", "https://h/m-512.pth can't be looked up: 403, 'https://h:500/m-512.pth'"),
        ("fetch", "X", "/data/503/m-512.pth can't be read: Permission denied: /data/503/m-512.pth"),
        ("fetch", "EntryNotFoundError", "hf://timm/x has none of model.safetensors"),
        ("fetch", "GatedRepoError", "hf://timm/x is gated: accept its terms on the Hub"),
        ("fetch", "FetchError", "x has 503 bytes instead of the stated 429: it is truncated"),
        ("publish", "PublishError", "spectrum has dtype torch.complex64"),
        ("validate", "OSError", "something that nobody knows"),
        ("checkpoint", "CheckpointError", "x is empty, not a checkpoint; check its source"),
    ],
)
def test_any_other_failure_stays_one(stage: str, kind: str, error: str) -> None:
    assert not outages.recorded(asdict(Failure(4, "", "repeat", "failed", stage, kind, error)))


def test_a_model_that_an_outage_failed_in_an_older_mirror_is_due(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = {
        SMALL: "the Hub at https://huggingface.co doesn't answer: nobody",
        OTHER: "hf://timm/x isn't there",
    }
    store = open_store(str(tmp_path))
    for name, error in reasons.items():
        location = f"{small}/timm/{name}"
        failure = Failure(4, "", "repeat", "failed", "fetch", "ConnectError", error)
        content = {
            "created_at": "2026-11-24T03:12:00+00:00",
            "adapter_version": ADAPTER_VERSION,
            "versions": {"zooadapt": "0.1.0", "timm": "1.0.31"},
            "source": {"location": location, "uri": "", "identity": "", "sha256": "", "bytes": 0},
            "variants": [],
            "failures": [asdict(failure)],
        }
        write_record(store, "timm", name, "20261124T031200Z-aaaaaa", content)
    options = ["--models", f"{SMALL},{OTHER}", "--source-root", str(small), "--dry-run"]
    assert main(["adapt", "--chans", "4", "--dest", str(tmp_path), *options]) == 0
    assert "1 variant to make, 1 failed before" in capsys.readouterr().out
