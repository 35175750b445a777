"""Publish a model: write its variants, and its original stem, as objects of the mirror."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zooadapt.mirror.safetensors_file import digest_of, pieces, serialise
from zooadapt.names import CONFIG, WEIGHTS, companions, content_id, safe
from zooadapt.stores.shared_bytes import SMALLEST, SharedBytes
from zooadapt.stores.store import Store
from zooadapt.targets import Target
from zooadapt.types import Published


def publish_variant(
    store: Store,
    model_folder: str,
    target: Target,
    stems: Mapping[str, Tensor],
    body: Mapping[str, Tensor],
    config: Mapping[str, Any],
    shared: SharedBytes | None = None,
) -> Published:
    """Write model.safetensors and config.json to the folder `<model_folder>/<label>-<id>`.

    `stems` and `body` must each be in the order of `arranged`. `shared` is the body as the model's
    first variant holds it: the store copies it from there, if it can. The id is a hash of the
    content, so an object never changes once written. The companions that `config` holds are written
    too, and config.json is written last. Raises PublishError for a dtype that the mirror can't
    store, and the store's own errors.
    """
    text = json.dumps(config, indent=2).encode()
    tensors = {**stems, **body}
    digest, size = digest_of(tensors)
    folder = f"{model_folder}/{safe(target.label)}-{content_id(digest, text)}"
    head = b"".join(itertools.islice(serialise(tensors), 1 + len(stems)))
    key = f"{folder}/{WEIGHTS}"
    composed = store.compose(key, head, shared) if shared else None
    if composed is None:
        store.write(key, serialise(tensors))
    for name, content in companions(config).items():
        store.write(f"{folder}/{name}", [content])
    store.write(f"{folder}/{CONFIG}", [text])
    seams = tuple(start for start, _ in shared.parts) if shared and composed else ()
    head_sha256 = hashlib.sha256(head).hexdigest()
    return Published(target, folder, digest, size, len(head), head_sha256, seams)


def publish_stem(store: Store, model_folder: str, stems: Mapping[str, Tensor]) -> str:
    """Write the original stem to `<model_folder>/source-<id>/stem.safetensors`; returns the key."""
    digest, _ = digest_of(stems)
    key = f"{model_folder}/source-{content_id(digest)}/stem.safetensors"
    store.write(key, serialise(stems))
    return key


def shared_bytes(body: Mapping[str, Tensor], first: Published) -> SharedBytes | None:
    """The body in the first variant's object, for the others to share; None if it is too small."""
    if first.bytes - first.head < SMALLEST:
        return None
    return SharedBytes(pieces(body), f"{first.folder}/{WEIGHTS}", first.head)
