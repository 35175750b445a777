"""A TCP proxy on loopback that counts the bytes of both directions."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_BLOCK = 2**16


@dataclass
class Counter:
    """The bytes that went through the proxy, with the heads of HTTP messages."""

    url: str = ""
    """The proxy's URL, to be used instead of the server's."""
    sent: int = 0
    """Bytes that clients sent."""
    received: int = 0
    """Bytes that clients received."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, sent: int = 0, received: int = 0) -> None:
        """Count more bytes."""
        with self._lock:
            self.sent += sent
            self.received += received


@contextmanager
def counting(url: str) -> Iterator[Counter]:
    """Run a proxy in front of the server at `url` during the block."""
    counter = Counter()
    with socket.create_server(("127.0.0.1", 0)) as server:
        counter.url = f"http://127.0.0.1:{server.getsockname()[1]}"
        threading.Thread(target=_accept, args=(server, url, counter), daemon=True).start()
        try:
            yield counter
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts


def _accept(server: socket.socket, url: str, counter: Counter) -> None:
    where = urlsplit(url)
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        upstream = socket.create_connection((str(where.hostname), where.port or 80))
        for pair in ((client, upstream, "sent"), (upstream, client, "received")):
            threading.Thread(target=_pump, args=(*pair, counter), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, direction: str, counter: Counter) -> None:
    with suppress(OSError):
        while block := source.recv(_BLOCK):
            counter.add(**{direction: len(block)})
            target.sendall(block)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
