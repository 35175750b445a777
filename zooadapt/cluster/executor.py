"""What a schedule hands out, and what an executor can do: no Ray and no tensors here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from zooadapt.types import Adapted, Located, ModelSummary, Outage, Request

Task = Literal["locate", "adapt", "prove"]

SMALL = 64 * 2**20
"""Most bytes of all checkpoints of a batch. A model with a larger checkpoint travels alone."""


@dataclass(frozen=True)
class Died:
    """The result of a batch whose process died."""

    cause: Exception
    node_lost: bool = False
    """Whether the whole node was lost, which is no fault of the models."""


Outcome = Located | Adapted | ModelSummary | Outage | None
"""A task's result for one model; None for a failed look-up, which the adapt task will report."""


@dataclass(eq=False, slots=True)
class Work:
    """One model on its way through the tasks."""

    request: Request
    located: Located | None = None
    adapted: Adapted | None = None
    """What there is to prove; None until the model is adapted."""
    deaths: int = 0
    """How many processes died while they worked on the model, or on a batch with it."""
    losses: int = 0
    """How many nodes were lost while they worked on the model."""
    tries: int = 0
    """How many outages the model has met."""
    passed: int = 0
    """How many smaller models have overtaken it while it waited for memory."""

    @property
    def memory(self) -> int:
        """Bytes of memory that the model can take: 1.3 x its checkpoint and 1 GB, as measured."""
        size = self.located.source.bytes if self.located else None
        return int(1.3 * (size or 0)) + 10**9

    @property
    def small(self) -> int | None:
        """Bytes of the checkpoint, if the model may travel with others; else None."""
        size = self.located.source.bytes if self.located else None
        return size if size is not None and size <= SMALL and not self.deaths else None


@dataclass(eq=False, slots=True)
class Batch:
    """Models that one process works on, one after the other."""

    works: list[Work]
    """The models of the batch, the largest first."""
    memory: int
    """Bytes of memory that the batch can take."""
    node: str = ""
    """The id of the node that worked on the batch last; "" for the driver, or for none yet."""
    began: float = 0.0
    """When the last task for the batch was begun, by the clock of the schedule."""


@dataclass(frozen=True)
class Capacity:
    """How much an executor can work on at once."""

    validators: int
    """Most batches being proved."""
    adapting: int
    """Most batches being adapted, or adapted and waiting for a validator."""
    at_once: int
    """Most batches being adapted or proved."""
    memory: int
    """Bytes of memory of all nodes together."""
    largest_node: int
    """Bytes of memory of the node that has most."""


class Executor(Protocol):
    """Carries tasks out, in other threads, processes or machines."""

    capacity: Capacity

    def start(self, task: Task, batch: Batch) -> None:
        """Start a task for the batch, and return without waiting. Look-ups have one model each."""
        ...

    def ended(self) -> list[tuple[Task, Batch, Sequence[Outcome] | Died]]:
        """Wait until a task ends, and return every task that has ended since the last call.

        A task comes with its batch, and with `Died` or the outcomes of the models of the batch, in
        order. The last models have none where an outage ended the task.
        """
        ...
