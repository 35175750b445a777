"""The job on a running Ray cluster, as ``ray job submit`` runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.support.jobs import Runner, ok, ray_folder, ray_head, rows


@dataclass(frozen=True)
class Cluster:
    """A head node whose environment has settings for the job."""

    runner: Runner
    address: str
    dest: Path

    def submit(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run ``ray job submit`` from the repository's root."""
        ray = str(Path(sys.executable).parent / "ray")
        return self.runner.run(ray, "job", "submit", "--address", self.address, *arguments)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """``ray start --head`` with ZOOADAPT_* set, as the README says."""
    dest = tmp_path_factory.mktemp("cluster")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {"ZOOADAPT_ZOO": "sample", "ZOOADAPT_DEST": str(dest), "PATH": path}
    with ray_folder() as env, ray_head({**env, **settings}) as address:
        yield Cluster(Runner(env), address, dest)


def test_the_literal_command_on_a_cluster(cluster: Cluster) -> None:
    done = cluster.submit("--", "python", "jobs/adapt_zoo.py", "--chans", "1,4,8,25")
    printed = ok(done)
    assert "connected to the running Ray cluster (1 node, 2 CPUs, 0 GPUs)" in printed
    assert printed.count("the cluster has no GPU: proving on 2 CPUs") == 1
    assert rows(cluster.dest)["in_chans"].tolist() == [1, 4, 8, 25]


@pytest.mark.slow  # test_deploy runs the files that are sent
def test_with_a_working_directory_and_its_own_environment(cluster: Cluster, tmp_path: Path) -> None:
    variables = {"ZOOADAPT_DEST": str(tmp_path), "ZOOADAPT_ZOO": "sample"}
    environment = json.dumps({"env_vars": variables})
    options = ["--working-dir", ".", "--runtime-env-json", environment]
    ok(cluster.submit(*options, "--", "python", "jobs/adapt_zoo.py", "--chans", "4"))
    assert rows(tmp_path)["in_chans"].tolist() == [4]


def test_a_mirror_in_the_working_directory_is_refused(cluster: Cluster) -> None:
    options = ["--working-dir", ".", "--", "python", "jobs/adapt_zoo.py", "--chans", "4"]
    done = cluster.submit(*options, "--dest", "mirror")
    assert done.returncode == 1  # Ray reports every failed job as 1
    assert "would lie in Ray's temporary working directory" in done.stdout + done.stderr


def test_a_job_beside_a_running_cluster_uses_it(
    cluster: Cluster, small: Path, tmp_path: Path
) -> None:
    options = ["--chans", "4", "--models", SMALL, "--source-root", str(small)]
    printed = ok(cluster.runner.job(*options, "--dest", str(tmp_path)))
    assert "connected to the running Ray cluster" in printed
