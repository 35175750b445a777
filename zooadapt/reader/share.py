"""Share a variant: a card beside its files, a citation, a repository on the Hugging Face Hub."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zooadapt.errors import RunError, UsageError, ZooadaptError, one_line
from zooadapt.names import CONFIG, WEIGHTS, companions
from zooadapt.reader import cache, card
from zooadapt.reader.card import Stated
from zooadapt.types import Row

CARD = "README.md"
"""The name that the Hub gives to cards."""

_log = logging.getLogger("zooadapt")


def write_card(folder: Path, row: Row) -> None:
    """Write a variant's card beside its files, unless another file has its name."""
    there = folder / CARD
    if there.exists() and not card.is_ours(there.read_text(encoding="utf-8", errors="replace")):
        _log.warning("%s was not written by zooadapt, so it was left unchanged", there)
        return
    config = json.loads((folder / CONFIG).read_text())
    with cache.replacing(there) as file:
        file.write_text(card.text(row, config, Stated.of(config)), encoding="utf-8")


def stated(row: Row, config: Mapping[str, Any], offline: bool = False) -> Stated:
    """What the source states of papers, data sets and DOIs; the Hub is asked unless `offline`."""
    if offline or not _repo(row):
        return Stated.of(config)
    try:
        from zooadapt.checkpoints import hub
    except ImportError:  # it takes huggingface_hub, which readers may lack
        return Stated.of(config)
    found = Stated.of(config, hub.tags(_repo(row)))
    of_datasets = [tag for name in found.datasets for tag in hub.tags(name, "dataset")]
    return replace(found, dataset_dois=Stated.of({}, of_datasets).dois)


@dataclass(frozen=True)
class Upload:
    """What is to be a repository on the Hub."""

    repo: str
    private: bool
    card: str
    files: Mapping[str, Path | bytes]
    """The files by their names in the repository: on this machine, or their content."""

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each file."""
        return {
            name: file.stat().st_size if isinstance(file, Path) else len(file)
            for name, file in self.files.items()
        }

    def send(self) -> str:
        """Make the repository, if it isn't there, and put the files there in one commit.

        Returns its URL. Raises UsageError where the repository is there and isn't as private as
        this upload, and RunError where the Hub refuses or doesn't answer.
        """
        from huggingface_hub import CommitOperationAdd, HfApi

        from zooadapt.checkpoints import hub

        api = HfApi(hub.endpoint())
        with _refused(self.repo):
            api.create_repo(self.repo, private=self.private, exist_ok=True)
            if bool(api.model_info(self.repo).private) != self.private:
                raise UsageError(
                    f"{self.repo} is public: give --public (in Python, public=True)"
                    if self.private
                    else f"{self.repo} is private: leave out --public, or make it public on the Hub"
                )
            operations = [CommitOperationAdd(name, file) for name, file in self.files.items()]
            api.create_commit(self.repo, operations, commit_message="A variant made by zooadapt")
        return f"{hub.endpoint()}/{self.repo}"


def check(repo: str, offline: bool, dry_run: bool = False) -> None:
    """Raise UsageError for what would stop a push to `repo` in the end, before anything is made."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as cause:
        raise UsageError(f"{repo} can't be a repository's name: {one_line(cause)}") from cause
    if "/" not in repo:
        raise UsageError(f"{repo}: name the owner too, as in OWNER/{repo}")
    if dry_run:
        return
    if offline:
        raise UsageError("push needs the network: leave out --offline, or unset ZOOADAPT_OFFLINE")
    if not get_token():
        raise UsageError(
            "pushing needs a token of the Hub that may write: run `hf auth login`, or set HF_TOKEN"
        )


def prepare(
    repo: str, folder: Path, row: Row, license: str | None, public: bool, offline: bool = False
) -> Upload:
    """Put together what `repo`, OWNER/NAME, is to hold: the variant of `row` and its card.

    `license` names the licence where the row states none. Unless `offline`, the Hub is asked what
    it knows of the original; for a `public` copy of a gated one there is a warning. Raises
    UsageError where no licence is known, or another one is stated.
    """
    known = row["license"] if row["license"] != "unknown" else None
    row = {**row, "license": known}
    if not (known or license):
        raise UsageError(
            f"the source of {row['model']} states no licence: give --license NAME (in Python, "
            f"license=NAME), such as apache-2.0"
        )
    if known and license not in (None, known):
        raise UsageError(f"{row['model']} is under {known}, as its source states: leave out "
                         f"--license {license}")  # fmt: skip
    content = (folder / CONFIG).read_bytes()
    config = json.loads(content)
    if public and not offline and _is_gated(_repo(row)):
        _log.warning("%s is gated: see whether its terms let you share copies", _repo(row))
    given = "" if known else str(license)
    text = card.text(row, config, stated(row, config, offline), repo, given)
    files: dict[str, Path | bytes] = {WEIGHTS: folder / WEIGHTS, CONFIG: content}
    files |= companions(config) | {CARD: text.encode()}
    return Upload(repo, not public, text, files)


def _is_gated(repo: str) -> bool:
    """Whether the Hub lets people have a repository only under terms; False where it isn't said."""
    from huggingface_hub import HfApi

    from zooadapt.checkpoints import hub

    with suppress(Exception):
        return bool(repo and HfApi(hub.endpoint()).model_info(repo, timeout=10).gated)
    return False


def _repo(row: Row) -> str:
    """The Hub's repository of the row's original; "" where it is from elsewhere."""
    repo, _, _ = str(row["source_uri"]).removeprefix("hf://").partition("@")
    return repo if row["source_uri"].startswith("hf://") else ""


@contextmanager
def _refused(repo: str) -> Iterator[None]:
    """Raise RunError for whatever goes wrong with the Hub in the block."""
    try:
        yield
    except ZooadaptError:
        raise
    except Exception as cause:  # huggingface_hub raises those of its HTTP library, too
        status = getattr(getattr(cause, "response", None), "status_code", 0)
        remedy = "; is the token valid, and may it write there?" if status in (401, 403) else ""
        raise RunError(f"{repo} wasn't pushed: {one_line(cause)}{remedy}") from cause
