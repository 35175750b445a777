"""What the cluster's nodes can do, now and once those have come that were asked for."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray

from zooadapt.cluster.schedule import PER_GPU, Capacity

_PATIENCE = 300.0
"""Seconds after which it is said what work waits for."""

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Workers:
    """What the two kinds of work are done with: what the cluster has, or may grow to."""

    gpus: int = 0
    cpus: int = 0
    memory: int = 0
    """Bytes of the largest node; 0 where nothing is asked for."""
    grows: bool = False
    """Whether Ray's autoscaler brings nodes, also for whatever waits for one."""

    @property
    def validators(self) -> int:
        """Some for each GPU; without any, as many as there is work for, up to one for each CPU."""
        return self.gpus * PER_GPU or self.cpus

    @property
    def adapting(self) -> int:
        """Batches that are adapted: one more than there are CPUs, lest one waits for the next.

        Not where that would bring another node, perhaps with a GPU.
        """
        return self.cpus + (not self.grows)

    @property
    def at_once(self) -> int:
        """Batches worked on."""
        return self.adapting + self.gpus * PER_GPU

    @property
    def options(self) -> dict[str, Any]:
        """The Ray resources of one validator."""
        # Never CPUs: two jobs that hold what the other's tasks wait for would wait for ever.
        if self.gpus:
            return {"num_gpus": 1 / PER_GPU, "num_cpus": 0}
        return {"num_cpus": 0, "scheduling_strategy": "SPREAD"}

    def __str__(self) -> str:
        if self.gpus:
            plural = "s" * (self.gpus > 1)
            return f"validating on {self.gpus} GPU{plural}, {PER_GPU} workers each"
        plural = "s" * (self.validators > 1)
        return f"the cluster has no GPU: validating on {self.validators} CPU worker{plural}"


def workers(asked: Workers = Workers()) -> Workers:
    """What the cluster has now, or what was asked for where that is more."""
    grows = bool(asked.cpus or asked.gpus)
    cpus = sum(node.get("CPU", 0) for node in _adapting(grows))
    memory = [int(node.get("memory", 0)) for node in _adapting(grows=False)]
    return Workers(
        gpus=max(asked.gpus, int(sum(node.get("GPU", 0) for node in _alive()))),
        cpus=max(asked.cpus, 1, int(cpus)),
        memory=max(asked.memory, *memory),
        grows=grows,
    )


def _alive() -> list[dict[str, float]]:
    """The resources of every node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _adapting(grows: bool) -> list[dict[str, float]]:
    """Those of the nodes that adapt; where none does yet, of all.

    A GPU node that was brought has to go when nothing is to be validated, so its CPUs stay free, as
    far as Ray has others.
    """
    alive = _alive()
    adapt = [node for node in alive if node.get("CPU", 0) >= 1]
    stay = [node for node in adapt if not (grows and node.get("GPU"))]
    return stay or adapt or alive or [{}]


def capacity(division: Workers) -> Capacity:
    """How many batches the nodes can work on, and the bytes of memory that these may take together.

    What was asked for counts as if it were there, with a CPU's share of memory.
    """
    nodes = _adapting(division.grows)
    cpus = sum(node.get("CPU", 0) for node in nodes)
    memory = int(sum(node.get("memory", 0) for node in nodes))
    lacking = max(0, division.cpus - int(cpus))  # may still come, with a CPU's share of a node
    per_cpu = memory / cpus if cpus else division.memory
    return Capacity(
        validators=division.validators,
        adapting=division.adapting,
        at_once=division.at_once,
        memory=max(division.memory, memory + int(lacking * per_cpu)),
        largest_node=division.memory,
    )


def lives() -> bool:
    """Whether the cluster is still there."""
    try:
        return bool(_alive())
    except Exception:
        return False


class Patience:
    """Says now and then that work waits for what no node has, which may be still to come."""

    def __init__(self) -> None:
        self._lacking: list[str] = []
        self._since = 0.0

    def wait_for(self, kinds: Iterable[str]) -> None:
        """Take note of the kinds of resources that something waits for now."""
        alive = _alive()
        lacking = [kind for kind in kinds if not any(node.get(kind) for node in alive)]
        if lacking != self._lacking:
            self._lacking, self._since = lacking, time.monotonic()
        elif lacking and time.monotonic() - self._since > _PATIENCE:
            self._since = time.monotonic()
            _log.warning(
                "no node has a %s, and what waits for one has done so for %.0f minutes: bring one "
                "up, or stop the run, and the same command goes on",
                " or a ".join(lacking), _PATIENCE / 60,
            )  # fmt: skip
