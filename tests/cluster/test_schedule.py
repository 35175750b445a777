"""The order of models, the limit of memory, and that every model ends, whatever happens."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pytest

from jobs.measure.simulation import summary
from tests.support import idle
from tests.support.nodes import CAPACITY
from zooadapt.cluster.executor import SMALL, Batch, Capacity, Died, Outcome, Task
from zooadapt.cluster.schedule import AHEAD, Schedule
from zooadapt.errors import StageError, TooLarge, WorkerDied
from zooadapt.types import Job, Located, ModelEntry, ModelSummary, Request, Source

GB = 10**9
JOB = Job("run", "nowhere")


def request(name: str) -> Request:
    return Request(ModelEntry("timm", name, name, "", None, f"timm/{name}"), ())


@dataclass
class InOrder:
    """An executor that carries out one task after the other, in the order of their start."""

    sizes: Callable[[str], int]
    """Bytes of a model's checkpoint."""
    deadly: Counter[str] = field(default_factory=Counter)
    """How many processes each model still kills."""
    capacity: Capacity = CAPACITY
    begun: list[tuple[Task, str]] = field(default_factory=list)
    queue: list[tuple[Task, Batch]] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)
    """The models of each batch that was adapted."""

    def start(self, stage: Task, batch: Batch) -> None:
        names = [work.request.entry.name for work in batch.works]
        self.begun += [(stage, name) for name in names]
        self.queue.append((stage, batch))
        self.batches += [names] * (stage == "adapt")
        busy = Counter(stage for stage, _ in self.queue)
        assert busy["prove"] <= self.capacity.validators
        assert busy["adapt"] <= self.capacity.adapting
        assert busy["adapt"] + busy["prove"] <= self.capacity.at_once
        heavy = [batch.memory for stage, batch in self.queue if stage != "locate"]
        assert len(heavy) == 1 or sum(heavy) <= self.capacity.memory

    def ended(self) -> list[tuple[Task, Batch, Sequence[Outcome] | Died]]:
        stage, batch = self.queue.pop(0)
        names = [work.request.entry.name for work in batch.works]
        killer = next((name for name in names if stage != "locate" and self.deadly[name] > 0), None)
        if killer:
            self.deadly[killer] -= 1
            return [(stage, batch, Died(RuntimeError("killed")))]
        return [(stage, batch, [self._outcome(stage, work.request) for work in batch.works])]

    def _outcome(self, stage: Task, request: Request) -> Outcome:
        if stage == "locate":
            return Located(Source("hf://x", "", self.sizes(request.entry.name), ""), None, "")
        return idle.adapt(request, JOB, None) if stage == "adapt" else summary(request)

    @property
    def order(self) -> list[str]:
        """The models in the order in which they were adapted."""
        return [name for stage, name in self.begun if stage == "adapt"]


def run(executor: InOrder, names: Iterable[str]) -> tuple[list[str], dict[str, StageError]]:
    """The models that ended, and the errors of those that were given up."""
    ended: list[str] = []
    errors: dict[str, StageError] = {}

    def given_up(request: Request, error: StageError) -> ModelSummary:
        errors[request.entry.name] = error
        return summary(request)

    Schedule(
        map(request, names), executor, lambda summary: ended.append(summary.entry.name), given_up
    ).run()
    assert sorted(ended) == sorted(names), "every model ends once"
    return ended, errors


def size(name: str) -> int:
    """Bytes of a model's checkpoint: the model's name is its size in GB."""
    return int(float(name.partition("-")[0]) * GB)


def test_the_largest_goes_first() -> None:
    executor = InOrder(size)
    run(executor, ["1", "2", "0.1", "3", "0.5"])
    assert executor.order == ["3", "2", "1", "0.5", "0.1"]


def test_sources_are_looked_up_ahead_but_not_all_at_once() -> None:
    executor = InOrder(size)
    run(executor, [f"0.1-{number}" for number in range(3 * AHEAD)])
    first = [stage for stage, _ in executor.begun].index("adapt")
    assert first == AHEAD


def test_no_more_at_once_than_fits_in_memory_and_small_ones_fill_the_gaps() -> None:
    executor = InOrder(size)  # asserts that what runs fits in memory
    run(executor, [*(f"8-{number}" for number in range(3)), *(f"1-{n}" for n in range(9))])
    assert [name[0] for name in executor.order[:3]] == ["8", "1", "1"]


def test_a_large_one_waits_but_not_for_ever() -> None:
    executor = InOrder(lambda name: size(name) if name != "late" else 11 * GB)
    names = [*(f"3-{number}" for number in range(2 * AHEAD)), "late"]
    run(executor, [*names, *(f"3-x{number}" for number in range(2 * AHEAD))])
    looked_up = executor.begun.index(("locate", "late"))
    adapted_before = [name for stage, name in executor.begun[:looked_up] if stage == "adapt"]
    assert executor.order.index("late") - len(adapted_before) < AHEAD // 2


def test_one_that_fits_no_node_is_a_failure_that_says_what_it_needs() -> None:
    executor = InOrder(size)
    _, errors = run(executor, ["28", "1", "2"])
    assert isinstance(errors.pop("28"), TooLarge)
    assert not errors
    assert executor.order == ["2", "1"]


def test_the_failure_names_both_figures() -> None:
    _, errors = run(InOrder(size), ["28"])
    assert "37.4 GB" in str(errors["28"])
    assert "16.0 GB" in str(errors["28"])


@pytest.mark.parametrize(("deaths", "given_up"), [(2, False), (3, True)])
def test_a_model_that_kills_its_process_is_tried_three_times(deaths: int, given_up: bool) -> None:
    executor = InOrder(size, Counter({"2": deaths}))
    _, errors = run(executor, ["1", "2", "3"])
    assert ("2" in errors) is given_up
    assert executor.order.count("2") == 3
    assert isinstance(errors.get("2", WorkerDied("")), WorkerDied)


SMALLEST = SMALL // 40


def test_small_models_travel_together_and_everyone_has_some() -> None:
    executor = InOrder(lambda name: SMALLEST)
    run(executor, [str(number) for number in range(AHEAD)])
    sizes = [len(batch) for batch in executor.batches]
    assert len(sizes) < AHEAD / 4
    assert sizes[-1] == 1, "at the end nobody waits for a batch of another"
    assert max(sizes) <= AHEAD / CAPACITY.at_once


def test_what_isnt_small_travels_alone_and_a_batch_is_small() -> None:
    executor = InOrder(lambda name: SMALL // 4 if name.startswith("small") else SMALL + 1)
    run(executor, [*(f"small{n}" for n in range(40)), *(f"large{n}" for n in range(40))])
    large = [batch for batch in executor.batches if any(name.startswith("large") for name in batch)]
    assert [len(batch) for batch in large] == [1] * 40
    assert max(map(len, executor.batches)) == 4


def test_of_a_batch_whose_process_dies_each_is_tried_alone() -> None:
    executor = InOrder(lambda name: SMALLEST, Counter({"0": 3}))
    ended, errors = run(executor, [str(number) for number in range(AHEAD)])
    assert list(errors) == ["0"]
    assert [batch for batch in executor.batches if "0" in batch][1:] == [["0"], ["0"]]
    assert len(ended) == AHEAD


def test_what_is_adapted_when_the_time_is_up_is_proved_and_nothing_else_is_begun() -> None:
    executor, ended = InOrder(lambda name: GB), list[str]()
    schedule = Schedule(
        map(request, [str(number) for number in range(3 * AHEAD)]),
        executor,
        lambda summary: ended.append(summary.entry.name),
        lambda request, error: summary(request),
        is_over=lambda: len(ended) >= 5,
    )
    schedule.run()
    assert 5 <= len(ended) < 10
    assert sorted(ended) == sorted(executor.order)


def test_memory_is_given_back_by_what_died() -> None:
    executor = InOrder(size, Counter({"9": 3, "8": 1}))
    ended, _ = run(executor, ["9", "8", "7", "6"])
    assert set(ended) == {"9", "8", "7", "6"}
