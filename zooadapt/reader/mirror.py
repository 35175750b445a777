"""The reader's side: find a variant in a mirror, pull it, load it, or have made what is lacking.

import zooadapt
mirror = zooadapt.open_mirror("s3://bucket/mirror")
mirror.find(model="resnet*", bands="sentinel2-l2a")
model = mirror.load("resnet18.a1_in1k", bands="sentinel2-l2a")

To find and to pull needs no torch; what does is imported when it is used.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from zooadapt.bands import parse
from zooadapt.errors import UsageError
from zooadapt.names import CONFIG, safe
from zooadapt.reader import cache, manifests
from zooadapt.reader.manifests import Manifests, State
from zooadapt.stores.opening import open_store
from zooadapt.targets import Target
from zooadapt.types import Row
from zooadapt.urls import absolute
from zooadapt.zoos import registry

if TYPE_CHECKING:
    from torch import nn

_PINNED = re.compile(r"(.+)/manifest@([^/]+)")

Options = Mapping[str, Any]


def open_mirror(
    url: str | Sequence[str] | None = None,
    storage_options: Options | Sequence[Options] | None = None,
    *,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
) -> "Mirror":
    """The mirror at `url`, any fsspec URL or local path; several are asked in the order given.

    By default those that ``ZOOADAPT_MIRROR`` names, separated by spaces. ``<url>/manifest@<at>`` is
    the mirror as a run left it (its id) or as it was at a date. `storage_options` are fsspec's, for
    all or for each, such as ``{"anon": True}`` for a public bucket. `cache_dir` is where variants
    are kept, by default ``ZOOADAPT_CACHE`` or the user's cache folder. With `offline`, or
    ``ZOOADAPT_OFFLINE=1``, only what is on this machine is used.

    Raises UsageError where no mirror is named, or fsspec knows no such URL.
    """
    urls = [url] if isinstance(url, str) else list(url or _named_by_environment())
    if isinstance(storage_options, Mapping) or storage_options is None:
        storage_options = [storage_options or {}] * len(urls)
    if len(storage_options) != len(urls):
        raise UsageError(f"{len(storage_options)} storage_options for {len(urls)} mirrors")
    if offline is None:
        offline = os.environ.get("ZOOADAPT_OFFLINE", "") not in ("", "0")
    opened = [_opened(*each) for each in zip(urls, storage_options, strict=True)]
    return Mirror(opened, Path(cache_dir) if cache_dir else cache.default_root(), offline)


def _named_by_environment() -> list[str]:
    urls = os.environ.get("ZOOADAPT_MIRROR", "").split()
    if not urls:
        raise UsageError("which mirror? give its URL or folder, or set ZOOADAPT_MIRROR")
    return urls


def _opened(url: str, options: Options) -> State:
    """The store at a URL, and what follows ``manifest@`` in it."""
    pinned = _PINNED.fullmatch(url)
    root, at = (pinned[1], pinned[2]) if pinned else (url, "")
    return open_store(absolute(root, "the mirror's URL"), dict(options)), at


class Mirror:
    """One mirror, or several that stand in for each other; only read."""

    def __init__(self, mirrors: Sequence[State], root: Path, offline: bool) -> None:
        """`root` is the cache's."""
        self.mirrors = mirrors
        self._manifests = Manifests(mirrors, root, offline)
        self._cache = cache.Cache(root, self._manifests.asked)

    def manifest(self) -> pd.DataFrame:
        """Every usable variant, one row each; read once. Of several mirrors each variant once.

        Raises UsageError where there is no mirror, RunError where its manifest is damaged or of a
        newer layout. Of several mirrors those that can't be read are named in the log.
        """
        return self._manifests.rows()

    def find(
        self,
        model: str = "*",
        in_chans: int | None = None,
        bands: str | None = None,
        scheme: str | None = None,
        **columns: Any,
    ) -> pd.DataFrame:
        """The variants that match: `bands` as for ``--bands``, other text as globs, others equal.

        A glob for `model` without a tag matches every tag, and one that begins with a zoo's name
        and "/" only that zoo's models; `license="unknown"` matches those without one. `bands`
        matches its names in their order, and a file of one's own only what was made from it. Raises
        UsageError for bands that can't be or a column that isn't there.
        """
        rows = self.manifest()
        models = zip(rows["zoo"], rows["model"], strict=True)
        rows = rows.loc[[registry.named(*each, model) for each in models]]
        if bands is not None:
            rows = manifests.with_bands(rows, bands)
        if scheme is not None:
            rows = rows.loc[[name.partition(".")[0] == scheme for name in rows["scheme"]]]
        for column, value in {"in_chans": in_chans, **columns}.items():
            if value is not None:
                rows = manifests.where(rows, column, value)
        return rows

    def pull(
        self,
        model: str,
        in_chans: int | None = None,
        bands: str | None = None,
        scheme: str | None = None,
        derive: bool = True,
        zoo: str | None = None,
        to: str | Path | None = None,
    ) -> Path:
        """A local folder; of timm's models ``timm.create_model("local-dir:<folder>", …)`` loads it.

        It has `in_chans` channels, or `bands` as for ``--bands``; the scheme is `repeat`, or
        `nearest` for bands, unless another is given. Every byte is verified, and what is in the
        cache isn't transferred again. `to` is the folder to write; else it is the cache's, or the
        mirror's own if it is on this machine.

        What the mirror lacks is made from any sibling and the original stem by the job's own code,
        and proved, which needs torch and timm; another order of bands that a row has is that row
        with its channels permuted. With `derive=False` that is an error.

        Raises UsageError where the model isn't in the mirror, or can't be had with these channels;
        FetchError where no mirror gives the right bytes; ValidationError where what was made
        doesn't pass its proof.
        """
        return self._pulled(model, (in_chans, bands, scheme), derive, zoo, to)[0]

    def load(
        self,
        model: str,
        in_chans: int | None = None,
        bands: str | None = None,
        scheme: str | None = None,
        derive: bool = True,
        zoo: str | None = None,
        **options: Any,
    ) -> "nn.Module":
        """What `pull` gives, loaded in eval mode; `options` are those of ``timm.create_model``.

        A timm model's ``pretrained_cfg`` has the input size, mean and std. One of another library
        takes that library's options. Raises as `pull` does, and UsageError where the installed timm
        is too old for the model.
        """
        from zooadapt.reader import load

        folder, row = self._pulled(model, (in_chans, bands, scheme), derive, zoo, None)
        return load.load(folder, row, options)

    def _pulled(
        self,
        model: str,
        wish: "_Wish",
        derive: bool,
        zoo: str | None,
        to: str | Path | None,
    ) -> tuple[Path, Row]:
        """The folder, and the row that it is of or was made from."""
        target = manifests.target(*wish)
        rows, folder = self.siblings(model, zoo), Path(to).absolute() if to else None
        alike = rows[rows["scheme"] == target.scheme]
        exact = alike[(alike["bands"] == target.names) & (alike["in_chans"] == target.in_chans)]
        if len(exact):
            row = _row(exact)
            return self._cache.pull(row, folder), row
        if not derive:
            there = rows["bands"].where(rows["bands"] != "", rows["in_chans"].astype(str))
            raise UsageError(
                f"the mirror has no such {model} under {target.scheme}; it is there for "
                f"{'; '.join(there.unique())}"
            )
        ordered = sorted(target.bands.names)
        same = alike.loc[[sorted(row.split(",")) == ordered for row in alike["bands"]]]
        if not len(same) and wish[1]:
            parse(wish[1])  # raises for names that only rows know
        row = _row(same if len(same) else rows)
        return self._derived(row, target, permuted=bool(len(same)), to=folder), row

    def siblings(self, model: str, zoo: str | None = None) -> pd.DataFrame:
        """The rows of one model. Raises UsageError where several match, or none.

        One that is called just so goes before those that match.
        """
        rows = self.find(model, zoo=zoo)
        called = rows["model"] == model
        called = called if called.any() else rows["zoo"] + "/" + rows["model"] == model
        rows = rows[called] if called.any() else rows
        names = sorted(set(rows["zoo"] + "/" + rows["model"]))
        if not names:
            raise UsageError(f"the mirror has no {model}; find() or zooadapt ls shows what it has")
        if len(names) > 1:
            raise UsageError(f"{model} could be {', '.join(names)}: name one, with its tag and zoo")
        return rows

    def _derived(self, row: Row, target: Target, permuted: bool, to: Path | None) -> Path:
        """A variant that the mirror lacks, made from one that it has; kept in the cache."""
        from zooadapt.reader import derived

        label = f"{target.label}-{row['source_sha256'][:16]}"
        kept = self._cache.root / "derived" / safe(row["zoo"]) / safe(row["model"]) / safe(label)
        with self._cache.made_once(kept, (kept / CONFIG).exists) as is_made:
            if not is_made:
                derived.pulled(self._cache, row).write(target, kept, permuted)
        return cache.copy(kept, to) if to else kept

    def verify(self, deep: bool = False) -> pd.DataFrame:
        """What is wrong with the mirror, one row each: `where` and `what`; empty if nothing is.

        As ``zooadapt verify``: every object is read, and with `deep` every variant proved again.
        Of several mirrors the first is checked.
        """
        from zooadapt.upkeep import verify

        store, _ = self.mirrors[0]
        wrong = [(found.where, found.what) for found in verify.verify(store, deep).wrong]
        return pd.DataFrame(wrong, columns=["where", "what"])


_Wish = tuple[int | None, str | None, str | None]
"""in_chans, bands and scheme, as a reader gives them."""


def _row(rows: pd.DataFrame) -> Row:
    """The first."""
    return {str(name): value for name, value in rows.iloc[0].items()}
