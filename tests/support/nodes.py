"""A schedule over several nodes, with stages that wait until a test lets them end."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import places
from zooadapt.cluster.executor import Capacity
from zooadapt.cluster.nodes import Workers
from zooadapt.cluster.outages import Outages
from zooadapt.cluster.ray_executor import RayExecutor
from zooadapt.cluster.schedule import Schedule
from zooadapt.cluster.tasks import TaskFunctions
from zooadapt.errors import StageError
from zooadapt.types import Job, ModelEntry, ModelSummary, Request


def until(happened: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until `happened` returns True, by calling it again and again."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


CAPACITY = Capacity(validators=1, adapting=3, at_once=3, memory=20 * 10**9, largest_node=16 * 10**9)
"""Of a small cluster with a GPU."""
STAGES = TaskFunctions(places.locate, places.make, places.adapt, places.prove)


class Run:
    """A schedule that runs on another thread, over models of 100 MB, and notes where stages ran."""

    def __init__(self, folder: Path, asked: Workers, models: int = 4) -> None:
        self.folder, self.ended, self.failed = folder, list[str](), dict[str, StageError]()
        self._job = Job("run", str(folder))
        entries = [ModelEntry("timm", f"m{number}", "m", "", None) for number in range(models)]
        self._requests, self._asked = [Request(entry, ()) for entry in entries], asked
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        def given_up(request: Request, error: StageError) -> ModelSummary:
            self.failed[request.entry.name] = error
            return ModelSummary(request.entry, (), (), 0, 0, {}, "")

        def ended(summary: ModelSummary) -> None:
            self.ended.append(summary.entry.name)

        outages = Outages()
        with RayExecutor(
            self._job, self._asked, STAGES, avoided=(outages.cut_off, outages.without_store)
        ) as executor:
            Schedule(iter(self._requests), executor, ended, given_up, outages=outages).run()

    def where(self, stage: str) -> list[str]:
        """The nodes on which the stage began, one for each time."""
        return [file.name.split("-")[2] for file in self.folder.glob(f"{stage}-m[0-9]*")]

    def until_begun(self, stage: str, times: int) -> None:
        """Wait until the stage has begun `times` times."""
        until(lambda: len(self.where(stage)) >= times)

    def until_begun_on(self, stage: str, node: str) -> None:
        """Wait until the stage has begun on the node with that id."""
        until(lambda: node in self.where(stage))

    def let(self, *stages: str) -> None:
        """Allow the stages to end."""
        for stage in stages:
            (self.folder / f"{stage}-may-end").touch()

    def join(self) -> list[str]:
        self._thread.join(120)
        assert not self._thread.is_alive()
        return sorted(self.ended)


@contextmanager
def running(folder: Path, models: int = 4, asked: Workers | None = None) -> Iterator[Run]:
    """Run a schedule that ends, at the latest, with the block."""
    run = Run(folder, asked or Workers(), models)
    try:
        yield run
    finally:
        run.let("adapt", "prove")
        run.join()


ALL = [f"m{number}" for number in range(4)]


def node(cpus: float, gigabytes: int, gpus: float = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus, "memory": gigabytes * 1e9}}
