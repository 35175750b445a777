"""What the cluster's nodes can do: now, and once the nodes that were asked for have come."""

import logging
import time
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import NodeDiedError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zooadapt.cluster.executor import Capacity
from zooadapt.costs import PER_GPU
from zooadapt.errors import UsageError

PATIENCE = 300.0
"""Seconds that work waits for a resource that no node has, until a warning says so."""

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Workers:
    """The resources for adapting and proving: what the cluster has, or can grow to."""

    gpus: int = 0
    cpus: int = 0
    memory: int = 0
    """Bytes of memory of the largest node; 0 where the options don't say."""
    grows: bool = False
    """Whether Ray's autoscaler adds nodes. It adds one for any task that finds no room."""

    @property
    def validators(self) -> int:
        """The most validators at once; none without GPUs, where who adapts a model proves it."""
        return self.gpus * PER_GPU

    @property
    def adapting(self) -> int:
        """The most batches to adapt at once: one more than there are CPUs, so that no CPU is idle.

        Where the autoscaler adds nodes, one for each CPU: one more would add another node, perhaps
        one with a GPU.
        """
        return self.cpus + (not self.grows)

    @property
    def at_once(self) -> int:
        """The most batches in progress, proofs included. Only proofs on GPUs come on top."""
        return self.adapting + self.validators

    def __str__(self) -> str:
        if self.gpus:
            plural = "s" * (self.gpus > 1)
            return f"proving on {self.gpus} GPU{plural}, {PER_GPU} validators each"
        return f"the cluster has no GPU: proving on {self.cpus} CPU{'s' * (self.cpus > 1)}"


def workers(asked: Workers = Workers(), avoided: Set[str] = frozenset()) -> Workers:
    """The resources that the cluster has now, or those of `asked` where they are more.

    The CPUs of nodes with an id in `avoided` don't count.
    """
    grows = bool(asked.cpus or asked.gpus)
    cpus = sum(node.get("CPU", 0) for node in _adapting(grows, avoided))
    memory = [int(node.get("memory", 0)) for node in _adapting(False, frozenset())]
    return Workers(
        gpus=max(asked.gpus, int(sum(node.get("GPU", 0) for node in _alive()))),
        cpus=max(asked.cpus, 1, int(cpus)),
        memory=max(asked.memory, *memory),
        grows=grows,
    )


def _alive(avoided: Set[str] = frozenset()) -> list[dict[str, float]]:
    """The resources of every node that is alive; without those avoided, unless all are."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    others = [node for node in alive if node.get("NodeID") not in avoided]
    return [node["Resources"] for node in others or alive]


def others(avoided: Set[str], needs: Mapping[str, float]) -> dict[str, str]:
    """Ray's label selector for all nodes but those avoided; {} where no other has what is needed.

    `needs` are amounts of Ray's resources.
    """
    if not avoided:
        return {}
    left = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["NodeID"] not in avoided]
    if not any(all(node.get(kind, 0) >= needs[kind] for kind in needs) for node in left):
        return {}
    return {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"}


def _adapting(grows: bool, avoided: Set[str]) -> list[dict[str, float]]:
    """The resources of the nodes that adapt; of all nodes where none of them can yet.

    Where the autoscaler adds nodes, it must be able to remove a GPU node once nothing waits to be
    proved. So the CPUs of GPU nodes are left free there, unless there are no others.
    """
    alive = _alive(avoided)
    with_cpus = [node for node in alive if node.get("CPU", 0) >= 1]
    preferred = [node for node in with_cpus if not (grows and node.get("GPU"))]
    return preferred or with_cpus or alive or [{}]


def capacity(available: Workers, avoided: Set[str] = frozenset()) -> Capacity:
    """How many batches the nodes can work on at once, and how much memory these can take together.

    CPUs that were asked for and haven't come yet count as if they were there, each with the memory
    that a CPU of the present nodes has.
    """
    nodes = _adapting(available.grows, avoided)
    cpus = sum(node.get("CPU", 0) for node in nodes)
    memory = int(sum(node.get("memory", 0) for node in nodes))
    lacking = max(0, available.cpus - int(cpus))
    per_cpu = memory / cpus if cpus else available.memory
    return Capacity(
        validators=available.validators,
        adapting=available.adapting,
        at_once=available.at_once,
        memory=max(available.memory, memory + int(lacking * per_cpu)),
        largest_node=available.memory,
    )


def own_id() -> str:
    """The id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


@cache
def own_cpus() -> int:
    """The number of CPUs of the node that this process runs on, at least 1."""
    here = [node["Resources"] for node in ray.nodes() if node["NodeID"] == own_id()]
    return max([1, *(int(resources.get("CPU", 0)) for resources in here)])


def lives() -> bool:
    """Whether the Ray cluster still answers."""
    try:
        return bool(_alive())
    except Exception:
        return False


class Patience:
    """Warns now and then that work waits for a resource that no node has, or none has yet."""

    def __init__(self) -> None:
        self._lacking: list[str] = []
        self._since = 0.0

    def wait_for(self, kinds: Iterable[str]) -> None:
        """Note the kinds of resources that work waits for now; warn if a wait has been long."""
        alive = _alive()
        lacking = [kind for kind in kinds if not any(node.get(kind) for node in alive)]
        if lacking != self._lacking:
            self._lacking, self._since = lacking, time.monotonic()
        elif lacking and time.monotonic() - self._since > PATIENCE:
            self._since = time.monotonic()
            _log.warning(
                "no node has a %s, and work has waited for one for %.0f minutes: add such a node, "
                "or stop the run and run the same command again later to resume",
                " or a ".join(lacking), PATIENCE / 60,
            )  # fmt: skip


def check_local_dest(folder: Path, run_id: str) -> None:
    """Raise UsageError unless every node of the cluster sees a probe file in the folder."""
    if len(_alive()) == 1:
        return  # it is the node of this process
    probe = folder / f".probe-{run_id}"
    probe.write_text("")
    try:
        names = {
            node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]
        }
        asked = [_sees.options(**_on(node)).remote(str(probe)) for node in names]
        seen = [_is_gone_or_sees(answer) for answer in asked]
    finally:
        probe.unlink()
    blind = [name for name, sees in zip(names.values(), seen, strict=True) if not sees]
    if blind:
        raise UsageError(
            f"--dest {folder} isn't the same folder on {', '.join(blind)}; use a shared folder or "
            f"an object store"
        )


def _is_gone_or_sees(answer: ray.ObjectRef) -> bool:
    try:
        return bool(ray.get(answer))
    except (NodeDiedError, TaskUnschedulableError):  # perhaps the autoscaler has just removed it
        return True


def _on(node: str) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


@ray.remote(num_cpus=0)
def _sees(path: str) -> bool:
    return Path(path).exists()
