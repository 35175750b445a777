"""No secret is printed, gets into the mirror, or gets into what Ray logs and shows."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests.conftest import SMALL
from tests.support import checkpoints, hub
from tests.support.jobs import JOB, Runner, ok, ray_folder, ray_head
from tests.support.seaweed import BUCKET, SeaweedFS
from zooadapt.cli.main import main
from zooadapt.errors import redact
from zooadapt.job.tally import Tally
from zooadapt.mirror.run_files import EventLog
from zooadapt.types import Job, Located, ModelEntry, ModelSummary, Source

TOKEN = "hf_Zq81vTokenOfNobody"
PASSWORD = "5wrdf1sh"
FORBIDDEN = "test_vit.r160_in1k"
ABSENT = "test_byobnet.r160_in1k"

BREAK_AND_SHOW = """
import os, ray, sys
from ray.util import state
from zooadapt.cluster import ray_executor
from zooadapt.types import Job, ModelEntry, Request

def broken(*given):
    raise OSError("no http://bob:" + os.environ["HF_TOKEN"] + "@host/mirror/object")

ray.init("auto", log_to_driver=False)
try:
    batch = [(Request(ModelEntry("zoo", "model", "", "", None), ()), None)]
    job = Job("run", "s3://bob:" + os.environ["HF_TOKEN"] + "@host/mirror")
    ray.get(ray_executor._adapt.options(name="broken").remote(broken, batch, job))
except ray.exceptions.RayTaskError as error:
    print(error)
for kind in (state.list_tasks, state.list_actors, state.list_jobs, state.list_workers,
             state.list_objects, state.list_runtime_envs):
    print(kind(address=sys.argv[1], detail=True, limit=1000))
"""


@dataclass(frozen=True)
class Traces:
    """What two jobs left behind, one from the Hub and one from a web server with a password."""

    secrets: dict[str, str]
    printed: str
    mirror: dict[str, bytes]
    logs: dict[str, bytes]
    """Ray's log files."""
    state: str
    """Ray's tasks, actors and jobs, as its dashboard shows them."""

    def found(self, text: str | bytes) -> list[str]:
        """The names of the secrets in a text."""
        data = text.encode() if isinstance(text, str) else text
        return [name for name, secret in self.secrets.items() if secret.encode() in data]


@pytest.fixture(scope="module")
def traces(s3: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    """The traces of jobs on a cluster with a dashboard. One model succeeds and two fail."""
    folder = tmp_path_factory.mktemp("secrets")
    for tag in (SMALL, FORBIDDEN):
        checkpoints.write_hub_repo(folder / "zoo", tag)
    with hub.serving(folder / "zoo", token=TOKEN) as served, ray_folder() as env:
        served.login, served.forbidden = f"bob:{PASSWORD}", (f"timm/{FORBIDDEN}",)
        env |= {**dict.fromkeys(s3.env, ""), **served.env, "HF_TOKEN": TOKEN}
        mirror = f"s3://{BUCKET}/{folder.name}"
        common = {
            "chans": 4, "models": [SMALL, FORBIDDEN, ABSENT], "dest": mirror,
            "storage_options": s3.options,
        }  # fmt: skip
        root = f"{served.url}/files".replace("://", f"://bob:{PASSWORD}@")
        (folder / "hub.yaml").write_text(json.dumps(common))
        (folder / "web.yaml").write_text(json.dumps({**common, "source_root": root}))
        with ray_head(env) as address:
            runner = Runner(env)
            ray = str(Path(sys.executable).parent / "ray")
            submit = [ray, "job", "submit", "--address", address, "--"]
            submitted = runner.start(*submit, *JOB, "--config", str(folder / "hub.yaml"))
            direct = runner.job("--config", str(folder / "web.yaml"))
            printed = [*submitted.communicate(), direct.stdout, direct.stderr]
            state = ok(runner.run(sys.executable, "-c", BREAK_AND_SHOW, address))
        assert (submitted.returncode, direct.returncode) == (1, 1), printed
        store = s3.filesystem()
        yield Traces(
            secrets={
                "password of the URL": PASSWORD,
                "HF_TOKEN": TOKEN,
                "signature": hub.SIGNATURE,
                "secret of the storage options": s3.secret_key,
                "key of the storage options": s3.access_key,
            },
            printed="".join(printed),
            mirror={key: store.cat_file(key) for key in store.find(mirror)},
            logs={
                str(file): file.read_bytes()
                for file in Path(env["RAY_TMPDIR"]).rglob("*")
                if file.is_file()
            },
            state=state,
        )


def test_the_jobs_failed_over_what_is_secret(traces: Traces) -> None:
    assert traces.printed.count(f"{SMALL}: 4 channels proved") == 2
    # Once in the model's own line, and once in the table of failures.
    assert traces.printed.count("model.safetensors can't be read: ") == 2
    assert traces.printed.count("can't be looked up") == 2
    assert "no http://host/mirror/object" in traces.state
    for name in (f"adapt {FORBIDDEN}", f"adapt {SMALL}", "broken"):
        assert name in traces.state
    assert any(b"proved on" in data for data in traces.logs.values())  # the submitted job's output


def test_none_is_printed(traces: Traces) -> None:
    assert traces.found(traces.printed) == []


def test_none_is_in_the_mirror(traces: Traces) -> None:
    assert {key.split("/")[2] for key in traces.mirror} >= {"records", "runs", "manifest.parquet"}
    assert [key for key, data in traces.mirror.items() if traces.found(key.encode() + data)] == []


def test_none_is_in_what_ray_logs(traces: Traces) -> None:
    assert [name for name, data in traces.logs.items() if traces.found(data)] == []


def test_none_is_in_what_ray_shows(traces: Traces) -> None:
    assert traces.found(traces.state) == []


@pytest.mark.parametrize(
    "text",
    [
        '"unclosed s3cret\n  key: x', "*s3cret", "!s3cret x", "@s3cret", "%s3cret", "a: s3cret",
        "[s3cret", "{s3cret",
    ],
)  # fmt: skip
def test_a_config_that_is_not_yaml_is_not_quoted(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"chans: 4\nstorage_options:\n  secret: {text}\n")
    assert main(["adapt", "--config", str(file)]) == 2
    printed = capsys.readouterr().err
    assert "isn't valid YAML in line" in printed
    assert "s3cret" not in printed


@pytest.mark.parametrize("name", ["dest", "source_root", "scheme"])
def test_a_wrong_option_is_quoted_without_its_password(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps({"chans": 4, name: ["http://bob:s3cret@host/?sig=s3cret"]}))
    assert main(["adapt", "--config", str(file)]) == 2
    printed = capsys.readouterr().err
    assert f"{name} takes one value, not ['http://host/']" in printed


@pytest.mark.parametrize(
    "text",
    [
        "Cannot connect to http://bob:s3cret@host/x",
        "403, message='Forbidden', url='https://cdn/x?Expires=1&Signature=s3cret&Key-Pair-Id=s3cret'",
        "abfs://container@account/x?sv=1&sig=s3cret is gone",
        "redirected to /x?X-Amz-Security-Token=s3cret&X-Amz-Signature=s3cret",
        "Illegal header value b'Bearer s3cret-s3cret'",
        "unexpected {'key': 'k', 'secret': 's3cret', \"aws_session_token\": \"s3cret\"}",
        "token hf_s3crets3cret is expired",
    ],
)
def test_an_error_is_quoted_without_what_is_secret(text: str) -> None:
    assert "s3cret" not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "size mismatch for cls_token: copying a param with shape torch.Size([1, 1, 192])",
        "hf://timm/x isn't there, or is private and needs HF_TOKEN",
        "is this a model? see s3://bucket/mirror, or mail a@b",
    ],
)
def test_what_is_not_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_an_event_holds_no_signed_url() -> None:
    with TemporaryFile() as log:
        entry = ModelEntry(
            "zoo", "m", "m", "", None, url="https://bob:s3cret@host/m.pth?sig=s3cret"
        )
        Tally("run", EventLog(log), ()).add(ModelSummary(entry, (), (), 0, 0, {}, ""))
        log.seek(0)
        assert json.loads(log.read())["entry"]["url"] == "https://host/m.pth"


def test_what_holds_credentials_is_not_shown() -> None:
    url = "https://bob:s3cret@host/x"
    job = Job("run", url, url, {"secret": "s3cret"}, {"secret": "s3cret"})
    located = Located(Source("https://host/x", "", 1, ""), {"secret": "s3cret"}, url)
    assert "s3cret" not in f"{job} {located}"
