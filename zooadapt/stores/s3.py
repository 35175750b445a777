"""A store below a prefix of an S3 bucket."""

import errno
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial

from zooadapt.errors import Conflict, PublishError
from zooadapt.ranges import in_order
from zooadapt.stores import multipart
from zooadapt.stores.shared_bytes import SharedBytes, md5
from zooadapt.stores.store import Chunks, Store

_COPIES = 4
"""Parts that are copied at the same time."""


class S3Store(Store):
    """A store below a prefix of an S3 bucket."""

    protocols = ("s3",)
    composes = True

    def compose(self, key: str, head: bytes, shared: SharedBytes) -> bool | None:
        """See `Store.compose`. The head and the first shared bytes are sent; S3 copies the rest."""
        where, etag = self._place(shared.key), self.version(shared.key)
        sent = b"".join([head, *shared.bytes(0, shared.parts[0][0])])
        try:
            with self._upload(key) as upload, ThreadPoolExecutor(_COPIES) as pool:
                etags_are_md5s = upload.send(1, sent).strip('"') == md5(sent)

                def copied(number: int, start: int, stop: int) -> bool | None:
                    first, last = shared.start + start, shared.start + stop
                    stated = upload.copy(number, where, etag, first, last)
                    return shared.is_stated(stated, start, stop) if etags_are_md5s else None

                parts = zip(*shared.parts, strict=True)
                verdicts = list(pool.map(copied, itertools.count(2), *parts))
                if False in verdicts:
                    raise PublishError(
                        f"the store copied other bytes into {key} than {shared.key} has; "
                        f"check the store, then --retry-failed"
                    )
                upload.complete(len(head) + shared.size)
        except OSError:  # perhaps the store can't copy: the caller sends the whole object
            return None
        return all(verdicts)

    def _place(self, key: str) -> dict[str, str]:
        return multipart.place(self.fs, self.path(key))

    def _upload(self, key: str) -> AbstractContextManager[multipart.Multipart]:
        return multipart.multipart(self.fs, self.path(key))

    def write(self, key: str, chunks: Chunks) -> None:
        """Write an object, in parts if it is large. A failed upload is aborted, never visible."""
        multipart.upload(self.fs, self.path(key), chunks)

    def chunks(self, key: str, start: int = 0) -> Iterator[bytes]:
        """See `Store.chunks`. Several blocks are read at the same time."""
        return in_order(partial(self.read_range, key), self.size(key), start)

    def list(self, prefix: str) -> list[str]:
        """See `Store.list`. Only keys are kept: the facts of a million objects take gigabytes."""
        bucket, folder, _ = self.fs.split_path(f"{self.path(prefix).rstrip('/')}/")
        start = len(self.root) - len(bucket)
        page, found = {"Bucket": bucket, "Prefix": folder}, []
        while page:
            try:
                answer = multipart.call_s3(self.fs, "list_objects_v2", **page)
            except FileNotFoundError:  # there is no such bucket
                return []
            # SeaweedFS lists an emptied folder as an object, with "/" at the end of its key
            keys = (entry["Key"] for entry in answer.get("Contents", ()))
            found += [key[start:] for key in keys if not key.endswith("/")]
            next_page = answer.get("NextContinuationToken")
            page = {**page, "ContinuationToken": next_page} if next_page else {}
        return sorted(found)

    def version(self, key: str) -> str | None:
        """The object's ETag; None if absent."""
        self.fs.invalidate_cache()
        try:
            return str(self.fs.info(self.path(key))["ETag"])
        except FileNotFoundError:
            return None

    def age(self, key: str) -> timedelta:
        """See `Store.age`. Every answer of S3 tells the time."""
        answer = multipart.call_s3(self.fs, "head_object", **self._place(key))
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        written: datetime = answer["LastModified"]
        return now - written

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """See `Store.replace`. It is a PUT with If-Match, or If-None-Match: * for a new object."""
        where = self._place(key)
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            self.fs.call_s3("put_object", **where, Body=data, **condition)
        except OSError as cause:
            if not _refused(cause):
                raise
            # The write may have succeeded and its answer been lost; then the retry is refused.
            if not self.exists(key) or self.read(key) != data:
                raise Conflict(f"{key} was changed by another job") from cause

    def session(self, run_id: str) -> AbstractContextManager[None]:
        """Do nothing: any number of jobs can share an S3 mirror."""
        return nullcontext()

    def unfinished(self, prefix: str) -> Sequence[multipart.Unfinished]:
        """See `Store.unfinished`. The parts cost as much as objects, and no listing shows them."""
        start = len(self.root) + 1
        found = multipart.unfinished(self.fs, self.path(prefix))
        uploads = [replace(upload, key=upload.key[start:]) for upload in found]
        return [each for each in uploads if f"{each.key}/".startswith(f"{prefix}/")]

    def abort(self, upload: multipart.Unfinished) -> None:
        """See `Store.abort`. Does nothing if the upload was completed or aborted meanwhile."""
        multipart.abort(self.fs, self.path(upload.key), upload.id)


def _refused(error: OSError) -> bool:
    """Whether S3 refused a conditional write: with 412, or with 409 because of another write.

    s3fs translates a 412 to EINVAL (errors.py of s3fs 2026.9).
    """
    refused = isinstance(error, FileExistsError) or error.errno == errno.EINVAL
    return refused or multipart.http_status(error) in (409, 412)
