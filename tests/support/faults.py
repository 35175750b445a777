"""An HTTP proxy on loopback that answers some requests wrongly, on purpose and repeatably.

It stands in front of a real server and forwards every request, except those for which a rule names
a fault. It notes which fault struck which request, for tests to assert.
"""

import hashlib
import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.support.web import serving

READING = (
    "cut", "short", "wrong", "whole", "drip", "429", "429-after", "503", "503-after", "403",
    "silent", "circle",
)  # fmt: skip
"""Faults of the answers to GET requests. "whole" gives all bytes instead of a range."""
ELSEWHERE = ("401", "407", "page", "429-days", "503-days")
"""Answers that a rule can give to any request; `seeded` gives none of them. They have nothing to do
with what was asked for, or say to come back in two days."""
WRITING = ("500", "slow-down", "409", "reset", "lost", "error-inside")
"""Faults of PUT, POST and DELETE requests; "error-inside" is for CompleteMultipartUpload only."""


@dataclass(frozen=True)
class Asked:
    """A request as a rule sees it."""

    method: str
    path: str
    """The path with its query."""
    range: str
    size: int
    """Bytes of the request's body."""
    number: int
    """How many requests of the same method, path and range came before; upload ids don't count."""
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The headers by their names in lower case."""


Rule = Callable[[Asked], str | None]
"""The fault for a request, or None."""


@dataclass
class FaultProxy:
    """A running proxy."""

    upstream: str
    rule: Rule
    read: Callable[[str], bytes] | None = None
    """Reads all that is at a path, for "whole"; raises FileNotFoundError. S3's clients sign the
    range that they ask for, so that their requests can't be forwarded without it. None where
    requests aren't signed: they are forwarded without their range."""
    url: str = ""
    struck: list[tuple[str, Asked]] = field(default_factory=list)
    """The faults that struck, each with its request."""
    _known: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def counts(self) -> Counter[str]:
        """How often each fault struck."""
        return Counter(fault for fault, _ in list(self.struck))

    def number(self, method: str, path: str, ranged: str) -> int:
        """See `Asked.number`."""
        key = method, re.sub(r"uploadId=[^&]*", "", path), ranged
        with self._lock:
            self._known[key] += 1
            return self._known[key] - 1


def seeded(seed: int, rates: Mapping[str, float], wanted: Callable[[Asked], bool]) -> Rule:
    """A rule that strikes `wanted` requests at these rates; the same seed gives the same faults.

    Only the first three attempts of a request can be struck, so that a client that retries gets on.
    """

    def rule(asked: Asked) -> str | None:
        if asked.number > 2 or not wanted(asked):
            return None
        path = re.sub(r"uploadId=[^&]*", "", asked.path)
        text = f"{seed} {asked.method} {path} {asked.range} {asked.number}"
        draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        for fault, rate in rates.items():
            if fits(fault, asked):
                if draw < rate:
                    return fault
                draw -= rate
        return None

    return rule


def fits(fault: str, asked: Asked) -> bool:
    """Whether a fault can strike such a request."""
    if fault in READING:
        return asked.method == "GET" and (fault != "whole" or bool(asked.range))
    if fault == "error-inside":
        return asked.method == "POST" and "uploadId=" in asked.path
    return asked.method in ("PUT", "POST")


@contextmanager
def proxy(
    upstream: str,
    rule: Rule = lambda asked: None,
    read: Callable[[str], bytes] | None = None,
) -> Iterator[FaultProxy]:
    """Run a proxy in front of the server at `upstream` during the block."""
    state = FaultProxy(upstream, rule, read)
    with serving(_Handler, state=state) as state.url:
        yield state


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FaultProxy

    def log_message(self, *arguments: object) -> None:
        """Print nothing to stderr."""

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):  # the client hung up
            super().handle()

    def _any(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        ranged = self.headers.get("Range", "")
        number = self.state.number(self.command, self.path, ranged)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, ranged, size, number, headers)
        fault = self.state.rule(asked)
        if fault:
            self.state.struck.append((fault, asked))
        if fault == "reset":
            self.rfile.read(size // 2)
            self._reset()
            return
        body = self.rfile.read(size)
        if fault == "silent":
            self.connection.settimeout(20)
            self.connection.recv(1)  # until the client hangs up
            self._reset()
            return
        if fault == "circle":
            self._answer(302, {"Location": self.path}, b"")
            return
        if fault in _REFUSALS:
            self._refuse(fault)
            return
        if fault == "whole" and self.state.read:
            with suppress(FileNotFoundError):
                self._answer(200, {}, self.state.read(self.path))
                return
            fault = None
        status, headers, answer = self._forward(body, whole=fault == "whole")
        if fault == "lost":
            self._reset()
        else:
            self._answer(status, headers, answer, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815

    def _forward(self, body: bytes, whole: bool) -> tuple[int, dict[str, str], bytes]:
        where = urlsplit(self.state.upstream)
        connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=120)
        headers = {k: v for k, v in self.headers.items() if not (whole and k.lower() == "range")}
        headers.pop("Expect", None)
        try:
            connection.putrequest(self.command, self.path, True, True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, dict(response.headers.items()), response.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: Mapping[str, str], body: bytes, fault: str | None = None
    ) -> None:
        head = self.command == "HEAD"
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if head else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if head:
            return
        if fault == "wrong" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        elif fault in ("cut", "short"):
            body = body[: len(body) // 2]
        if fault == "drip":
            self._drip(body)
        else:
            self.wfile.write(body)
        if fault in ("cut", "short"):
            self.wfile.flush()
            self._reset() if fault == "cut" else self._close()

    def _drip(self, body: bytes) -> None:
        step = max(1, len(body) // 20)
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            self.wfile.flush()
            time.sleep(0.02)

    def _refuse(self, fault: str | None) -> None:
        status, code, headers = _REFUSALS[fault]
        self._answer(status, headers, _error(code))

    def _close(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_WR)

    def _reset(self) -> None:
        """Close at once, so that the client gets a reset instead of an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


_REFUSALS: dict[str | None, tuple[int, str, dict[str, str]]] = {
    "429": (429, "TooManyRequests", {}),
    "429-after": (429, "TooManyRequests", {"Retry-After": "1"}),
    "429-days": (429, "TooManyRequests", {"Retry-After": "172800"}),
    "503-days": (503, "ServiceUnavailable", {"Retry-After": "172800"}),
    "503": (503, "ServiceUnavailable", {}),
    "503-after": (503, "ServiceUnavailable", {"Retry-After": "1"}),
    "403": (403, "ExpiredToken", {}),
    "500": (500, "InternalError", {}),
    "slow-down": (503, "SlowDown", {}),
    "409": (409, "OperationAborted", {}),
    "error-inside": (200, "InternalError", {}),
    "401": (
        401,
        "Unauthorized",
        {"X-Error-Message": "Invalid credentials in Authorization header"},
    ),
    "407": (407, "ProxyAuthenticationRequired", {}),
    "page": (200, "SignIn", {"Content-Type": "text/html"}),
}


def _error(code: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
        f"<Message>a fault on purpose</Message><RequestId>1</RequestId></Error>"
    ).encode()
