"""What the loopback Hub does for those who write: repositories, LFS uploads, and commits.

The requests are those of huggingface_hub's `create_repo`, `create_commit` and `model_info`; what
each of them holds and how it is answered is in huggingface_hub's `_commit_api.py` and `lfs.py`.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_WRITES = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main")
_BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Uploads:
    """The repositories that were made on a hub, and who may write."""

    root: Path
    writer: str | None = None
    """The token that may write; None where nobody may."""
    visible: dict[str, str] = field(default_factory=dict)
    """Whether each repository that was made is "private" or "public"."""
    commits: list[str] = field(default_factory=list)
    """The repositories of the commits, in their order."""
    sent: dict[str, bytes] = field(default_factory=dict)
    """LFS objects by sha256."""

    def answer(self, path: str, token: str, body: bytes, url: str) -> tuple[int, Any]:
        """The status and the JSON that answer a POST or PUT."""
        if path.startswith("/lfs/"):
            return self._keep(path.removeprefix("/lfs/"), body)
        if self.writer is None or token != f"Bearer {self.writer}":
            return 403, {"error": "this token may not write"}
        asked = json.loads(body) if "commit" not in path else {}
        if path == "/api/repos/create":
            return self._create(asked)
        if path == "/api/validate-yaml":
            return self._validate(asked["content"])
        if _BATCH.fullmatch(path):
            return 200, self._batch(asked, url)
        if not (written := _WRITES.fullmatch(path)):
            return 404, {}
        does: Callable[[], Any] = {
            "preupload": lambda: self._modes(asked),
            "commit": lambda: self._commit(written[1], body),
        }[written[2]]
        return 200, does()

    def _keep(self, oid: str, body: bytes) -> tuple[int, Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "other bytes than were announced"}
        self.sent[oid] = body
        return 200, {}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{asked['organization']}/{asked['name']}"
        if (self.root / repo).exists():
            return 409, {"error": "it is there", "url": repo}
        (self.root / repo).mkdir(parents=True)
        self.visible[repo] = asked.get("visibility") or (
            "private" if asked.get("private") else "public"
        )
        return 200, {"url": repo, "name": repo, "id": repo}

    def _validate(self, content: str) -> tuple[int, Any]:
        front = yaml.safe_load(content.split("---\n")[1])
        bad = [] if isinstance(front, dict) else [{"message": "no metadata"}]
        return (400 if bad else 200), {"errors": bad, "warnings": []}

    def _modes(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {
            "files": [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in asked["files"]
            ]
        }

    def _batch(self, asked: dict[str, Any], url: str) -> dict[str, Any]:
        return {
            "transfer": "basic",
            "objects": [
                {**each, "actions": {"upload": {"href": f"{url}/lfs/{each['oid']}"}}}
                for each in asked["objects"]
            ],
        }

    def _commit(self, repo: str, body: bytes) -> dict[str, Any]:
        for line in map(json.loads, body.splitlines()):
            value, folder = line["value"], self.root / repo
            if line["key"] == "file":
                (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                (folder / value["path"]).write_bytes(self.sent[value["oid"]])
        self.commits.append(repo)
        return {
            "commitUrl": f"https://huggingface.co/{repo}/commit/{'c' * 40}",
            "commitOid": "c" * 40,
        }
