"""Multipart uploads to S3. Their parts are sent, or copied by S3 from another object."""

import errno
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from botocore.exceptions import BotoCoreError
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from zooadapt.errors import one_line

PART = 32 * 2**20
"""Bytes of a part that is sent. S3 takes 5 MiB to 5 GiB, and up to 10,000 parts."""
_ATTEMPTS = 5
_PARTS_AT_ONCE = 4
"""Parts that are sent at the same time."""


def _overtaken(error: BaseException) -> bool:
    """Whether S3 answered 409 because of another write. s3fs and botocore don't retry that."""
    return isinstance(error, OSError) and http_status(error) == 409


def http_status(error: BaseException) -> int | None:
    """The HTTP status of the S3 answer that caused an error of s3fs; None without an answer."""
    response = getattr(error.__cause__, "response", {})
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


@retry(
    retry=retry_if_exception(_overtaken),
    stop=stop_after_attempt(_ATTEMPTS),
    wait=wait_random_exponential(max=5),
    reraise=True,
)
def call_s3(filesystem: Any, method: str, **arguments: Any) -> Any:
    """Call s3fs's ``call_s3``; retry a 409, which s3fs doesn't. Raises OSError on any failure."""
    try:
        return filesystem.call_s3(method, **arguments)
    except BotoCoreError as cause:
        raise OSError(errno.EIO, one_line(cause)) from cause


@dataclass
class Multipart:
    """A multipart upload in progress. Several threads can send and copy its parts."""

    filesystem: Any
    where: dict[str, str]
    """The object's bucket and key."""
    upload: dict[str, str]
    """The object's bucket and key, and the upload's id."""
    etags: dict[int, str] = field(default_factory=dict)
    """The ETags of the parts, by part number; the first part is 1."""

    def send(self, number: int, body: bytes | memoryview) -> str:
        """Send a part; returns the ETag that the store gives it."""
        answer = call_s3(
            self.filesystem, "upload_part", **self.upload, PartNumber=number, Body=body
        )
        self.etags[number] = answer["ETag"]
        return self.etags[number]

    def copy(
        self, number: int, source: dict[str, str], etag: str | None, start: int, stop: int
    ) -> str:
        """Copy bytes of `source`, if it still has `etag`, as a part; returns the part's ETag."""
        answer = call_s3(
            self.filesystem,
            "upload_part_copy",
            **self.upload,
            PartNumber=number,
            CopySource=source,
            CopySourceRange=f"bytes={start}-{stop - 1}",
            CopySourceIfMatch=etag,
        )
        self.etags[number] = answer["CopyPartResult"]["ETag"]
        return self.etags[number]

    def complete(self, size: int) -> None:
        """Make the object visible. The store refuses if the parts don't add up to `size` bytes."""
        parts = [{"PartNumber": n, "ETag": self.etags[n]} for n in sorted(self.etags)]
        call_s3(
            self.filesystem,
            "complete_multipart_upload",
            **self.upload,
            MultipartUpload={"Parts": parts},
            MpuObjectSize=size,
        )


@contextmanager
def multipart(filesystem: Any, path: str) -> Iterator[Multipart]:
    """An upload to the object at `path`, which the block has to `complete`.

    If the block doesn't, or if it raises, nothing becomes visible.
    """
    where = place(filesystem, path)
    answer = call_s3(filesystem, "create_multipart_upload", **where, **_kind(path))
    upload = {**where, "UploadId": answer["UploadId"]}
    try:
        yield Multipart(filesystem, where, upload)
    except BaseException:
        with suppress(Exception):
            call_s3(filesystem, "abort_multipart_upload", **upload)
        raise


@dataclass(frozen=True)
class Unfinished:
    """An upload that was begun and neither completed nor aborted."""

    key: str
    id: str
    begun: datetime
    bytes: int
    """The size of the parts that the store keeps."""


def unfinished(filesystem: Any, prefix: str) -> Iterator[Unfinished]:
    """The unfinished uploads to paths that begin with `prefix`; their `key` is the whole path."""
    call, where = filesystem.call_s3, place(filesystem, prefix)
    bucket, page = {"Bucket": where["Bucket"]}, {"Prefix": where["Key"]}
    while page:
        answer = call("list_multipart_uploads", **bucket, **page)
        for found in answer.get("Uploads", []):
            one = {**bucket, "Key": found["Key"], "UploadId": found["UploadId"]}
            with suppress(FileNotFoundError):  # completed or aborted meanwhile
                size = sum(part["Size"] for part in call("list_parts", **one).get("Parts", []))
                path = f"{where['Bucket']}/{found['Key']}"
                yield Unfinished(path, found["UploadId"], found["Initiated"], size)
        markers = {name: answer.get(f"Next{name}") for name in ("KeyMarker", "UploadIdMarker")}
        next_page = {name: marker for name, marker in markers.items() if marker}
        page = {"Prefix": where["Key"], **next_page} if next_page else {}


def abort(filesystem: Any, path: str, upload: str) -> None:
    """Abort an upload, if it is still there."""
    with suppress(FileNotFoundError):
        filesystem.call_s3("abort_multipart_upload", **place(filesystem, path), UploadId=upload)


def place(filesystem: Any, path: str) -> dict[str, str]:
    """The bucket and key of an object, as S3's calls name them."""
    bucket, key, _ = filesystem.split_path(path)
    return {"Bucket": bucket, "Key": key}


def _kind(path: str) -> dict[str, str]:
    """The content type of a page: without it, browsers save the page instead of showing it."""
    return {"ContentType": "text/html; charset=utf-8"} if path.endswith(".html") else {}


def upload(filesystem: Any, path: str, chunks: Iterable[bytes | memoryview]) -> None:
    """Write an object, in parts if it is large. It becomes visible at the end, as a whole.

    At most `_PARTS_AT_ONCE` parts are sent at the same time.
    """
    parts = _regrouped(chunks)
    first, second = next(parts, b""), next(parts, None)
    if second is None:
        call_s3(filesystem, "put_object", **place(filesystem, path), Body=first, **_kind(path))
        return
    with multipart(filesystem, path) as target, ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
        size, sending = 0, deque[Future[str]]()
        for number, part in enumerate(chain([first, second], parts), 1):
            if len(sending) == _PARTS_AT_ONCE:
                sending.popleft().result()
            sending.append(pool.submit(target.send, number, part))
            size += len(part)
        for sent in sending:
            sent.result()
        target.complete(size)


def _regrouped(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The same bytes in chunks of PART bytes; the last chunk is the rest."""
    waiting: list[bytes | memoryview] = []
    room = PART
    for chunk in chunks:
        rest = memoryview(chunk)
        while len(rest) >= room:
            yield b"".join([*waiting, rest[:room]])
            rest, waiting, room = rest[room:], [], PART
        waiting.append(rest)
        room -= len(rest)
    if room < PART:
        yield b"".join(waiting)
