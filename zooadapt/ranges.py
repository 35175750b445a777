"""Read a file in blocks: several at the same time, given in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

BLOCK = 16 * 2**20
"""Bytes of a block."""
_AHEAD = 4
"""Blocks that are read at the same time."""

Read = Callable[[int, int], bytes]
"""A function that returns the bytes from start to stop."""


def in_order(read: Read, size: int, start: int = 0) -> Iterator[bytes]:
    """The bytes from `start` to `size`, in blocks. Raises what `read` raises.

    `read` is called from several threads. At most four blocks are in memory.
    """
    with ThreadPoolExecutor(_AHEAD) as pool:
        coming: deque[Future[bytes]] = deque()
        for begin in range(start, size, BLOCK):
            if len(coming) == _AHEAD:
                yield coming.popleft().result()
            coming.append(pool.submit(read, begin, min(begin + BLOCK, size)))
        while coming:
            yield coming.popleft().result()
