"""Blocks come in order and whole, though several are read at the same time."""

import threading

import pytest

from zooadapt import ranges
from zooadapt.ranges import in_order


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 95, 100])
def test_the_bytes_are_those_of_the_file(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "BLOCK", 10)
    data = bytes(range(size))
    assert b"".join(in_order(lambda start, stop: data[start:stop], size)) == data


def test_several_are_on_their_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "BLOCK", 1)
    together = threading.Barrier(4, timeout=20)

    def read(start: int, stop: int) -> bytes:
        together.wait()
        return bytes([start])

    assert b"".join(in_order(read, 8)) == bytes(range(8))


def test_an_error_comes_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "BLOCK", 1)

    def read(start: int, stop: int) -> bytes:
        if start == 2:
            raise OSError("gone")
        return b"x"

    coming = in_order(read, 10)
    assert [next(coming), next(coming)] == [b"x", b"x"]
    with pytest.raises(OSError, match="gone"):
        next(coming)
