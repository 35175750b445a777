"""HTTP servers on loopback that run during a block."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], **attributes: object) -> Iterator[str]:
    """Run a server whose handlers have these attributes; yields its URL."""
    made = type("Handler", (handler,), attributes)
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Files(SimpleHTTPRequestHandler):
    """A plain static web server, which lists no folders and ignores ranges."""

    root: Path
    asked: list[str]

    def __init__(self, *arguments: object, **others: object) -> None:
        super().__init__(*arguments, directory=str(self.root), **others)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        with suppress(ConnectionError):  # a client that wanted only a range hung up
            super().do_GET()

    def list_directory(self, path: object) -> None:
        self.send_error(404)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def serving_files(root: Path, asked: list[str] | None = None) -> Iterator[str]:
    """Serve the files below `root`; `asked` gets the path of every request. Yields the URL."""
    with serving(Files, root=root, asked=[] if asked is None else asked) as url:
        yield url
