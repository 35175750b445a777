"""Keep a mirror readable while a run is at work: its tables, its page, and a sign of life."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

from zooadapt.errors import UsageError, one_line
from zooadapt.mirror import manifest, run_files
from zooadapt.mirror.scan import Records
from zooadapt.report import page
from zooadapt.stores.store import Store

BEAT = 60.0
"""Seconds between two signs of life."""
LEAST = 180.0
"""Least seconds between two compactions. After one that took long the pause is `_SPARSE` times as
long, so that compactions take at most 5 % of a run, however many records there are."""
_SPARSE = 20
_TICK = 2.0
"""Seconds between two looks for the first variant."""

_log = logging.getLogger("zooadapt")


class Interim:
    """Within the context, a thread compacts the records now and then, and leaves signs of life.

    The first compaction comes with the first variant. Leaving the context waits for one that is
    under way, but for an error: then the caller is in a hurry. What fails is only said in the log,
    as the end of the run does it again.
    """

    def __init__(self, store: Store, run_id: str, figures: Callable[[], dict[str, Any]]) -> None:
        """`figures` are the run's so far: `made` is the number of new variants."""
        self._store, self._run_id, self._figures = store, run_id, figures
        self._records = Records(store, keep=True)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._beat, self._tell)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._stop.set()
        for thread in self._threads if kind is None else ():
            thread.join()

    def _beat(self) -> None:
        """Leave a sign of life every minute."""
        for beat in count(1):
            figures = self._figures()
            write = partial(run_files.write_heartbeat, self._store, self._run_id, beat, figures)
            self._trying("the sign of life", write)
            if self._stop.wait(BEAT):
                return

    def _tell(self) -> None:
        """Bring the tables up to date now and then, once there is a variant."""
        while not self._figures()["made"]:
            if self._stop.wait(_TICK):
                return
        pause = 0.0
        while not self._stop.wait(pause):
            began = time.monotonic()
            self._trying("the tables", self._compact)
            pause = max(LEAST, _SPARSE * (time.monotonic() - began))

    def _compact(self) -> None:
        tables = manifest.compact(self._store, self._records)
        with suppress(UsageError):  # a mirror that is too large for a page
            page.write(self._store, tables)

    def _trying(self, what: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            _log.warning("%s couldn't be brought up to date: %s", what, one_line(error))
