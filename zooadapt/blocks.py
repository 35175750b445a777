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


def in_order(read: Read, size: int) -> Iterator[bytes]:
    """The `size` bytes that `read` gives, in blocks; what it raises is raised in its place.

    `read` is called from several threads. At most four blocks are held.
    """
    with ThreadPoolExecutor(_AHEAD) as pool:
        coming: deque[Future[bytes]] = deque()
        for start in range(0, size, BLOCK):
            if len(coming) == _AHEAD:
                yield coming.popleft().result()
            coming.append(pool.submit(read, start, min(start + BLOCK, size)))
        while coming:
            yield coming.popleft().result()
