"""A lease: it lets one job at a time write to a store without locks or conditional writes."""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from zooadapt.errors import RunError

KEY = "runs/lease.json"
SECONDS = 120
"""Seconds after which a lease that nobody renews runs out."""


class Objects(Protocol):
    """The methods of a store that a lease uses."""

    def exists(self, key: str) -> bool: ...
    def read(self, key: str) -> bytes: ...
    def write(self, key: str, chunks: Iterable[bytes | memoryview]) -> None: ...
    def remove(self, key: str) -> None: ...


@contextmanager
def held(store: Objects, run_id: str) -> Iterator[None]:
    """Hold the store's lease during the block.

    Raises RunError while another job holds the lease.
    """
    holder = json.loads(store.read(KEY)) if store.exists(KEY) else None
    if holder and time.time() - holder["renewed"] < SECONDS:
        raise RunError(
            f"run {holder['run_id']} is writing to this store, which allows one job at a time: "
            f"wait until the run ends; if it was killed, its lease runs out in {SECONDS} s"
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
