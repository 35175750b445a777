"""Places: the cache's folder, and users' folders and URLs, which every process must understand."""

import os
from pathlib import Path
from urllib.parse import quote

import platformdirs

from zooadapt.errors import UsageError

_RAY_WORKING_DIR = "working_dir_files"
"""The folder in which Ray puts a job's temporary working directory."""


def absolute(url: str, option: str) -> str:
    """The absolute path of a local `url`; any other URL unchanged.

    Raises UsageError, which names `option`, for an empty URL, and for a ``--dest`` inside
    Ray's temporary working directory, because the mirror would vanish with the job.
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


def cache_root() -> Path:
    """The folder that ``ZOOADAPT_CACHE`` names, or else the user's cache folder."""
    chosen = os.environ.get("ZOOADAPT_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("zooadapt")


def card(source: str) -> str:
    """The page of a checkpoint's model on the Hub; "" for a checkpoint from elsewhere."""
    repo = source.removeprefix("hf://").partition("@")[0]
    return f"https://huggingface.co/{quote(repo)}" if source.startswith("hf://") else ""
