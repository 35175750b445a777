"""A forward pass uses its own core and those that nobody else uses, and gives them back."""

import multiprocessing
import signal
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread

import torch

from zooadapt.proof import cores

SPAWN = multiprocessing.get_context("spawn")


def threads(folder: Path, machine: int = 4) -> int:
    """The threads that a pass of another worker would run in, seen from a worker of its own."""
    with cores.working(machine, folder), cores.borrowed():
        return torch.get_num_threads()


def test_a_worker_that_is_alone_uses_all_cores(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    with cores.working(4, tmp_path):
        assert torch.get_num_threads() == 1
        with cores.borrowed():
            assert torch.get_num_threads() == 4
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def work(folder: Path, begun: Event, end: Event) -> None:
    with cores.working(4, folder):
        begun.set()
        end.wait()


def pass_(folder: Path, begun: Event, end: Event) -> None:
    with cores.working(4, folder), cores.borrowed():
        begun.set()
        end.wait()


def beside(target: Callable[[Path, Event, Event], None], folder: Path, stack: ExitStack) -> None:
    """Let another process do something until the block of `stack` ends."""
    begun, end = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=target, args=(folder, begun, end))
    process.start()
    stack.callback(process.join)
    stack.callback(end.set)
    assert begun.wait(60)


def test_the_cores_of_other_workers_are_left_to_them(tmp_path: Path) -> None:
    with ExitStack() as others:
        beside(work, tmp_path, others)
        assert threads(tmp_path) == 3
        beside(work, tmp_path, others)
        assert threads(tmp_path) == 2
    assert threads(tmp_path) == 4


def test_what_another_pass_has_borrowed_is_left_to_it(tmp_path: Path) -> None:
    with ExitStack() as others:
        beside(pass_, tmp_path, others)
        assert threads(tmp_path) == 1
        assert threads(tmp_path, machine=8) == 3 + 1


def test_a_busy_thread_counts_as_a_worker(tmp_path: Path) -> None:
    found: list[int] = []

    def publish() -> None:
        with cores.used():
            found.append(threads_of_a_pass())

    def threads_of_a_pass() -> int:
        with cores.borrowed():
            return torch.get_num_threads()

    with cores.working(2, tmp_path):
        thread = Thread(target=publish)
        thread.start()
        thread.join()
        assert threads_of_a_pass() == 2
    assert found == [1]


def test_a_worker_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    begun, end = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=work, args=(tmp_path, begun, end))
    process.start()
    assert begun.wait(60)
    assert threads(tmp_path) == 3
    assert process.pid
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert threads(tmp_path) == 4


def test_more_workers_than_cores(tmp_path: Path) -> None:
    with ExitStack() as others:
        beside(work, tmp_path, others)
        assert threads(tmp_path, machine=1) == 1


def test_a_process_of_somebody_else_is_left_as_it_is() -> None:
    before = torch.get_num_threads()
    with cores.borrowed(), cores.used():
        assert torch.get_num_threads() == before
