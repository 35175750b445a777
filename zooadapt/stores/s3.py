"""A prefix of an S3 bucket."""

import errno
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from zooadapt.errors import Conflict, PublishError
from zooadapt.ranges import in_order
from zooadapt.stores import multipart
from zooadapt.stores.shared_bytes import SharedBytes, md5
from zooadapt.stores.store import Chunks, Store

_COPIES = 4
"""Parts copied at once."""


class S3Store(Store):
    """A prefix of an S3 bucket."""

    protocols = ("s3",)
    composes = True

    def compose(self, key: str, head: bytes, shared: SharedBytes) -> bool | None:
        """The head and the first bytes of the shared part are sent, and S3 copies the rest."""
        where, etag = self._place(shared.key), self.version(shared.key)
        sent = b"".join([head, *shared.bytes(0, shared.parts[0][0])])
        try:
            with self._upload(key) as made, ThreadPoolExecutor(_COPIES) as pool:
                md5s = made.send(1, sent).strip('"') == md5(sent)

                def copied(number: int, start: int, stop: int) -> bool | None:
                    first, last = shared.start + start, shared.start + stop
                    stated = made.copy(number, where, etag, first, last)
                    return shared.is_stated(stated, start, stop) if md5s else None

                parts = zip(*shared.parts, strict=True)
                verdicts = list(pool.map(copied, itertools.count(2), *parts))
                if False in verdicts:
                    raise PublishError(
                        f"the store copied other bytes into {key} than {shared.key} has"
                    )
                made.complete(len(head) + shared.size)
        except OSError:  # perhaps the store can't copy: it is sent whole instead
            return None
        return all(verdicts)

    def _place(self, key: str) -> dict[str, str]:
        return multipart.place(self.fs, self.path(key))

    def _upload(self, key: str) -> AbstractContextManager[multipart.Multipart]:
        return multipart.multipart(self.fs, self.path(key))

    def write(self, key: str, chunks: Chunks) -> None:
        """Write an object, in parts if it is large; one that fails is aborted, never visible."""
        multipart.upload(self.fs, self.path(key), chunks)

    def chunks(self, key: str) -> Iterator[bytes]:
        """As of any store, several blocks at once."""
        return in_order(lambda start, stop: self.read_range(key, start, stop), self.size(key))

    def list(self, prefix: str) -> list[str]:
        """As of any store, without keeping what S3 says of each: of a million that is gigabytes."""
        bucket, folder, _ = self.fs.split_path(f"{self.path(prefix).rstrip('/')}/")
        start = len(self.root) - len(bucket)
        page, found = {"Bucket": bucket, "Prefix": folder}, []
        while page:
            try:
                answer = multipart.call_s3(self.fs, "list_objects_v2", **page)
            except FileNotFoundError:  # there is no such bucket
                return []
            # SeaweedFS lists a folder that has become empty as itself
            keys = (entry["Key"] for entry in answer.get("Contents", ()))
            found += [key[start:] for key in keys if not key.endswith("/")]
            following = answer.get("NextContinuationToken")
            page = {**page, "ContinuationToken": following} if following else {}
        return sorted(found)

    def version(self, key: str) -> str | None:
        """The object's ETag; None if absent."""
        self.fs.invalidate_cache()
        try:
            return str(self.fs.info(self.path(key))["ETag"])
        except FileNotFoundError:
            return None

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """A PUT with If-Match, or If-None-Match: * for an object not there yet."""
        where = self._place(key)
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            self.fs.call_s3("put_object", **where, Body=data, **condition)
        except OSError as cause:
            if not _refused(cause):
                raise
            # The answer to a write that took effect may have been lost, and its repetition refused.
            if not self.exists(key) or self.read(key) != data:
                raise Conflict(f"{key} was changed by another job") from cause

    def session(self, run_id: str) -> AbstractContextManager[None]:
        """Any number of jobs may share an S3 mirror."""
        return nullcontext()

    def unfinished(self, prefix: str) -> Sequence[multipart.Unfinished]:
        """Multipart uploads, whose parts cost as much as objects and that no listing shows."""
        start = len(self.root) + 1
        found = multipart.unfinished(self.fs, self.path(prefix))
        uploads = [replace(upload, key=upload.key[start:]) for upload in found]
        return [each for each in uploads if f"{each.key}/".startswith(f"{prefix}/")]

    def abort(self, upload: multipart.Unfinished) -> None:
        """Nothing, where it was completed or aborted since."""
        multipart.abort(self.fs, self.path(upload.key), upload.id)


def _refused(error: OSError) -> bool:
    """Whether S3 refused a precondition: 412, or 409 for a write that was overtaken.

    s3fs translates the first to EINVAL (errors.py of s3fs 2026.9).
    """
    refused = isinstance(error, FileExistsError) or error.errno == errno.EINVAL
    return refused or multipart.http_status(error) in (409, 412)
