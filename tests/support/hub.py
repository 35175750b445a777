"""A Hugging Face Hub on loopback: real HTTP with redirects, commits, signed URLs and ranges.

`/{owner}/{repo}/resolve/{revision}/{file}` answers as the Hub does: it sends small files, and
redirects requests for weights to a signed `/cdn/` URL. That URL refuses requests with a token, and
every request once it has expired. If there is a limit, every answer states how many requests are
left in the window, and more are refused. `/files/…` is an ordinary web server over the same folder;
`/html/…` answers with a page.
"""

import base64
import hashlib
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.support import web
from tests.support.uploads import Uploads

WEIGHTS = (".safetensors", ".bin", ".pth")
SIGNATURE = "5ec2e7516"
"""The beginning of every signature."""
_NAMED = {"Content-Disposition": 'attachment; filename="../../outside"'}
"""A file name that clients must ignore."""
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_MODEL = re.compile(r"/api/models/([^/]+/[^/]+?)(/revision/[^/]+)?")


@dataclass(frozen=True)
class Asked:
    """A request that was answered."""

    method: str
    path: str
    range: str | None
    status: int
    body_bytes: int
    when: float
    """The time of the answer in seconds, from `time.monotonic`."""


@dataclass
class LoopbackHub:
    """A running hub; the folder's layout is `<root>/<owner>/<repo>/<file>`."""

    root: Path
    url: str = ""
    cdn: str = ""
    """The URL of another server, to which requests for weights are redirected."""
    token: str | None = None
    """The token that every repository needs, if it is set."""
    login: str | None = None
    """The ``user:password`` that the ordinary web server needs, if it is set."""
    forbidden: tuple[str, ...] = ()
    """Repositories whose files are always refused; those of signed URLs aren't there."""
    ranges: bool = True
    """Whether range requests are answered with ranges."""
    limit: int | None = None
    """The resolve requests that are answered in a window; None for no limit."""
    window: float = 1.0
    """The seconds of a window; the first window begins with the first resolve request."""
    headers: tuple[str, ...] = ("RateLimit", "RateLimit-Policy", "Retry-After")
    """The headers that state the limit; tests leave some out."""
    uses: int | None = None
    """The requests that a signed URL answers before it expires; None for no limit."""
    asked: list[Asked] = field(default_factory=list)
    tags: tuple[str, ...] = ()
    """What the Hub tells of each repository, such as ``arxiv:1512.03385``."""
    dataset_tags: tuple[str, ...] = ()
    """What it tells of each data set."""
    gated: tuple[str, ...] = ()
    """Repositories that are said to be gated."""
    uploads: Uploads = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ends: float = 0.0
    """The time at which the window ends."""
    _resolved: int = 0
    """The resolve requests answered in the window."""
    _signed: Counter[str] = field(default_factory=Counter)
    """The uses of each signature."""

    def __post_init__(self) -> None:
        self.uploads = Uploads(self.root)

    @property
    def env(self) -> dict[str, str]:
        """The variables that point huggingface_hub, timm and zooadapt to this hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def body_bytes(self, prefix: str = "/cdn/") -> int:
        """Bytes of answers to GET requests below `prefix`."""
        return sum(
            request.body_bytes
            for request in list(self.asked)
            if request.method == "GET" and request.path.startswith(prefix)
        )

    def resolves(self, status: int = 302) -> Counter[str]:
        """How often each file was resolved with this answer."""
        return Counter(
            request.path
            for request in list(self.asked)
            if "/resolve/" in request.path and request.status == status
        )

    def take(self) -> tuple[bool, dict[str, str]]:
        """Whether the limit allows one more resolve, and the headers that state the limit."""
        if self.limit is None:
            return True, {}
        with self._lock:
            now = time.monotonic()
            if now >= self._ends:
                self._ends, self._resolved = now + self.window, 0
            allowed = self._resolved < self.limit
            self._resolved += allowed
            left, seconds = self.limit - self._resolved, math.ceil(self._ends - now)
        told = {
            "RateLimit": f'"resolvers";r={left};t={seconds}',
            "RateLimit-Policy": f'"fixed window";"resolvers";q={self.limit};w={self.window:g}',
        }
        told |= {} if allowed else {"Retry-After": str(seconds)}
        return allowed, {name: told[name] for name in self.headers if name in told}

    def sign(self) -> str:
        """The query of a new signed URL."""
        with self._lock:
            signature = f"{SIGNATURE}{len(self._signed):06x}"
            self._signed[signature] = 0
        return f"X-Amz-Signature={signature}"

    def accepts(self, query: str) -> bool:
        """Whether `query` is of a signed URL that hasn't expired; counts as a use of the URL."""
        signature = query.removeprefix("X-Amz-Signature=")
        with self._lock:
            if signature not in self._signed:
                return False
            self._signed[signature] += 1
            return self.uses is None or self._signed[signature] <= self.uses

    def commit(self, repo: str) -> str:
        """The repository's one commit, which changes with its content."""
        digest = hashlib.sha1(usedforsecurity=False)
        for file in sorted((self.root / repo).iterdir()):
            digest.update(file.name.encode() + sha256(file).encode())
        return digest.hexdigest()


def sha256(file: Path) -> str:
    """The file's sha256, computed again only after the file has changed."""
    status = file.stat()
    return _sha256(file, status.st_size, status.st_mtime_ns)


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def serving(root: Path, token: str | None = None) -> Iterator[LoopbackHub]:
    """Run a hub over `root` during the block."""
    hub = LoopbackHub(root, token=token)
    with web.serving(_Handler, hub=hub) as hub.url, web.serving(_Handler, hub=hub) as hub.cdn:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._take()

    def do_PUT(self) -> None:
        self._take()

    def log_message(self, *arguments: Any) -> None:
        """Print nothing to stderr."""

    def _take(self) -> None:
        path, token = self.path.partition("?")[0], self.headers.get("Authorization", "")
        status, said = self.hub.uploads.answer(path, token, self._body(), self.hub.url)
        self._send(status, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _tell(self, repo: str) -> None:
        if not (self.hub.root / repo).is_dir():
            return self._send(404, headers={"X-Error-Code": "RepoNotFound"})
        said = {
            "id": repo,
            "private": self.hub.uploads.visible.get(repo) == "private",
            "gated": "manual" if repo in self.hub.gated else False,
            "tags": list(self.hub.tags),
        }
        return self._send(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        resolve, model = _RESOLVE.fullmatch(path), _MODEL.fullmatch(path)
        if resolve:
            self._resolve(*resolve.groups())
        elif model:
            self._tell(model[1])
        elif path.startswith("/api/datasets/"):
            said = {"id": path.removeprefix("/api/datasets/"), "tags": self.hub.dataset_tags}
            self._send(200, json.dumps(said).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/cdn/"):
            self._cdn(path, query)
        elif path.startswith("/files/"):
            self._plain(path.removeprefix("/files/"))
        elif path.startswith("/html/"):
            self._send(200, b"<!DOCTYPE html><title>Sign in</title>", {"Content-Type": "text/html"})
        else:
            self._send(404)

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._send(401, headers={"X-Error-Code": "GatedRepo"})
        allowed, limits = self.hub.take()
        if not allowed:
            return self._send(429, headers=limits)
        if not (self.hub.root / repo).is_dir():
            return self._send(404, headers={"X-Error-Code": "RepoNotFound"})
        commit, file = self.hub.commit(repo), self.hub.root / repo / name
        if revision not in ("main", commit):
            return self._send(404, headers={"X-Error-Code": "RevisionNotFound"})
        if not file.is_file():
            return self._send(
                404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            )
        if file.suffix not in WEIGHTS:
            return self._file(file, {"X-Repo-Commit": commit})
        return self._send(
            302,
            headers={
                **limits,
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{sha256(file)}"',
                "X-Linked-Size": str(file.stat().st_size),
                "Location": f"{self.hub.cdn}/cdn/{repo}/{name}?{self.hub.sign()}",
            },
        )

    def _cdn(self, path: str, query: str) -> None:
        if self.headers.get("Authorization") or not self.hub.accepts(query):
            return self._send(403)
        name = path.removeprefix("/cdn/")
        return self._send(404) if self._forbids(name) else self._file(self.hub.root / name)

    def _plain(self, name: str) -> None:
        login = base64.b64encode((self.hub.login or "").encode()).decode()
        if self.hub.login and self.headers.get("Authorization") != f"Basic {login}":
            return self._send(401)
        return self._send(403) if self._forbids(name) else self._file(self.hub.root / name)

    def _forbids(self, name: str) -> bool:
        return name.startswith(tuple(f"{repo}/" for repo in self.hub.forbidden))

    def _file(self, file: Path, headers: dict[str, str] | None = None) -> None:
        if not file.is_file():
            return self._send(404)
        data, status = file.read_bytes(), 200
        headers = {**(headers or {}), **_NAMED, "ETag": f'"{sha256(file)[:40]}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.hub.ranges:
            headers["Accept-Ranges"] = "bytes"
        if wanted and self.hub.ranges:
            start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        return self._send(status, data, headers)

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        sent = len(body) if self.command != "HEAD" else 0
        wanted, now = self.headers.get("Range"), time.monotonic()
        self.hub.asked.append(Asked(self.command, self.path, wanted, status, sent, now))
        self.end_headers()
        if sent:
            self.wfile.write(body)
