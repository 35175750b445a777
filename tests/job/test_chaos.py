"""The closing test: after hundreds of faults the mirror is that of a quiet run."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import checker, checkpoints, faults, hub
from tests.support.checkpoints import TWENTY
from tests.support.faults import READING, WRITING, Asked, FaultProxy
from tests.support.jobs import Runner, ok, ray_folder
from tests.support.seaweed import BUCKET, SeaweedFS

RESUBMISSIONS = 6
SEED = int(os.environ.get("CHAOS_SEED", "20261124"))
OF_SOURCE = {
    **dict.fromkeys(("403", "429", "429-after", "circle"), 0.2),
    **dict.fromkeys(("cut", "short", "wrong", "drip", "503", "503-after"), 0.03),
}
OF_STORE = {
    "error-inside": 0.5,
    **dict.fromkeys(("500", "slow-down", "409", "reset", "lost"), 0.07),
    **dict.fromkeys(("cut", "short", "wrong", "drip", "503", "503-after"), 0.04),
    "whole": 0.1,
}
"""The rates of faults. A store gets many more requests than a source."""
KINDS = {*READING, *WRITING} - {"silent"}


def of_source(asked: Asked) -> bool:
    return asked.method == "GET" and asked.path.startswith("/cdn/")


def of_weights(asked: Asked) -> bool:
    return "/weights/" in asked.path


@dataclass(frozen=True)
class Troubled:
    """A Hub and a store, each behind a proxy."""

    cdn: FaultProxy
    store: FaultProxy
    env: dict[str, str]

    @property
    def counts(self) -> Counter[str]:
        return self.cdn.counts + self.store.counts


@contextmanager
def troubled(zoo: Path, server: SeaweedFS, seed: int) -> Iterator[Troubled]:
    """A Hub with faults in its bodies, and an S3 store with faults in all its answers."""
    reading = faults.seeded(seed, OF_SOURCE, of_source)
    writing = faults.seeded(seed, OF_STORE, of_weights)
    with ExitStack() as stack:
        served = stack.enter_context(hub.serving(zoo))
        cdn = stack.enter_context(faults.proxy(served.cdn, reading))
        served.cdn = cdn.url
        store = stack.enter_context(faults.proxy(server.endpoint_url, writing, server.read))
        env = {**served.env, **server.env, "AWS_ENDPOINT_URL": store.url}
        yield Troubled(cdn, store, env)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_hub_repos(tmp_path_factory.mktemp("zoo"), TWENTY)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundreds_of_faults_later_the_mirror_is_that_of_a_quiet_run(
    zoo: Path, s3: SeaweedFS
) -> None:
    options = ["--chans", "1,3,4,8", "--models", ",".join(TWENTY), "--retry-failed", "--dest"]
    quiet, stormy = (f"s3://{BUCKET}/chaos/{name}" for name in ("quiet", "stormy"))
    with ray_folder() as ray, hub.serving(zoo) as served:
        alone = Runner(ray)
        ok(alone.job(*options, quiet, **served.env, **s3.env))
        with troubled(zoo, s3, SEED) as trouble:
            for _ in range(RESUBMISSIONS):
                done = alone.job(*options, stormy, **trouble.env)
                if done.returncode == 0:
                    break
            assert done.returncode == 0, done.stdout + done.stderr
    assert trouble.counts.total() >= 200
    assert all(trouble.counts[fault] >= 10 for fault in KINDS), trouble.counts
    checker.check(stormy, s3.options)
    assert checker.summary(stormy, s3.options) == checker.summary(quiet, s3.options)
