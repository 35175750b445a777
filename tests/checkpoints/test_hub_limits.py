"""The Hub is asked once for each file, no faster than it allows, and again if a URL has expired."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import close_session

from tests.support.hub import SIGNATURE, LoopbackHub, serving
from zooadapt import ranges
from zooadapt.checkpoints import fetch, hub, sources
from zooadapt.cluster import ray_executor
from zooadapt.errors import Unreachable
from zooadapt.types import Job, Located, ModelEntry

JOB = Job("run", "mirror")
SIZE = 500_000
MODELS = [ModelEntry("timm", f"m{n}.a", f"m{n}", "a", None, hub_id=f"timm/m{n}") for n in range(12)]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A loopback Hub with a file for each of MODELS, for a process that has asked nothing yet."""
    for number, model in enumerate(MODELS):
        file = tmp_path / "hub" / str(model.hub_id) / "model.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes([number]) * SIZE)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hub.budget, "until", 0.0)
    monkeypatch.setattr(ranges, "BLOCK", SIZE // 5)
    with serving(tmp_path / "hub") as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


def locate(model: ModelEntry) -> Located:
    return sources.locate(model, JOB)


def read(located: Located, folder: Path) -> bytes:
    return fetch.fetch(located, folder)[0].read_bytes()


def test_every_model_is_fetched_through_a_limit_lower_than_their_number(
    served: LoopbackHub, tmp_path: Path
) -> None:
    served.limit, served.window = 5, 0.9
    with ThreadPoolExecutor(ray_executor._LOOKUPS) as pool:
        found = list(pool.map(locate, MODELS))
    for number, located in enumerate(found):
        assert read(located, tmp_path) == bytes([number]) * SIZE
    assert len(served.resolves()) == len(MODELS)
    assert set(served.resolves().values()) == {1}
    assert served.resolves(429).total() <= 7 + 2  # requests on their way when a window was used up


@pytest.mark.parametrize("headers", [("RateLimit",), ("Retry-After",)])
def test_it_waits_as_long_as_it_is_told(served: LoopbackHub, headers: tuple[str, ...]) -> None:
    served.limit, served.window, served.headers = 2, 1.2, headers
    for model in MODELS[:5]:
        locate(model)
    assert set(served.resolves().values()) == {1}
    # Only RateLimit says how many requests are left; Retry-After comes with a refusal.
    assert served.resolves(429).total() == (0 if headers == ("RateLimit",) else 2)
    times = [request.when for request in served.asked if request.status == 302]
    assert times[2] - times[0] >= 2
    assert times[4] - times[2] >= 2


DAYS, WINDOW = {"Retry-After": "172800"}, {"RateLimit": '"resolvers";r=0;t=172800'}
LEFT = {"RateLimit": '"resolvers";r=9;t=60'}


@pytest.mark.parametrize("status", hub._REPEATED)
@pytest.mark.parametrize("headers", [DAYS, WINDOW, DAYS | LEFT])
def test_nobody_sleeps_for_days(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(Unreachable, match="takes no requests for 48 hours"):
        hub._Budget().heed(SimpleNamespace(status_code=status, headers=headers))


@pytest.mark.parametrize("status", [200, 403, 404])
def test_an_answer_about_a_file_stays_one(status: int) -> None:
    budget = hub._Budget()
    budget.heed(SimpleNamespace(status_code=status, headers=WINDOW | DAYS))
    budget.wait(None)


def test_what_one_look_up_is_told_all_others_heed(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.limit, served.window, served.headers = 2, 2, ("Retry-After",)
    told = threading.Event()

    monkeypatch.setattr(hub._log, "warning", lambda *line: told.set())
    for model in MODELS[:2]:
        locate(model)
    with ThreadPoolExecutor() as pool:
        refused = pool.submit(locate, MODELS[2])
        assert told.wait(10)
        locate(MODELS[3])
        refused.result()
    assert served.resolves(429).total() == 1


def test_a_signed_url_that_runs_out_is_renewed_once_and_the_download_goes_on(
    served: LoopbackHub, tmp_path: Path
) -> None:
    served.uses = 3
    assert read(locate(MODELS[1]), tmp_path) == b"\1" * SIZE
    assert served.resolves().total() == 2
    assert served.body_bytes() == SIZE
    commit = served.commit("timm/m1")
    assert f"/timm/m1/resolve/{commit}/model.safetensors" in served.resolves()


def test_a_url_that_is_refused_for_ever_is_an_outage(served: LoopbackHub, tmp_path: Path) -> None:
    served.uses = 0
    with pytest.raises(Unreachable, match="403") as caught:
        read(locate(MODELS[0]), tmp_path)
    assert SIGNATURE not in str(caught.value)
    assert served.resolves().total() <= 1 + ranges._AHEAD


def test_what_was_found_on_the_hub_is_kept_however_old(served: LoopbackHub) -> None:
    old = replace(locate(MODELS[0]), when=0.0)
    assert sources.still(old, MODELS[0], JOB) is old
    assert served.resolves().total() == 1


def test_what_was_found_elsewhere_is_looked_up_again_when_it_is_old(
    served: LoopbackHub, tmp_path: Path
) -> None:
    job = replace(JOB, source_root=str(tmp_path / "hub"))
    found = sources.locate(MODELS[0], job)
    assert sources.still(found, MODELS[0], job) is found
    old = replace(found, when=0.0)
    assert sources.still(old, MODELS[0], job) is not old


def test_a_new_client_heeds_too(served: LoopbackHub) -> None:
    served.limit, served.window = 1, 0.9
    locate(MODELS[0])
    close_session()
    locate(MODELS[1])
    assert served.resolves(429).total() == 0
