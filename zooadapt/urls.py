"""Where a user's folder or URL is, whichever process looks for it."""

from pathlib import Path

from zooadapt.errors import UsageError

_RAY_WORKING_DIR = "working_dir_files"
"""The folder in which Ray puts a job's temporary working directory."""


def absolute(url: str, option: str) -> str:
    """A local path made absolute; any other URL as it is.

    Raises UsageError, which names `option`, for an empty URL, and for a ``--dest`` inside Ray's
    temporary working directory, where it would vanish with the job.
    """
    if not url:
        raise UsageError(f"{option} is empty; give a folder or a URL")
    if ("://" in url and not url.startswith("file://")) or "::" in url:
        return url
    path = Path(url.removeprefix("file://")).expanduser().resolve()
    if _RAY_WORKING_DIR in path.parts and option == "--dest":
        raise UsageError(
            f"{option} {url} would lie in Ray's temporary working directory and vanish with the "
            f"job; give an absolute path or a URL, for example with ZOOADAPT_DEST"
        )
    return str(path)
