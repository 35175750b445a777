"""One job at a time on a store that can neither lock nor write conditionally."""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from zooadapt.errors import RunError

KEY = "runs/lease.json"
SECONDS = 120
"""How long a lease lasts that nobody renews."""


class Objects(Protocol):
    """What a lease needs of a store."""

    def exists(self, key: str) -> bool: ...
    def read(self, key: str) -> bytes: ...
    def write(self, key: str, chunks: Iterable[bytes | memoryview]) -> None: ...
    def remove(self, key: str) -> None: ...


@contextmanager
def held(store: Objects, run_id: str) -> Iterator[None]:
    """A lease on the store for the block, for one job at a time.

    Raises RunError while another job holds the lease.
    """
    holder = json.loads(store.read(KEY)) if store.exists(KEY) else None
    if holder and time.time() - holder["renewed"] < SECONDS:
        raise RunError(
            f"run {holder['run_id']} is writing to this store, which can't keep two jobs apart: "
            f"wait for it to end; if it was killed, its lease runs out in {SECONDS} s"
        )
    ended = threading.Event()
    _renew(store, run_id)
    thread = threading.Thread(target=_keep_renewing, args=(store, run_id, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        store.remove(KEY)


def _keep_renewing(store: Objects, run_id: str, ended: threading.Event) -> None:
    while not ended.wait(SECONDS / 4):
        _renew(store, run_id)


def _renew(store: Objects, run_id: str) -> None:
    store.write(KEY, [json.dumps({"run_id": run_id, "renewed": time.time()}).encode()])
