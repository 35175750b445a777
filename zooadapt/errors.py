"""The errors of zooadapt: one tree, each one line that names the input and the remedy.

    ZooadaptError
    ├── UsageError            the arguments or the config are wrong            (exit code 2)
    ├── RunError              the run can't go on                             (exit code 3)
    │   └── Damaged           a record or a table of the mirror can't be understood
    ├── Conflict              somebody else changed an object we meant to replace
    └── StageError            one model failed at one stage; the others go on
        ├── FetchError        its checkpoint can't be had, or isn't the stated one
        │   ├── Absent        its source answers that it isn't there
        │   └── Unreachable   its source gives no answer
        ├── CheckpointError   its checkpoint can't be read, or doesn't fit the model
        ├── StemError         its stems can't be told
        │   └── Unsupported   its stems are known not to be adaptable
        ├── PublishError      its objects can't be written
        ├── ValidationError   its variant was run and isn't what it should be
        └── WorkerDied        the process that worked on it was killed

Each takes one message, so that each survives pickling between processes.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class ZooadaptError(Exception):
    """Base of all errors that zooadapt raises on purpose."""


class UsageError(ZooadaptError):
    """The arguments, the environment or the config are wrong; nothing was started."""


class RunError(ZooadaptError):
    """The run can't go on; what was recorded so far stays, and the same command resumes."""


class Damaged(RunError):
    """A record or a table of the mirror isn't what was written: truncated, or changed."""


class Conflict(ZooadaptError):
    """An object was changed by somebody else between reading and replacing it."""


class StageError(ZooadaptError):
    """One model failed at `stage`. `error_type` names the class of the cause."""

    stage = ""

    @property
    def error_type(self) -> str:
        """The class name of the error that caused this one, or of this one."""
        return type(self.__cause__ or self).__name__


class FetchError(StageError):
    """The checkpoint can't be had, or its bytes aren't the ones its source states."""

    stage = "fetch"


class Absent(FetchError):
    """The source answers that the checkpoint isn't there, and may have been once."""


class Unreachable(FetchError):
    """The source gives no answer at all, not even a refusal."""


class CheckpointError(StageError):
    """The checkpoint can't be read without running its code, or doesn't fit the model."""

    stage = "checkpoint"


class StemError(StageError):
    """It can't be told which tensors read the image, or how."""

    stage = "stems"


class Unsupported(StemError):
    """The model is known not to be adaptable; trying again won't help."""


class PublishError(StageError):
    """The variant's objects can't be written to the mirror."""

    stage = "publish"


class ValidationError(StageError):
    """The published variant can't be read back, run, or proved."""

    stage = "validate"


class WorkerDied(StageError):
    """The process that worked on the model ended: killed, out of memory, or its node went."""

    stage = "worker"


class DeviceLost(Exception):
    """The device of this process can't be used any more; only another process can go on."""


class TooLarge(StageError):
    """No node of the cluster has the memory that the model may take."""

    stage = "worker"


@contextmanager
def stage(error: type[StageError]) -> Iterator[None]:
    """Turn any unforeseen exception of the block into `error`."""
    try:
        yield
    except StageError:
        raise
    except Exception as cause:
        raise error(one_line(cause)) from cause


def one_line(error: BaseException, limit: int = 400) -> str:
    """The error's message on one line of at most `limit` characters, without secrets."""
    text = redact(" ".join(str(error).split()) or type(error).__name__)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def reason(cause: Exception) -> str:
    """What is wrong with a file's content, from the error that reading it led to."""
    return f"it has no {cause}" if isinstance(cause, KeyError) else one_line(cause)


def some(names: Sequence[str], most: int = 4) -> str:
    """The first of the names, and how many more there are: "a, b, c, d and 3 more"; or "none"."""
    shown = ", ".join(names[:most]) or "none"
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


_SECRET_NAME = r"[\w-]*(?:signature|secret|token|password|credential)[\w-]*"
_SECRETS = [
    ("@", re.compile(r"(?<=://)[^/\s]+@"), ""),  # user:password@ in URLs
    ("?", re.compile(r"(\w://[^\s?'\"]+)\?[^\s'\")]*"), r"\1"),  # signed query strings
    ("", re.compile(r"(?i)\b(bearer|token)\s+[\w.\-]{8,}"), r"\1 …"),
    ("hf_", re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "hf_…"),
    ("=", re.compile(rf"(?i)({_SECRET_NAME}=)[^\s&'\",;)]+"), r"\1…"),  # of a query alone
    (": ", re.compile(rf"(?i)(['\"]{_SECRET_NAME}['\"]: ['\"])[^'\"]+"), r"\1…"),  # options
]
"""What is in every text that a pattern changes, as that is told much sooner; and the patterns."""


def redact(text: str) -> str:
    """`text` without passwords, signed query strings and tokens."""
    for mark, pattern, replacement in _SECRETS:
        if mark in text:
            text = pattern.sub(replacement, text)
    return text
