"""Find files on the Hugging Face Hub: one request finds a file and a signed URL to read it.

The Hub limits requests in windows of five minutes (anonymous: 3,000 that resolve a file). Its
header ``RateLimit`` says how many are left; it refuses more with 429 and ``Retry-After``. An answer
like 503 can have ``Retry-After`` too, if the Hub knows how long it will be out of order.
huggingface_hub waits only before it repeats a refused request. Here all look-ups of the process
wait together, and they wait as soon as an answer says that none is left. The driver does the
look-ups of all workers (see `cluster`).
"""

import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import fsspec
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_session,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
    parse_ratelimit_headers,
)

from zooadapt.checkpoints import hf_cache
from zooadapt.checkpoints.fetch import LONGEST_WAIT, told_to_wait, with_wait
from zooadapt.errors import Absent, FetchError, Unreachable, one_line, redact
from zooadapt.types import Located, Source

FILES = hf_cache.FILES
SHARDED = tuple(f"{file}.index.json" for file in FILES)
"""The files that are there instead if a checkpoint is split into several."""
LONGEST_TEXT = 4 * 2**20
"""The most bytes of a text file that is read."""
SILENCE = 60.0
"""Seconds after which a server that sends nothing is given up."""

_log = logging.getLogger(__name__)
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # hide its retries


class _Budget:
    """The budget of requests to the Hub. Every answer updates it; every request waits for it."""

    def __init__(self) -> None:
        self.until = 0.0

    def wait(self, request: Any) -> None:
        """Sleep until the Hub takes requests again."""
        while (seconds := self.until - time.monotonic()) > 0:
            time.sleep(seconds)

    def heed(self, response: Any) -> None:
        """Make all requests wait if this answer says that no request is left, or to come back.

        Raises Unreachable for a refusal that says to come back later than LONGEST_WAIT, since
        huggingface_hub would sleep as long as it is told.
        """
        seconds = _told_to_wait(response)
        if seconds > LONGEST_WAIT:
            if response.status_code in _REPEATED:
                hours = f"{seconds / 3600:,.0f} hours"
                raise Unreachable(f"the Hub says that it takes no requests for {hours}")
        elif seconds:
            until = time.monotonic() + seconds + 1  # the Hub rounds down
            before, self.until = self.until, max(self.until, until)
            if self.until > before + 1:
                when = datetime.fromtimestamp(time.time() + seconds)
                _log.warning(
                    "zooadapt: the Hub takes no more requests until %s", f"{when:%H:%M:%S}"
                )


budget = _Budget()


_REPEATED = (408, 429, 500, 502, 503, 504)
"""The refusals after which huggingface_hub repeats a request, and waits as long as it is told."""


def _told_to_wait(response: Any) -> float:
    """The seconds to wait that this answer states, or 0."""
    limit = parse_ratelimit_headers(response.headers)
    window = limit.reset_in_seconds if limit and limit.remaining == 0 else 0
    refused = response.status_code in _REPEATED
    return max(window, told_to_wait(response.headers) if refused else 0.0)


def _heed_limits() -> None:
    """Send the requests of huggingface_hub's client through the budget."""
    hooks = get_session().event_hooks
    if budget.heed not in hooks["response"]:  # a new client, or one renewed after an error
        hooks["request"].append(budget.wait)
        hooks["response"].append(budget.heed)


def locate(hub_id: str) -> Located:
    """Find a repository's weights: one HEAD request states commit, sha256, size and a signed URL.

    Raises FetchError if they aren't there (Absent) or aren't readable, Unreachable for no answer.
    """
    repo, _, revision = hub_id.partition("@")
    for file in FILES:
        found = _resolve(repo, file, revision)
        if found:
            return found
    if any(_resolve(repo, file, revision) for file in SHARDED):
        raise split(f"hf://{repo}")
    raise Absent(f"hf://{repo} has none of {', '.join(FILES)}")


def near(located: Located) -> Located:
    """The same file where this machine reads it: in its cache, if it is there, else on the Hub."""
    if isinstance(located.filesystem, LocalFileSystem) and Path(located.path).exists():
        return located
    repo, commit, file = hf_cache.parts(located)
    found = try_to_load_from_cache(repo, file, revision=commit)
    if isinstance(found, str):
        return replace(hf_cache.of_cache(repo, file, Path(found)), source=located.source)
    # a file in the cache of another machine is asked for at the Hub
    return renewed(located) if isinstance(located.filesystem, LocalFileSystem) else located


def kept(located: Located, hub_id: str) -> Located:
    """The file once it is in the Hugging Face cache, where other programs find it too.

    Raises FetchError, and Unreachable where the Hub doesn't answer.
    """
    repo, _, file = hf_cache.parts(located)
    _, _, revision = hub_id.partition("@")
    with _translated(repo):
        path = hf_hub_download(
            repo, file, revision=revision or None, endpoint=endpoint(), token=get_token()
        )
    return replace(hf_cache.of_cache(repo, file, Path(path)), source=located.source)


def split(where: str) -> FetchError:
    """The error for a checkpoint that is split into several files."""
    return FetchError(
        f"{redact(where)} has a checkpoint split into several files, and zooadapt reads only "
        f'single ones: save the model again with save_pretrained(…, max_shard_size="100GB")'
    )


def text(hub_id: str, file: str) -> str | None:
    """The content of a small text file in a repository; None if the repository has no such file.

    Where the Hugging Face cache has the repository's weights, it is asked first.

    Raises FetchError if the repository isn't there or isn't readable, or if the file is larger than
    LONGEST_TEXT. Raises Unreachable for no answer.
    """
    repo, _, revision = hub_id.partition("@")
    if weights := hf_cache.cached(hub_id):
        _, commit, _ = hf_cache.parts(weights)
        path = try_to_load_from_cache(repo, file, revision=commit)
        if isinstance(path, str):
            with Path(path).open("rb") as opened:
                return decoded(opened.read(LONGEST_TEXT + 1), f"hf://{repo}/{file}")
        if path is not None or constants.HF_HUB_OFFLINE:  # known not to be there, or not to be had
            return None
        revision = commit  # it must be of the same commit as the weights
    with _translated(repo):
        url = hf_hub_url(repo, file, revision=revision or None, endpoint=endpoint())
        headers = build_hf_headers(token=get_token())
        with http_stream_backoff("GET", url, headers=headers, timeout=SILENCE) as got:
            try:
                hf_raise_for_status(got)
            except EntryNotFoundError:
                return None
            return decoded(_beginning(got.iter_bytes(2**16)), f"hf://{repo}/{file}")
    return None


def tags(repo: str, kind: Literal["model", "dataset"] = "model") -> list[str]:
    """What the Hub knows of a repository, such as ``arxiv:1512.03385``; [] where it can't be asked.

    These are the papers, data sets and DOIs that its card states, among others.
    """
    try:
        info: Any = HfApi(endpoint()).repo_info(repo, repo_type=kind, timeout=10)
        return list(info.tags or ())
    except Exception as error:  # whatever it is: a citation without them is better than none
        _log.debug("the Hub wasn't asked about %s: %s", repo, one_line(error))
        return []


def decoded(content: bytes, where: str) -> str:
    """A file's content as text. Raises FetchError if it has more than LONGEST_TEXT bytes."""
    if len(content) > LONGEST_TEXT:
        raise FetchError(f"{where} is too large to be read, over {LONGEST_TEXT >> 20} MiB")
    return content.decode(errors="replace")


def _beginning(blocks: Iterable[bytes]) -> bytes:
    """The first blocks, up to the one that makes them more than LONGEST_TEXT bytes."""
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > LONGEST_TEXT:
            break
    return bytes(content)


def renewed(located: Located) -> Located:
    """The same file at the same commit, with a new signed URL. Raises FetchError."""
    repo, commit, file = hf_cache.parts(located)
    found = _resolve(repo, file, commit)
    if found is None:
        raise FetchError(f"{located.source.uri} is no longer there; try again with --retry-failed")
    return found


def holds(source: Source) -> bool:
    """Whether the source is on the Hub: pinned to a commit, such a source never changes."""
    return source.uri.startswith("hf://")


def _resolve(repo: str, file: str, revision: str) -> Located | None:
    """The located file; None if the repository has no such file."""
    with _translated(repo):
        url = hf_hub_url(repo, file, revision=revision or None, endpoint=endpoint())
        try:
            facts = get_hf_file_metadata(url, token=get_token(), retry_on_errors=True)
        except EntryNotFoundError:
            return None
    return _pinned(repo, file, facts, url)


@contextmanager
def _translated(repo: str) -> Iterator[None]:
    """Keep to the Hub's limits, and turn its errors into FetchError or Unreachable."""
    _heed_limits()
    try:
        yield
    except FetchError:
        raise
    except OfflineModeIsEnabled as cause:
        raise FetchError(
            f"hf://{repo} isn't in the Hugging Face cache, and HF_HUB_OFFLINE is set; unset it (a "
            f"job can also read a folder, with --source-root)"
        ) from cause
    except HFValidationError as cause:
        raise FetchError(f"hf://{repo} can't be a repository: {one_line(cause)}") from cause
    except GatedRepoError as cause:
        raise FetchError(
            f"hf://{repo} is gated: accept its terms at {redact(endpoint())}/{repo} and set "
            f"HF_TOKEN"
        ) from cause
    except (RepositoryNotFoundError, RevisionNotFoundError) as cause:
        # Without a token the Hub also answers 401 for what isn't there, so only a 404 is certain.
        kind = Absent if cause.response.status_code == 404 else FetchError
        raise kind(f"hf://{repo} isn't there, or is private and needs HF_TOKEN") from cause
    except HfHubHTTPError as cause:
        why = f"the Hub refused hf://{repo}: {one_line(cause)}"
        if _is_about_the_file(cause.response):
            raise FetchError(why) from cause
        raise with_wait(Unreachable(why), _told_to_wait(cause.response)) from cause
    except Exception as cause:
        raise Unreachable(
            f"the Hub at {redact(endpoint())} doesn't answer: {one_line(cause)}"
        ) from cause


def _is_about_the_file(answer: Any) -> bool:
    """Whether a refusal is the Hub's own, and of this file: no limit, no fault, no bad token."""
    own = any(name in answer.headers for name in ("X-Error-Code", "X-Error-Message"))
    return (
        own and 400 <= answer.status_code < 500 and answer.status_code not in (401, 407, 408, 429)
    )


def _pinned(repo: str, file: str, facts: Any, url: str) -> Located:
    if not (facts.commit_hash and facts.etag):
        raise Unreachable(f"something else than the Hub answers at {redact(endpoint())}")
    sha256 = facts.etag if facts.etag and re.fullmatch("[0-9a-f]{64}", facts.etag) else ""
    token = get_token() if urlsplit(facts.location).netloc == urlsplit(url).netloc else None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    source = Source(
        uri=f"hf://{repo}@{facts.commit_hash}/{file}",
        identity=f"commit={facts.commit_hash} etag={facts.etag} bytes={facts.size}",
        bytes=facts.size,
        sha256=sha256,
    )
    filesystem = fsspec.filesystem("http", encoded=True, client_kwargs=http_client(headers))
    return Located(source, filesystem, facts.location, renew=renewed)


def http_client(headers: dict[str, str]) -> dict[str, Any]:
    """aiohttp settings: a transfer can take any time, but silence is limited to `SILENCE`."""
    return {"headers": headers, "timeout": aiohttp.ClientTimeout(None, sock_read=SILENCE)}


def endpoint() -> str:
    """The address at which the Hub is asked."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT
