"""Keep a mirror readable while a run is at work: its tables, its page, and a sign of life."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from zooadapt.errors import one_line
from zooadapt.mirror import manifest, run_files
from zooadapt.mirror.scan import Records
from zooadapt.report import page

BEAT = 60.0
"""Seconds between two signs of life."""
LEAST = 180.0
"""Least seconds between two compactions. They are also `_SPARSE` times as far apart as the last one
took, so that they take at most 5 % of a run, however many records there are."""
_SPARSE = 20
_TICK = 2.0
"""Seconds between two looks at the time."""

_log = logging.getLogger("zooadapt")


class Interim:
    """Within the context, a thread compacts the records now and then, and leaves signs of life.

    The first compaction comes with the first variant. Leaving the context waits for one that is
    under way. What fails is only said in the log: the end of the run does it again.
    """

    def __init__(
        self, records: Records, run_id: str, figures: Callable[[], dict[str, Any]]
    ) -> None:
        """`figures` are the run's so far: `made` is the number of new variants."""
        self._records, self._run_id, self._figures = records, run_id, figures
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="interim")
        self._beats = 0
        self._next_beat = self._next_tables = 0.0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_TICK):
            now = time.monotonic()
            figures = self._figures()
            if now >= self._next_beat:
                self._next_beat = now + BEAT
                self._trying("the sign of life", partial(self._beat, figures))
            if figures["made"] and now >= self._next_tables:
                self._trying("the tables", self._compact)
                took = time.monotonic() - now
                self._next_tables = time.monotonic() + max(LEAST, _SPARSE * took)

    def _beat(self, figures: dict[str, Any]) -> None:
        self._beats += 1
        run_files.write_heartbeat(self._records.store, self._run_id, self._beats, figures)

    def _compact(self) -> None:
        page.leave(self._records.store, manifest.compact(self._records.store, self._records))

    def _trying(self, what: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            _log.warning("%s couldn't be brought up to date: %s", what, one_line(error))
