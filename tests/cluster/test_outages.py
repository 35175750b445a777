"""An outage is nobody's failure: who meets one is tried again, postponed, or left."""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from tests.support.nodes import CAPACITY
from zooadapt.cluster import outages
from zooadapt.cluster.executor import Batch, Capacity, Died, Outcome, Task
from zooadapt.cluster.outages import NODE_ROW, PATIENCE, ROW, TRIES, Outages
from zooadapt.cluster.schedule import Schedule
from zooadapt.errors import StageError
from zooadapt.targets import Bands, Target
from zooadapt.types import Located, ModelEntry, ModelSummary, Outage, Request, Source

HUB, FILES, MIRROR = "the Hub at https://hub", "https://files", "s3://bucket/mirror"
TARGETS = (Target(Bands.counted(4), "repeat"),)


@dataclass
class World:
    """An executor in simulated time: each task takes a second, and meets the outages of `meets`."""

    meets: Callable[[float, Task, str], Outage | None]
    """The outage that a task for a model of that name meets at a time."""
    now: float = 0.0
    capacity: Capacity = CAPACITY
    nodes: Sequence[str] = ("",)
    """The nodes, which take turns."""
    on: str = ""
    """The node whose turn it is."""
    queue: list[tuple[Task, Batch]] = field(default_factory=list)
    begun: list[tuple[Task, str]] = field(default_factory=list)
    ended_: dict[str, ModelSummary] = field(default_factory=dict)
    later: list[float] = field(default_factory=list)
    size: Callable[[str], int] = lambda name: 10**8
    """The bytes of each checkpoint."""
    chance: float = 0.5
    """What stands for a number drawn at random."""

    def start(self, task: Task, batch: Batch) -> None:
        self.queue.append((task, batch))
        self.begun += [(task, work.request.entry.name) for work in batch.works]

    def ended(self) -> list[tuple[Task, Batch, Sequence[Outcome] | Died]]:
        self.now += 1
        task, batch = self.queue.pop(0)
        if task == "adapt":
            left = [node for node in self.nodes if node not in self.outages.cut_off]
            batch.node = self.on = left[int(self.now) % len(left)]
        outcomes: list[Outcome] = []
        for work in batch.works:
            outcomes.append(self._outcome(task, work.request))
            if isinstance(outcomes[-1], ModelSummary) and outcomes[-1].outage:
                break
        return [(task, batch, outcomes)]

    def _outcome(self, task: Task, request: Request) -> Outcome:
        outage = self.meets(self.now, task, request.entry.name)
        if task == "locate":
            return outage or Located(Source("x", "", self.size(request.entry.name), ""), None, "")
        shorts = ("4",)
        if outage:
            return ModelSummary(request.entry, (), (), 0, 0, {}, "", shorts, outage)
        return ModelSummary(request.entry, shorts, (), 0, 0, {}, "cpu")

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.01)

    def __post_init__(self) -> None:
        self.outages = Outages(lambda: self.now, lambda: self.chance)

    def run(self, names: Sequence[str], is_over: Callable[[], bool] = lambda: False) -> Schedule:
        requests = [Request(ModelEntry("timm", name, name, "", None), TARGETS) for name in names]

        def ended(summary: ModelSummary) -> None:
            assert summary.entry.name not in self.ended_
            self.ended_[summary.entry.name] = summary

        def failed(request: Request, error: StageError) -> ModelSummary:
            raise error

        schedule = Schedule(
            iter(requests), self, ended, failed, place=lambda request: place(request.entry.name),
            store=MIRROR, outages=self.outages, sleep=self.sleep,
            is_over=is_over,
        )  # fmt: skip
        schedule.run()
        return schedule

    @property
    def made(self) -> set[str]:
        return {name for name, summary in self.ended_.items() if summary.made}

    @property
    def postponed(self) -> set[str]:
        return {name for name, summary in self.ended_.items() if summary.outage}


def place(name: str) -> str:
    return FILES if name.startswith("file") else HUB


def hub(count: int) -> list[str]:
    return [f"hub{number}" for number in range(count)]


def files(count: int) -> list[str]:
    return [f"file{number}" for number in range(count)]


def out(of: str, task: str = "look-up", until: float = float("inf"), since: float = 0.0):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """An outage of a place for some time: of its look-ups, its downloads, or of writes."""
    kinds = {"look-up": "locate"}

    def meets(now: float, doing: Task, name: str) -> Outage | None:
        concerned = of == MIRROR or place(name) == of
        hit = concerned and doing == kinds.get(task, "adapt") and since <= now < until
        return Outage(of, task, "no answer") if hit else None  # type: ignore[arg-type]

    return meets


def test_where_a_source_does_not_answer_the_run_stops_within_two_minutes() -> None:
    world = World(out(HUB))
    schedule = world.run(hub(500))
    assert [outage.place for outage in schedule.outages.down.values()] == [HUB]
    assert world.ended_ == {}, "no model is blamed, and none is recorded"
    assert PATIENCE <= world.now <= 120


def test_models_of_another_source_go_on() -> None:
    world = World(out(HUB))
    schedule = world.run([*hub(300), *files(300)])
    assert world.made == set(files(300))
    assert [outage.place for outage in schedule.outages.down.values()] == [HUB]


@pytest.mark.parametrize(("task", "doing"), [("look-up", "locate"), ("download", "adapt")])
def test_while_nothing_answers_one_goes_first_and_the_rest_wait(task: str, doing: Task) -> None:
    world = World(out(HUB, task, until=70))
    world.run(hub(400))
    assert world.made == set(hub(400))
    tried = Counter(each for each, _ in world.begun)[doing]
    probes = 4 + 70 / outages._PROBE  # the first four are less than ten seconds apart
    assert tried - 400 <= ROW + 32 + probes, "those that were under way, and probes"


def test_a_limit_is_waited_for_and_blames_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def meets(now: float, task: Task, name: str) -> Outage | None:
        if task == "locate" and 20 <= now < 420:
            return Outage(HUB, "look-up", "429", time.time() + 420 - now)
        return None

    world = World(meets)
    schedule = world.run(hub(300))
    assert world.made == set(hub(300))
    assert not schedule.outages.down
    (line,) = [each.getMessage() for each in caplog.records]
    assert re.fullmatch(rf"{HUB} takes no more requests until \d\d:\d\d:\d\d", line)


def test_a_limit_that_is_stated_again_and_again_is_an_outage() -> None:
    def meets(now: float, task: Task, name: str) -> Outage | None:
        return Outage(HUB, "look-up", "429", time.time() + 30)

    world = World(meets)
    assert world.run(hub(300)).outages.down
    assert 90 <= world.now <= 300
    assert not world.ended_


def test_a_node_that_alone_meets_outages_gets_no_more_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def meets(now: float, task: Task, name: str) -> Outage | None:
        if task != "adapt" or world.on != "b":
            return None
        met.append(name)
        return Outage(HUB, "download", "no route")

    met: list[str] = []
    world = World(meets, nodes=("a", "b", "c"))
    world.run(hub(100))
    assert len(met) == 2 * NODE_ROW, "after that many the others have answered twice"
    assert world.made == set(hub(100))
    assert world.outages.cut_off == {"b"}
    assert "node b gets no more work: it can't reach" in caplog.text


def test_what_began_before_an_outage_shows_nothing_of_it() -> None:
    clock = [0.0]
    found = Outages(lambda: clock[0], lambda: 0.5)
    outage = Outage(HUB, "download", "no answer")
    clock[0] = 100.0
    for number in range(ROW):
        found.met(outage, ("timm", f"m{number}"), 1000, "a")
    found.answered(HUB, "download", "b", began=50.0)  # it had downloaded before
    assert found.is_closed(HUB, "download")
    found.answered(HUB, "download", "b", began=101.0)
    assert not found.is_closed(HUB, "download")


def test_where_every_node_meets_outages_none_is_cut_off() -> None:
    world = World(out(HUB, "download", since=300), nodes=("a", "b"))
    schedule = world.run(hub(400))
    assert schedule.outages.down
    assert not world.outages.cut_off


@pytest.mark.parametrize("chance", [0.0, 1.0])
@pytest.mark.parametrize("models", [1, 3])
def test_all_that_remain_are_a_row_too(models: int, chance: float) -> None:
    world = World(out(HUB), chance=chance)
    schedule = world.run(hub(models))
    assert schedule.outages.down
    assert world.now <= 120


def test_a_short_outage_is_waited_for() -> None:
    for task in ("look-up", "download"):
        world = World(out(HUB, task, until=60))
        schedule = world.run(hub(30))
        assert world.made == set(hub(30)), task
        assert not schedule.outages.down


def test_after_an_outage_the_rest_of_a_batch_is_given_back() -> None:
    def meets(now: float, task: Task, name: str) -> Outage | None:
        hit = name == "hub40" and task == "adapt" and now < 150
        return Outage(HUB, "download", "500") if hit else None

    world = World(meets, size=lambda name: 10**5)
    world.run(hub(100))
    adapted = Counter(world.begun)
    assert max(adapted["adapt", name] for name in {*hub(100)} - {"hub40"}) > 1, "it had company"
    assert world.made == set(hub(100))


def test_while_nothing_answers_those_go_first_that_were_not_tried() -> None:
    world = World(out(HUB, "download"), size=lambda name: 10**9 - 10**7 * int(name[3:]))
    world.run(hub(15))
    tried = [name for task, name in world.begun if task == "adapt"]
    assert len({*tried[:15]}) >= 15 - world.capacity.at_once


def test_where_the_source_is_down_so_is_the_rest_of_a_batch() -> None:
    world = World(out(HUB, "download"), size=lambda name: 10**5)
    assert world.run(hub(100)).outages.down
    assert not world.ended_


def test_nobody_waits_long_after_a_glitch() -> None:
    world = World(out(HUB, "download", until=3))
    world.run(hub(1))
    assert world.made == {"hub0"}
    assert world.now < 8


def test_an_outage_from_the_middle_leaves_what_is_made() -> None:
    world = World(out(HUB, since=300))
    schedule = world.run(hub(500))
    assert world.made
    assert not world.postponed
    assert schedule.outages.down


def test_look_ups_and_downloads_are_counted_apart() -> None:
    world = World(out(HUB, "download"))
    schedule = world.run(hub(60))
    assert [*schedule.outages.down] == [(HUB, "download")]
    assert world.made == set()


def test_one_that_alone_meets_outages_is_postponed_and_the_others_are_made() -> None:
    def meets(now: float, task: Task, name: str) -> Outage | None:
        return Outage(HUB, "look-up", "500") if name == "hub7" else None

    world = World(meets)
    schedule = world.run(hub(200))
    assert world.postponed == {"hub7"}
    assert world.ended_["hub7"].postponed == ("4",)
    assert world.made == {*hub(200)} - {"hub7"}
    assert not schedule.outages.down
    assert Counter(world.begun)["locate", "hub7"] == TRIES


def test_where_the_store_is_out_of_reach_everything_stops() -> None:
    world = World(out(MIRROR, "write"))
    schedule = world.run([*hub(15), *files(15)])
    assert [*schedule.outages.down] == [(MIRROR, "write")]
    assert world.ended_ == {}
    assert world.now <= 150


def test_a_store_that_comes_back_loses_nobody() -> None:
    world = World(out(MIRROR, "write", until=60))
    assert not world.run([*hub(20), *files(20)]).outages.down
    assert world.made == {*hub(20), *files(20)}


def test_when_the_time_is_up_nobody_waits_for_an_outage() -> None:
    world = World(out(HUB))
    world.run(hub(3), is_over=lambda: world.now > 20)
    assert world.ended_ == {}
    assert world.now < 40


def test_an_answer_ends_the_row() -> None:
    clock = [0.0]
    found = Outages(lambda: clock[0], lambda: 0.5)
    outage = Outage(HUB, "look-up", "no answer")
    for number in range(ROW - 1):
        assert not found.met(outage, ("timm", f"m{number}"), 1000)
    found.answered(HUB, "look-up")
    clock[0] += PATIENCE
    assert not found.met(outage, ("timm", "another"), 1000)
    assert not found.down


def test_the_pauses_grow_and_differ() -> None:
    times = [Outages(lambda: 0.0, lambda: 0.5).next_try(tries) for tries in range(1, TRIES)]
    assert times == [2.5, 5, 10, 20, 37.5, 37.5]
    assert Outages(lambda: 0.0, lambda: 0.0).next_try(1) == outages._PAUSE
