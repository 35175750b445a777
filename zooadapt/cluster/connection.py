"""Connect a run to Ray: to the cluster that is running, or to one started on this machine."""

import logging
import os
import signal
import socket
import tempfile
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

from zooadapt.errors import RunError, one_line


class Connection:
    """A run's connection to Ray: to the running cluster, or else to a Ray that it starts here.

    Leaving the context ends the connection, and waits for that.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._ending: Thread | None = None

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        if self._ending:
            self._ending.join()

    def made(self) -> str:
        """Connect, and return a line for the operator that says to what.

        From then on SIGTERM, which ``ray job stop`` sends, acts like Ctrl-C. Raises RunError where
        the running cluster can't be used. Call it in the main thread: Linux ends Ray's processes
        with the thread that has started them, and starting them isn't safe beside busy threads.
        """
        self._is_open = True
        line = _connect()
        signal.signal(signal.SIGTERM, _interrupt)  # Ray's own handler ends the process at once
        return line

    def end(self) -> None:
        """Begin to end the connection, in a thread, unless that was done before."""
        if self._is_open:
            self._is_open = False
            self._ending = Thread(target=_shutdown)
            self._ending.start()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _shutdown() -> None:
    import ray

    ray.shutdown()


def _connect() -> str:
    import ray  # takes a second, and only a run with something to do needs it

    # New releases of Ray behave so by default. Older ones warn until this is set.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = _running_cluster()
    if address is None:
        try:
            ray.init(address="local", include_dashboard=False, **quiet)
        except OSError as cause:
            if "AF_UNIX" not in str(cause):
                raise
            folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
            raise RunError(
                f"Ray can't start below {folder}: its sockets need a shorter path; "
                f"set RAY_TMPDIR to a folder with a short name, such as /tmp/r"
            ) from cause
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
    import ray

    resources = ray.cluster_resources()
    nodes = len([node for node in ray.nodes() if node["Alive"]])
    return (
        f"{nodes} node{'s' * (nodes > 1)}, {resources.get('CPU', 0):g} CPUs, "
        f"{resources.get('GPU', 0):g} GPUs"
    )
