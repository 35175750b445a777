"""Which Ray a run uses, and whether all its nodes see a local mirror."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.support.jobs import ray_folder
from zooadapt.cluster import connection, nodes
from zooadapt.errors import RunError, UsageError


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A private Ray of this process."""
    with pytest.MonkeyPatch.context() as patch, ray_folder() as env:
        patch.setenv("RAY_TMPDIR", env["RAY_TMPDIR"])
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()


def test_the_cluster_that_ray_start_left_is_used_while_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert connection._running_cluster() is None
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert connection._running_cluster() == address
        monkeypatch.setenv("RAY_ADDRESS", "local")
        assert connection._running_cluster() is None
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert connection._running_cluster() is None


def test_a_folder_whose_name_is_too_long_for_ray_s_sockets_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 100)))
    (tmp_path / ("x" * 100)).mkdir()
    with (
        connection.Connection() as made,
        pytest.raises(RunError, match=r"Ray can't start below .*xxx: .* set RAY_TMPDIR"),
    ):
        made.made()


def test_a_private_ray_of_another_process_is_left_alone(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert connection._running_cluster() is None


def test_a_folder_that_every_node_sees(two_nodes: None, tmp_path: Path) -> None:
    nodes.check_local_dest(tmp_path, "run")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def two_nodes(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray names its only node twice: with one node alone, nothing needs to be asked."""
    (here,) = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [here, here])


def test_a_folder_that_a_node_does_not_see(
    two_nodes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "write_text", lambda self, text: None)  # no node finds the probe
    monkeypatch.setattr(Path, "unlink", lambda self: None)
    with pytest.raises(UsageError, match="isn't the same folder on"):
        nodes.check_local_dest(tmp_path, "run")


def test_a_node_that_is_just_gone_stops_no_run(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here,) = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [here, {**here, "NodeID": "a" * 56}])
    nodes.check_local_dest(tmp_path, "run")
