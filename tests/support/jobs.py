"""The batch job as its users run it: in a subprocess, on a Ray of the tests' own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
JOB = [sys.executable, "jobs/adapt_zoo.py"]
RAY = str(Path(sys.executable).parent / "ray")


@dataclass
class Runner:
    """Runs commands from the repository's root in an environment of their own."""

    env: dict[str, str] = field(default_factory=dict)

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        """Start a command with its output captured."""
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        process = self.start(*command, **env)
        out, err = process.communicate(timeout=280)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def job(self, *options: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run ``python jobs/adapt_zoo.py`` with the options."""
        return self.run(*JOB, *options, **env)


def ok(done: "subprocess.CompletedProcess[str]", code: int = 0) -> str:
    """The standard output of a command that ended with `code`."""
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def ray_folder() -> Iterator[dict[str, str]]:
    """The environment in which Ray finds no cluster but the tests' own.

    Ray's sockets need a short path, so the folder isn't below pytest's.
    """
    with tempfile.TemporaryDirectory(prefix="zr", ignore_cleanup_errors=True) as folder:
        yield {
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # otherwise all other processes here come first
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
        }


def ray_port() -> int:
    """The first of the five ports that `ray_head` can take; the cluster listens on it.

    The ports are below those that the system gives to connections.
    """
    return 23000 + os.getpid() % 1900 * 5


@contextmanager
def ray_head(env: Mapping[str, str], cpus: int = 2, *options: str) -> Iterator[str]:
    """A head node started with ``ray start --head``; yields its dashboard's address."""
    with _started(env, cpus, *options) as (process, port):
        address = f"http://127.0.0.1:{port + 1}"
        _wait_until_it_takes_jobs(address, env, process)
        yield address


@contextmanager
def ray_cluster(env: Mapping[str, str], cpus: int = 2) -> Iterator[Runner]:
    """A runner of commands beside a running cluster without a dashboard; both get `env`.

    It saves each job the start of a Ray of its own, which takes as long as a small job.
    """
    with ray_folder() as folder:
        whole = {**env, **folder}
        with _started(whole, cpus, "--include-dashboard=false") as (process, _):
            _wait(lambda: _is_there(whole), process)
            yield Runner(whole)


@contextmanager
def _started(
    env: Mapping[str, str], cpus: int, *options: str
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A head node that is starting, and its port; the next port is its dashboard's."""
    port = ray_port()
    command = [
        RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={port + 1}",
        f"--ray-client-server-port={port + 2}", f"--num-cpus={cpus}", "--disable-usage-stats",
        f"--dashboard-agent-listen-port={port + 3}", *options,
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process, port
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # an orderly stop takes it half a minute
        process.wait(60)


def _wait_until_it_takes_jobs(
    address: str, env: Mapping[str, str], process: "subprocess.Popen[bytes]"
) -> None:
    probe = [RAY, "job", "list", "--address", address]
    whole = {**os.environ, **env}
    _wait(
        lambda: (
            _is_there(env)
            and not subprocess.run(probe, env=whole, capture_output=True, check=False).returncode
        ),
        process,
    )


def _is_there(env: Mapping[str, str]) -> bool:
    """Whether ``ray start`` has written the last of its files."""
    return Path(env["RAY_TMPDIR"], "ray", "ray_current_cluster").exists()


def _wait(ready: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the Ray head did not start")
        time.sleep(0.5)


def rows(dest: str | Path, name: str = "manifest") -> pd.DataFrame:
    return pd.read_parquet(f"{dest}/{name}.parquet")


def contents(dest: Path) -> dict[str, bytes]:
    """The bytes of every object below weights/, by key."""
    files = (file for file in (dest / "weights").rglob("*") if file.is_file())
    return {str(file.relative_to(dest)): file.read_bytes() for file in files}
