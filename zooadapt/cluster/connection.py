"""Connect a run to Ray: to the cluster that is running, or to one started on this machine."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.exceptions import NodeDiedError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zooadapt.errors import RunError, UsageError, one_line


@contextmanager
def connected() -> Iterator[str]:
    """Connect to the running Ray cluster for the block, or else start Ray on this machine.

    Yields a line for the operator that says which of the two was done. From then on SIGTERM, which
    ``ray job stop`` sends, acts like Ctrl-C. Raises RunError where the running cluster can't be
    used.
    """
    # New releases of Ray behave so by default. Older ones warn until this is set.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        line = _connect(quiet)
        signal.signal(signal.SIGTERM, _interrupt)  # Ray's own handler ends the process at once
        yield line
    finally:
        ray.shutdown()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _connect(quiet: dict[str, Any]) -> str:
    address = _running_cluster()
    if address is None:
        ray.init(address="local", include_dashboard=False, **quiet)
        return f"started Ray on this machine ({_size()})"
    try:
        ray.init(address=address, **quiet)
    except Exception as cause:
        raise RunError(
            f"the running Ray cluster refused the connection ({one_line(cause)}); if it uses token "
            f"authentication, set RAY_AUTH_MODE=token"
        ) from cause
    return f"connected to the running Ray cluster ({_size()})"


def _running_cluster() -> str | None:
    """The address of the running cluster; None where there is none.

    This is RAY_ADDRESS. Where that isn't set, it is the address that ``ray start`` left in a file
    on this machine, if a cluster answers there. Ray's own "auto" looks at the machine's processes
    instead, so it could pick somebody's private Ray, or one that is just ending. Raises RunError
    where nothing listens at RAY_ADDRESS, because Ray itself would try for minutes.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address == "local":
        return None
    if address not in ("", "auto"):
        refusal = _refusal(address)
        if refusal:
            raise RunError(
                f"no Ray cluster at RAY_ADDRESS={address} ({refusal}); start it, or unset "
                f"RAY_ADDRESS"
            )
        return address
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    left = file.read_text().strip() if file.exists() else ""
    return left if left and not _refusal(left) else None


def _refusal(address: str) -> str:
    """Why `address` takes no connection; "" if it does, or if it isn't a host and a port."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return ""
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as cause:
        return one_line(cause)
    return ""


def _size() -> str:
    resources = ray.cluster_resources()
    nodes = len([node for node in ray.nodes() if node["Alive"]])
    return (
        f"{nodes} node{'s' * (nodes > 1)}, {resources.get('CPU', 0):g} CPUs, "
        f"{resources.get('GPU', 0):g} GPUs"
    )


def check_local_dest(folder: Path, run_id: str) -> None:
    """Raise UsageError unless every node of the cluster sees a probe file in the folder."""
    probe = folder / f".probe-{run_id}"
    probe.write_text("")
    try:
        nodes = {
            node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]
        }
        asked = [_sees.options(**_on(node)).remote(str(probe)) for node in nodes]
        seen = [_is_gone_or_sees(answer) for answer in asked]
    finally:
        probe.unlink()
    blind = [name for name, sees in zip(nodes.values(), seen, strict=True) if not sees]
    if blind:
        raise UsageError(
            f"--dest {folder} isn't the same folder on {', '.join(blind)}; use a shared folder or "
            f"an object store"
        )


def _is_gone_or_sees(answer: ray.ObjectRef) -> bool:
    try:
        return bool(ray.get(answer))
    except (NodeDiedError, TaskUnschedulableError):  # perhaps the autoscaler has just removed it
        return True


def _on(node: str) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


@ray.remote(num_cpus=0)
def _sees(path: str) -> bool:
    return Path(path).exists()
