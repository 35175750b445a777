"""Blocks of a file: some are read at once, all are given in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

BLOCK = 16 * 2**20
"""Bytes."""
_AHEAD = 4
"""Blocks on their way at once."""

Read = Callable[[int, int], bytes]
"""The bytes from start to stop."""


def in_order(read: Read, size: int, start: int = 0) -> Iterator[bytes]:
    """The bytes from `start` to `size` that `read` gives, in blocks; what it raises is raised.

    `read` is called from several threads. At most four blocks are held.
    """
    with ThreadPoolExecutor(_AHEAD) as pool:
        coming: deque[Future[bytes]] = deque()
        for begin in range(start, size, BLOCK):
            if len(coming) == _AHEAD:
                yield coming.popleft().result()
            coming.append(pool.submit(read, begin, min(begin + BLOCK, size)))
        while coming:
            yield coming.popleft().result()
