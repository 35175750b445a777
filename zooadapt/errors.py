"""The errors of zooadapt, in one tree. Each message is one line that names input and remedy.

    ZooadaptError
    ├── UsageError            the arguments or the config are wrong            (exit code 2)
    ├── RunError              the run can't go on                             (exit code 3)
    │   └── Damaged           a record or a table of the mirror can't be understood
    ├── Conflict              another process changed an object before it was replaced
    └── StageError            one model failed at one stage; the other models go on
        ├── FetchError        the checkpoint can't be read, or has other bytes than stated
        │   ├── Absent        the source answers that the checkpoint isn't there
        │   └── Unreachable   the source doesn't answer, or something else answers in its place
        ├── CheckpointError   the checkpoint is damaged, unsafe, or doesn't fit the model
        ├── StemError         the tensors that read the image can't be determined
        │   └── Unsupported   the model can't be adapted to the target
        ├── PublishError      the variant's objects can't be written
        │   └── StoreUnreachable   the mirror's store is out of reach, or has no room
        ├── ValidationError   the variant can't be read back, run, or proved
        ├── WorkerDied        the process that worked on the model died
        └── TooLarge          no node has enough memory for the model

Every error takes one argument, its message, so that it can be pickled between processes.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class ZooadaptError(Exception):
    """Base of all errors that zooadapt raises on purpose."""


class UsageError(ZooadaptError):
    """The arguments, the environment or the config are wrong. Nothing was started."""


class RunError(ZooadaptError):
    """The run can't go on. Its records stay; run the same command again to resume."""


class Damaged(RunError):
    """A record or a table of the mirror was truncated, or changed after it was written."""


class Conflict(ZooadaptError):
    """Another process changed an object after we had read it and before we replaced it."""


class StageError(ZooadaptError):
    """One model failed at `stage`. `error_type` names the class of the cause."""

    stage = ""
    """The stage's name in records and in ``failures.parquet``."""

    passes = False
    """Whether the cause is no fault of the model and may pass by itself. Then nothing is recorded,
    and the next run takes the model up again."""

    until = 0.0
    """When a source that limits requests takes them again, as it says, in seconds since the epoch;
    0 where it doesn't say."""

    @property
    def error_type(self) -> str:
        """The class name of this error's cause, or of this error if it has none."""
        return type(self.__cause__ or self).__name__


class FetchError(StageError):
    """The checkpoint can't be read from its source, or has other bytes than the source states."""

    stage = "fetch"


class Absent(FetchError):
    """The source answers that the checkpoint isn't there. It may have been removed."""


class Unreachable(FetchError):
    """The source gives no answer about the model: none at all, or one about something else.

    Such are a limit of requests, a fault of the server, and credentials that aren't valid.
    """

    passes = True


class CheckpointError(StageError):
    """The checkpoint is damaged, would run code when read, or doesn't fit the model."""

    stage = "checkpoint"


class StemError(StageError):
    """The tensors that read the image, or how they read it, can't be determined."""

    stage = "stems"


class Unsupported(StemError):
    """The model is known not to be adaptable to the target. Trying again won't help."""


class PublishError(StageError):
    """The variant's objects can't be written to the mirror."""

    stage = "publish"


class StoreUnreachable(PublishError):
    """The mirror's store gives no answer, refuses the credentials, or has no room."""

    passes = True


class ValidationError(StageError):
    """The published variant can't be read back, run, or proved."""

    stage = "validate"


class WorkerDied(StageError):
    """The process that worked on the model was killed, ran out of memory, or lost its node."""

    stage = "worker"


class DeviceLost(Exception):
    """This process can't use its device any more. Only a new process can continue the work."""


class TooLarge(StageError):
    """No node of the cluster has as much memory as the model may need."""

    stage = "worker"


@contextmanager
def stage(error: type[StageError]) -> Iterator[None]:
    """Re-raise any exception of the block as `error`, unless it is a StageError already."""
    try:
        yield
    except StageError:
        raise
    except Exception as cause:
        raise error(one_line(cause)) from cause


@contextmanager
def reaching_store() -> Iterator[None]:
    """Re-raise an error of the store in the block as StoreUnreachable.

    FileNotFoundError is none: it is what the store says of one object.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as cause:
        if not is_of_store(cause):
            raise
        raise StoreUnreachable(f"the store can't be used: {one_line(cause)}") from cause


def is_of_store(error: Exception) -> bool:
    """Whether an error tells of a store's filesystem, network or server."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or library in ("botocore", "aiohttp")


_REMEDIES = (
    (
        re.compile(r"Unable to locate credentials"),
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket give --anon, or the "
        "storage option anon",
    ),
    (
        re.compile(r"Could not connect to the endpoint URL"),
        "AWS_ENDPOINT_URL must name the store's server, or be unset for AWS",
    ),
    (
        re.compile(r"InvalidAccessKeyId|SignatureDoesNotMatch|Access Key Id you provided"),
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be valid at AWS_ENDPOINT_URL",
    ),
)
"""What to do, by what stores and their libraries say."""


def one_line(error: BaseException, limit: int = 400) -> str:
    """The error's message as one line, without secrets, and with a remedy if there is one.

    The message is cut to at most `limit` characters.
    """
    text = redact(" ".join(str(error).split()) or type(error).__name__)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    remedies = [remedy for said, remedy in _REMEDIES if said.search(text) and remedy not in text]
    return f"{text} ({remedies[0]})" if remedies else text


def reason(cause: Exception) -> str:
    """A phrase that says what is wrong with a file, made from the error of reading the file."""
    return f"it has no {cause}" if isinstance(cause, KeyError) else one_line(cause)


def some(names: Sequence[str], most: int = 4) -> str:
    """The first `most` names and the number of the others: "a, b, c, d and 3 more", or "none"."""
    shown = ", ".join(names[:most]) or "none"
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


_SECRET_NAME = r"[\w-]*(?:signature|secret|token|password|credential)[\w-]*"
_SECRETS = [
    ("@", re.compile(r"(?<=://)[^/\s]+@"), ""),  # user:password@ in URLs
    ("?", re.compile(r"(\w://[^\s?'\"]+)\?[^\s'\")]*"), r"\1"),  # signed query strings
    ("", re.compile(r"(?i)\b(bearer|token)\s+[\w.\-]{8,}"), r"\1 …"),
    ("hf_", re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "hf_…"),
    ("=", re.compile(rf"(?i)({_SECRET_NAME}=)[^\s&'\",;)]+"), r"\1…"),  # a query string alone
    (
        ": ",
        re.compile(rf"(?i)(['\"]{_SECRET_NAME}['\"]: ['\"])[^'\"]+"),
        r"\1…",
    ),  # a printed dict of options
]
"""(mark, pattern, replacement). A text without the mark can't match the pattern; looking for the
mark first is much faster."""


def redact(text: str) -> str:
    """`text` without passwords, signed query strings and tokens."""
    for mark, pattern, replacement in _SECRETS:
        if mark in text:
            text = pattern.sub(replacement, text)
    return text
