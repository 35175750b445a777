"""Share a variant: a card beside its files, a citation, a repository on the Hugging Face Hub."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zooadapt.errors import RunError, UsageError, one_line
from zooadapt.names import CONFIG, WEIGHTS, companions
from zooadapt.reader import cache, card
from zooadapt.reader.card import Stated
from zooadapt.types import Row

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
"""The name that the Hub gives to cards."""

_log = logging.getLogger("zooadapt")


def write_card(folder: Path, row: Row) -> None:
    """Write a variant's card beside its files."""
    config = json.loads((folder / CONFIG).read_text())
    with cache.replacing(folder / CARD) as file:
        file.write_text(card.text(row, config, Stated.of(config)), encoding="utf-8")


def stated(row: Row, config: Mapping[str, Any], offline: bool = False) -> Stated:
    """What the source states of papers, data sets and DOIs; the Hub is asked unless `offline`."""
    if offline or not _repo(row):
        return Stated.of(config)
    from zooadapt.checkpoints import hub  # it takes huggingface_hub, which readers may lack

    return Stated.of(config, hub.tags(_repo(row)))


@dataclass(frozen=True)
class Upload:
    """What is to be a repository on the Hub."""

    repo: str
    private: bool
    base: str
    """The original's repository; "" for an original from elsewhere."""
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

        Returns its URL. Raises UsageError where there is no token or the repository is public and
        the upload isn't, and RunError where the Hub refuses.
        """
        from huggingface_hub import CommitOperationAdd, HfApi, get_token

        from zooadapt.checkpoints import hub

        if not get_token():
            raise UsageError(
                "pushing needs a token of the Hub that may write: run `hf auth login`, or set "
                "HF_TOKEN"
            )
        api = HfApi(hub.endpoint())
        with _refused(self.repo):
            api.create_repo(self.repo, private=self.private, exist_ok=True)
            self._check_private(api)
            operations = [CommitOperationAdd(name, file) for name, file in self.files.items()]
            api.create_commit(self.repo, operations, commit_message="A variant made by zooadapt")
        return f"{hub.endpoint()}/{self.repo}"

    def _check_private(self, api: "HfApi") -> None:
        if self.private:
            if not api.model_info(self.repo).private:
                raise UsageError(f"{self.repo} is public: give --public (in Python, public=True)")
        elif self.base and api.model_info(self.base).gated:
            _log.warning("%s is gated: see whether its terms let you share copies", self.base)


def prepare(repo: str, folder: Path, row: Row, license: str | None, public: bool) -> Upload:
    """Put together what `repo`, OWNER/NAME, is to hold: the variant of `row` and its card.

    `license` replaces what the row states. Raises UsageError for an invalid name, and where no
    licence is known.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as cause:
        raise UsageError(f"{repo} can't be a repository's name: {one_line(cause)}") from cause
    if "/" not in repo:
        raise UsageError(f"{repo}: name the owner too, as in OWNER/{repo}")
    row = {**row, "license": license or row["license"]}
    if row["license"] in (None, "unknown"):
        raise UsageError(
            f"the source of {row['model']} states no licence: give --license NAME (in Python, "
            f"license=NAME), such as apache-2.0"
        )
    content = (folder / CONFIG).read_bytes()
    config = json.loads(content)
    text = card.text(row, config, stated(row, config), repo)
    files: dict[str, Path | bytes] = {WEIGHTS: folder / WEIGHTS, CONFIG: content}
    files |= companions(config) | {CARD: text.encode()}
    return Upload(repo, not public, _repo(row), text, files)


def _repo(row: Row) -> str:
    """The Hub's repository of the row's original; "" where it is from elsewhere."""
    repo, _, _ = str(row["source_uri"]).removeprefix("hf://").partition("@")
    return repo if row["source_uri"].startswith("hf://") else ""


@contextmanager
def _refused(repo: str) -> Iterator[None]:
    """Raise RunError for what the Hub answers to an upload in the block."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as cause:
        status = getattr(getattr(cause, "response", None), "status_code", 0)
        remedy = "; is the token valid, and may it write there?" if status in (401, 403) else ""
        raise RunError(f"{repo} wasn't pushed: {one_line(cause)}{remedy}") from cause
