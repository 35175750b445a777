"""Variants made by hand, whose shared part the store copies."""

import torch

from zooadapt.mirror import publish
from zooadapt.names import WEIGHTS
from zooadapt.stores.shared_bytes import HEAD, SharedBytes
from zooadapt.stores.store import Store
from zooadapt.targets import Bands, Target
from zooadapt.types import Published

MIB = 2**20
BODY = {
    "a": torch.randint(0, 99, (3 * MIB,), dtype=torch.int64),
    "b": torch.randn(HEAD // 4 - 3),
    "c": torch.randn(3),
}


def variant(store: Store, chans: int, shared: SharedBytes | None = None) -> Published:
    stems = {"stem": torch.randn(8, chans, 3, 3, generator=torch.Generator().manual_seed(1))}
    target = Target(Bands.counted(chans), "repeat")
    return publish.publish_variant(store, "w", target, stems, BODY, {"chans": chans}, shared)


def two(store: Store) -> tuple[Published, Published]:
    """A variant that was sent, and one that the store composed from it."""
    first = variant(store, 3)
    return first, variant(store, 5, publish.shared_bytes(BODY, first))


def key(made: Published) -> str:
    return f"{made.folder}/{WEIGHTS}"


def change(store: Store, made: Published, where: int) -> None:
    """Change the byte at `where` in a variant's stored weights."""
    data = bytearray(store.read(key(made)))
    data[where] ^= 1
    store.write(key(made), [bytes(data)])
