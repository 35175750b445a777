"""Keep a mirror readable while a run is at work: its tables, its page, and a sign of life."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from zooadapt.errors import UsageError, one_line
from zooadapt.job.tally import Tally
from zooadapt.mirror import manifest
from zooadapt.mirror.run_files import Heartbeat, write_heartbeat
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


class Heart:
    """Leaves the signs of life of a run."""

    def __init__(self, store: Store, tally: Tally) -> None:
        self.tally = tally
        self.seconds_left: Callable[[], float | None] = lambda: None
        """Estimates the time until the run ends."""
        self._store, self._beats, self._stopped = store, 0, False
        self._lock = threading.Lock()

    def beat(self, stopped: bool = False) -> None:
        """Leave a sign of life. Failing to write it is only said in the log.

        After one that says that the run has `stopped` none is left.
        """
        with self._lock:
            if self._stopped:
                return
            self._beats, self._stopped = self._beats + 1, stopped
            tally, left = self.tally, None if stopped else self.seconds_left()
            sign = Heartbeat(tally.run(), self._beats, tally.last_model, left, stopped)
            _trying("the sign of life", lambda: write_heartbeat(self._store, sign))

    @contextmanager
    def ending_badly(self) -> Iterator[None]:
        """If the block raises anything, even by a signal, leave the last sign of life."""
        try:
            yield
        except BaseException:
            self.beat(stopped=True)
            raise


class Interim:
    """Within the context, a thread compacts the records now and then, and leaves signs of life.

    The first compaction comes with the first variant. Leaving the context waits for a compaction
    that is under way; after an error it doesn't, because the caller is in a hurry. What fails is
    only said in the log, as the end of the run does it again.
    """

    def __init__(self, store: Store, heart: Heart) -> None:
        self._store, self._heart = store, heart
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
        self._heart.beat()
        while not self._stop.wait(BEAT):
            self._heart.beat()

    def _tell(self) -> None:
        """Bring the tables up to date now and then, once there is a variant."""
        while not self._heart.tally.new:
            if self._stop.wait(_TICK):
                return
        pause = 0.0
        while not self._stop.wait(pause):
            began = time.monotonic()
            _trying("the tables", self._compact)
            pause = max(LEAST, _SPARSE * (time.monotonic() - began))

    def _compact(self) -> None:
        tables = manifest.compact(self._store, self._records)
        with suppress(UsageError):  # a mirror that is too large for a page
            page.write(self._store, tables)


def _trying(what: str, do: Callable[[], None]) -> None:
    try:
        do()
    except Exception as error:
        _log.warning("%s couldn't be brought up to date: %s", what, one_line(error))
