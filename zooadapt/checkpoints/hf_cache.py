"""Find files in the Hugging Face cache of this machine, which timm and transformers fill too.

Its layout is ``models--OWNER--NAME/snapshots/COMMIT/FILE``, mostly a link to ``blobs/ETAG``; the
commit of a branch is in ``refs/``. huggingface_hub reads it, and the Hub isn't asked.
"""

import re
from pathlib import Path

import fsspec
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from zooadapt.types import Located, Source

FILES = ("model.safetensors", "pytorch_model.bin")
"""The files that timm looks for in a Hub repository, in this order."""


def cached(hub_id: str, root: str | None = None) -> Located | None:
    """A repository's weights in the Hugging Face cache of this machine; the Hub isn't asked.

    `root` is the cache's folder, by default the one that HF_HUB_CACHE or HF_HOME names. None where
    the cache lacks the weights at the revision, by default ``main`` as it was when it was cached.
    """
    repo, _, revision = hub_id.partition("@")
    for file in FILES:
        try:
            found = try_to_load_from_cache(repo, file, root, revision or None)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return of_cache(repo, file, Path(found))
    return None


def beside(hub_id: str, file: str, root: str | None = None) -> Path | None:
    """A file beside the weights that `cached` finds, of the same commit; None if it isn't there."""
    if not (weights := cached(hub_id, root)):
        return None
    repo, commit, _ = parts(weights)
    found = try_to_load_from_cache(repo, file, root, commit)
    return Path(found) if isinstance(found, str) else None


def of_cache(repo: str, file: str, path: Path) -> Located:
    """A file in a snapshot of the cache, with the same identity as the Hub states."""
    blob = path.resolve()
    etag = blob.name if blob.parent.name == "blobs" else ""  # without links nothing tells the ETag
    size = blob.stat().st_size
    source = Source(
        uri=f"hf://{repo}@{path.parent.name}/{file}",
        identity=f"commit={path.parent.name} etag={etag} bytes={size}",
        bytes=size,
        sha256=etag if re.fullmatch("[0-9a-f]{64}", etag) else "",
    )
    return Located(source, fsspec.filesystem("file"), str(blob))


def parts(located: Located) -> tuple[str, str, str]:
    """The repository, the commit and the file's name of a located file."""
    repo, _, pinned = located.source.uri.removeprefix("hf://").partition("@")
    commit, _, file = pinned.partition("/")
    return repo, commit, file
