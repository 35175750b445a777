"""The order of models, the window on memory, and an end for every model, whatever happens."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from tests.support import idle
from zooadapt.errors import StageError, TooLarge, WorkerDied
from zooadapt.records import Job, Located, ModelEntry, ModelSummary, Request, Source
from zooadapt.schedule import AHEAD, Capacity, Died, Outcome, Schedule, Stage, Work

GB = 10**9
JOB = Job("run", "nowhere")
CAPACITY = Capacity(validators=1, adapting=3, at_once=3, memory=20 * GB, largest_node=16 * GB)


def request(name: str) -> Request:
    return Request(ModelEntry("timm", name, name, "", None, f"timm/{name}"), ())


@dataclass
class InOrder:
    """Carries out one thing after the other, in the order in which they were begun."""

    sizes: Callable[[str], int]
    """Bytes of a model's checkpoint."""
    deadly: Counter[str] = field(default_factory=Counter)
    """How many processes a model kills."""
    capacity: Capacity = CAPACITY
    begun: list[tuple[Stage, str]] = field(default_factory=list)
    queue: list[tuple[Stage, Work]] = field(default_factory=list)
    cancelled: bool = False

    def start(self, stage: Stage, work: Work) -> None:
        self.begun.append((stage, work.request.entry.name))
        self.queue.append((stage, work))
        busy = Counter(stage for stage, _ in self.queue)
        assert busy["prove"] <= self.capacity.validators
        assert busy["adapt"] <= self.capacity.adapting
        assert busy["adapt"] + busy["prove"] <= self.capacity.at_once
        heavy = [work.memory for stage, work in self.queue if stage != "locate"]
        assert len(heavy) == 1 or sum(heavy) <= self.capacity.memory

    def ended(self) -> list[tuple[Stage, Work, Outcome]]:
        stage, work = self.queue.pop(0)
        return [(stage, work, self._outcome(stage, work))]

    def _outcome(self, stage: Stage, work: Work) -> Outcome:
        name = work.request.entry.name
        if stage == "locate":
            return Located(Source("hf://x", "", self.sizes(name), ""), None, "")
        if self.deadly[name] > 0:
            self.deadly[name] -= 1
            return Died(RuntimeError("killed"))
        return (
            idle.adapt(work.request, JOB, None) if stage == "adapt" else idle.summary(work.request)
        )

    def cancel(self) -> None:
        self.cancelled = True

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
        return idle.summary(request)

    Schedule(
        map(request, names), executor, lambda summary: ended.append(summary.entry.name), given_up
    ).run()
    assert sorted(ended) == sorted(names), "every model ends once"
    return ended, errors


def size(name: str) -> int:
    """A model's name is its size in GB."""
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
    executor = InOrder(size)  # which asserts that it fits
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


def test_memory_is_given_back_by_what_died() -> None:
    executor = InOrder(size, Counter({"9": 3, "8": 1}))
    ended, _ = run(executor, ["9", "8", "7", "6"])
    assert set(ended) == {"9", "8", "7", "6"}


def test_an_unforeseen_error_cancels_what_runs() -> None:
    executor = InOrder(lambda name: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run(executor, ["1"])
    assert executor.cancelled
