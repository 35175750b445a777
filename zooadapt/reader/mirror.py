"""Read a mirror: find variants, pull or load them, and make variants that the mirror lacks.

    import zooadapt
    mirror = zooadapt.open_mirror("s3://bucket/mirror")
    mirror.find(model="resnet*", bands="sentinel2-l2a")
    model = mirror.load("resnet18.a1_in1k", bands="sentinel2-l2a")

Finding and pulling work without torch. Only loading or making a variant imports it.
"""

import difflib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zooadapt.bands import parse
from zooadapt.errors import UsageError
from zooadapt.mirror.manifest import MANIFEST
from zooadapt.names import CONFIG, source_stem
from zooadapt.reader import cache, card, kept, manifests, share
from zooadapt.reader.maker import Maker, tell
from zooadapt.reader.making import Making
from zooadapt.reader.manifests import Manifests, State
from zooadapt.reader.original import is_current, own_mirror
from zooadapt.stores.opening import open_store
from zooadapt.types import Row
from zooadapt.urls import absolute, cache_root
from zooadapt.zoos import registry

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

_PINNED = re.compile(r"(.+)/manifest@([^/]+)")

_UNNAMED = 4
"""The most channels that are taken for RGB and one more, so that nobody needs to name them."""

_log = logging.getLogger("zooadapt")

Options = Mapping[str, Any]


def open_mirror(
    url: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    storage_options: Options | Sequence[Options] | None = None,
    *,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
) -> "Mirror":
    """Open a mirror, to find, pull and load its variants.

    - `url`: a local folder or any fsspec URL; or several, which are tried in order. By default the
      URLs in ``ZOOADAPT_MIRROR``, separated by spaces; without one, the mirror is this machine's
      own, which holds what `pull` and `load` have made. ``<url>/manifest@<at>`` opens the mirror as
      it was: ``<at>`` is the id of the run that left it so, or a date such as ``2026-11-24``.
    - `storage_options`: fsspec's options, one mapping for all mirrors or one for each. For a public
      bucket they are ``{"anon": True}``.
    - `cache_dir`: the folder for pulled variants. By default ``ZOOADAPT_CACHE``, or else the user's
      cache folder.
    - `offline`: use only what is on this machine. By default whether ``ZOOADAPT_OFFLINE`` is set.

    Raises UsageError if fsspec doesn't know the kind of URL.
    """
    named = url or os.environ.get("ZOOADAPT_MIRROR", "").split()
    several = [named] if isinstance(named, str | PathLike) else named
    urls = [str(fspath(each)) for each in several]
    if isinstance(storage_options, Mapping) or storage_options is None:
        storage_options = [storage_options or {}] * len(urls)
    if len(storage_options) != len(urls):
        raise UsageError(
            f"{len(storage_options)} storage_options for {len(urls)} mirrors: give one for each"
        )
    if offline is None:
        offline = os.environ.get("ZOOADAPT_OFFLINE", "") not in ("", "0")
    opened = [_opened(*each) for each in zip(urls, storage_options, strict=True)]
    return Mirror(opened, Path(cache_dir) if cache_dir else cache_root(), offline)


def _opened(url: str, options: Options) -> State:
    """The store at a URL, and the run's id or the date after ``manifest@`` in the URL."""
    pinned = _PINNED.fullmatch(url)
    root, at = (pinned[1], pinned[2]) if pinned else (url, "")
    return open_store(absolute(root, "the mirror's URL"), dict(options)), at


class Mirror:
    """A read-only view of a mirror, or of several as if they were one. `open_mirror` makes it."""

    def __init__(self, mirrors: Sequence[State], root: Path, offline: bool) -> None:
        """`root` is the cache folder. Without `mirrors` this machine's own is read."""
        self.mirrors = mirrors or [(own_mirror(root), "")]
        self._is_own = not mirrors
        self._root, self._offline = root, offline
        self._manifests = Manifests(self.mirrors, root, offline, prunable=not mirrors)
        self._cache = cache.Cache(root, self._manifests.asked)

    def __repr__(self) -> str:
        """The mirror's URLs, and what it holds where that was read before."""
        urls = " ".join(store.url + (f"/manifest@{at}" if at else "") for store, at in self.mirrors)
        return f"<Mirror {urls}{self._manifests.summary()}>"

    def manifest(self) -> "pd.DataFrame":
        """The table of all usable variants, one row each. Only the first call reads the mirror.

        Of several mirrors, the first that has a variant gives its row, and mirrors that can't be
        read are named in warnings. Raises UsageError if there is no mirror, RunError if its
        manifest can't be read, is damaged or has a newer layout.
        """
        if self._is_empty():
            raise UsageError(
                "which mirror? give its URL or folder, or set ZOOADAPT_MIRROR; nothing was made on "
                "this machine yet"
            )
        return self._manifests.rows()

    def find(
        self,
        model: str = "*",
        in_chans: int | Sequence[int] | None = None,
        bands: str | Sequence[str] | None = None,
        scheme: str | None = None,
        **columns: Any,
    ) -> "pd.DataFrame":
        """The rows of the manifest that match all arguments.

        - `model`: a glob. Without a tag it matches every tag; with "<zoo>/" before it, it matches
          only models of that zoo.
        - `in_chans`: the number of channels, or several of which one must match.
        - `bands`: as for ``--bands``: a preset, names in their order (in a list too), or a YAML
          file. A file matches only variants that were made from it.
        - `scheme`: the name of a scheme, such as ``repeat``.
        - any other column: text is a glob, and other values must be equal. `license="unknown"`
          matches models without a licence.

        Raises UsageError for invalid bands or an unknown column.
        """
        rows = self.manifest()
        models = zip(rows["zoo"], rows["model"], strict=True)
        rows = rows.loc[[registry.named(*each, model) for each in models]]
        if bands is not None:
            rows = manifests.with_bands(rows, manifests.joined(bands) or "")
        if scheme is not None:
            rows = rows.loc[[name.partition(".")[0] == scheme for name in rows["scheme"]]]
        for column, value in {"in_chans": in_chans, **columns}.items():
            if value is not None:
                rows = manifests.where(rows, column, value)
        return rows

    def pull(
        self,
        model: str | PathLike[str],
        in_chans: int | None = None,
        bands: str | Sequence[str] | None = None,
        scheme: str | None = None,
        derive: bool = True,
        zoo: str | None = None,
        to: str | Path | None = None,
        prove: bool = True,
        device: str = "cpu",
    ) -> Path:
        """Pull a variant to this machine, and return its folder.

        ``timm.create_model("local-dir:<folder>", pretrained=True)`` loads the folder of a timm
        model. Every byte is verified, and what is in the cache isn't transferred again.

        - `model`: the model's name. Without its tag it means timm's default tag, or the only one
          that the mirror has. Where no mirror has the model, it is made from the original weights;
          then it can also be a folder with a checkpoint of your own, or ``hf-hub:OWNER/NAME``.
        - `in_chans` or `bands`: the number of channels, or the bands as for ``--bands``.
        - `scheme`: by default ``repeat`` for `in_chans`; for `bands` the scheme that the mirror
          has, else ``rgb-only`` where bands and model have red, green and blue, else ``nearest``.
        - `derive`: whether to make a variant that the mirror lacks. It is made from another variant
          of the model and the original stem, as a job makes it, and proved; from the original
          weights where the mirror lacks the model. This needs torch and timm. If the mirror has the
          bands in another order, the channels are permuted.
        - `zoo`: the model's zoo, if several zoos have a model of this name.
        - `to`: the folder to write. By default the variant stays in the cache, or in the mirror if
          the mirror is on this machine.
        - `prove`: whether a variant that is made here is run and compared with the original. If
          not, only its stored bits are compared with W·M. It is kept apart, so that a later call
          proves it.
        - `device`: where it is run, such as ``cuda:0``. By default the CPU: several processes of
          one training would all take a GPU.

        Raises UsageError if the mirror lacks the model, or lacks the variant and it can't be made,
        and where `to` holds a model that isn't zooadapt's; FetchError if no mirror gives the right
        bytes; ValidationError if the variant that was made fails its proof.
        """
        making = Making(derive, prove, device)
        return self.pulled(model, (in_chans, bands, scheme), making, zoo, to)[0]

    def load(
        self,
        model: str | PathLike[str],
        in_chans: int | None = None,
        bands: str | Sequence[str] | None = None,
        scheme: str | None = None,
        derive: bool = True,
        zoo: str | None = None,
        prove: bool = True,
        device: str = "cpu",
        **options: Any,
    ) -> "nn.Module":
        """Pull a variant, and load it in train mode, as timm does. The arguments are as for `pull`.

        `options` go to ``timm.create_model``, or to the loader of the model's own library. What is
        proved is the stored variant: a ``checkpoint_path`` is loaded over it, as in timm. A timm
        model's ``pretrained_cfg`` holds the input size, mean and std. Raises as `pull` does, and
        UsageError if the installed timm is too old for the model.
        """
        from zooadapt.reader import load

        manifests.target(in_chans, bands, scheme)  # raises UsageError for wrong types
        if in_chans and in_chans > _UNNAMED:
            _log.warning(
                "the %d channels read the original's in turn (red, green, blue, red, …); bands= "
                "says what they are, such as bands='sentinel2-l2a'", in_chans,
            )  # fmt: skip
        making = Making(derive, prove, device)
        folder, row = self.pulled(model, (in_chans, bands, scheme), making, zoo, None)
        return load.load(folder, row, options)

    def pulled(
        self,
        model: str | PathLike[str],
        wish: "_Wish",
        making: Making,
        zoo: str | None,
        to: str | Path | None,
    ) -> tuple[Path, Row]:
        """Do what `pull` does; `wish` is (in_chans, bands, scheme).

        Returns the variant's folder and its row.
        """
        most = kept.limit()  # raises UsageError before anything is done
        maker = Maker(self._cache, self._offline, making)
        to = Path(to).absolute() if to else None
        if to:
            cache.check_folder(to)
        folder, row = self._chosen(fspath(model), wish, maker, zoo, to)
        if to:
            share.write_card(folder, row)
        if most is not None:
            kept.prune(self._root, most, spare=folder)
        return folder, row

    def _chosen(
        self, model: str, wish: "_Wish", maker: Maker, zoo: str | None, to: Path | None
    ) -> tuple[Path, Row]:
        """The variant that is there, else one that is made from another, else from the original."""
        target, asked = manifests.target(*wish), manifests.joined(wish[1])
        rows = [] if self._is_empty() else self._manifests.named(model, zoo)
        if self._is_own:
            rows = [row for row in rows if is_current(row)]
        if not rows:
            if maker.making.derive and (self._is_own or not len(self._of(model, zoo))):
                if asked:
                    parse(asked)  # raises UsageError for unknown names
                return maker.from_original(model, target, zoo, to)
            rows = _rows(self.siblings(model, zoo))
        alike = manifests.preferred([row for row in rows if target.admits(row["scheme"])])
        for row in alike:
            if (row["in_chans"], row["bands"]) == (target.in_chans, target.names):
                there = self._there(row, to)
                tell(row, target, there)
                return there, row
        if not maker.making.derive:
            under = "" if target.is_open else f" under {target.scheme}"
            has = dict.fromkeys(row["bands"] or str(row["in_chans"]) for row in rows)
            raise UsageError(
                f"the mirror has no {model} for {target.short} channels{under}, but for "
                f"{'; '.join(has)}: choose one of these, or let it be derived"
            )
        ordered = sorted(target.bands.names)
        for row in alike:
            if sorted(row["bands"].split(",")) == ordered:
                of_row = replace(target, scheme=row["scheme"])
                return maker.from_variant(row, of_row, True, to)
        if asked:
            parse(asked)
        return maker.from_variant(rows[0], target, False, to)

    def _there(self, row: Row, to: Path | None) -> Path:
        """The folder of a variant that a mirror has. The bytes of one made here were compared."""
        if not self._is_own:
            return self._cache.pull(row, to)
        made = Path(self.mirrors[0][0].path(row["folder"]))
        cache.used(made)
        return cache.copy(made, to) if to else made

    def _is_empty(self) -> bool:
        """Whether this is this machine's own mirror, and holds nothing yet."""
        store, _ = self.mirrors[0]
        own = own_mirror(self._root).url
        return store.url.startswith(own) and not store.exists(MANIFEST)

    def _of(self, model: str, zoo: str | None) -> Sized:
        """The rows of models of that name."""
        return () if self._is_empty() else self.find(model, zoo=zoo)

    def siblings(self, model: str, zoo: str | None = None) -> "pd.DataFrame":
        """The rows of the one model that matches. Raises UsageError if several match, or none.

        A model with exactly this name goes before models that match it as a glob.
        """
        rows = self.find(model, zoo=zoo)
        called = rows["model"] == model
        called = called if called.any() else rows["zoo"] + "/" + rows["model"] == model
        rows = rows[called] if called.any() else rows
        names = sorted(set(rows["zoo"] + "/" + rows["model"]))
        if not names:
            there = self.manifest()
            known = {*there["model"], *there["architecture"]}
            near = difflib.get_close_matches(model, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; zooadapt ls shows what it has"
            raise UsageError(f"the mirror has no {model}{hint}")
        if len(names) > 1 and {*rows["zoo"]} == {"timm"} and {*rows["architecture"]} == {model}:
            default = rows[rows["pretrained_tag"] == registry.default_tag(model)]
            rows, names = (default, [model]) if len(default) else (rows, names)
        if len(names) > 1:
            raise UsageError(f"{model} could be {', '.join(names)}: name one, with its tag and zoo")
        return rows

    def card(
        self,
        model: str,
        in_chans: int | None = None,
        bands: str | Sequence[str] | None = None,
        scheme: str | None = None,
        zoo: str | None = None,
    ) -> str:
        """The card of a variant in the mirror, in Markdown, as `push` gives it to the Hub.

        Raises UsageError unless the arguments name one variant.
        """
        row, config = self.described(model, (in_chans, bands, scheme), zoo)
        return card.text(row, config, share.stated(row, config, self._offline))

    def cite(
        self,
        model: str,
        in_chans: int | None = None,
        bands: str | Sequence[str] | None = None,
        scheme: str | None = None,
        zoo: str | None = None,
    ) -> str:
        """How to cite a variant in the mirror: the original, its papers, the scheme, the hashes.

        The Hub is asked for the papers, data sets and DOIs that the original's card states, unless
        `offline`. Raises UsageError unless the arguments name one variant.
        """
        row, config = self.described(model, (in_chans, bands, scheme), zoo)
        url = "" if self._is_own or len(self.mirrors) > 1 else self.mirrors[0][0].url
        return card.citation(row, share.stated(row, config, self._offline), url)

    def push(
        self,
        model: str | PathLike[str],
        repo: str,
        in_chans: int | None = None,
        bands: str | Sequence[str] | None = None,
        scheme: str | None = None,
        zoo: str | None = None,
        license: str | None = None,
        public: bool = False,
    ) -> str:
        """Put a variant and its card into a repository on the Hugging Face Hub; returns its URL.

        The variant is pulled, or made on the spot, as by `pull`. The repository, OWNER/NAME, is
        made if it isn't there, and is private unless `public`. `license` names the licence where
        the source states none. Raises what `pull` raises, UsageError where a token or a licence is
        lacking or the repository is there and isn't as `public` says, and RunError where the Hub
        refuses.
        """
        share.check(repo, self._offline)
        folder, row = self.pulled(model, (in_chans, bands, scheme), Making(), zoo, None)
        return share.prepare(repo, folder, row, license, public).send()

    def described(self, model: str, wish: "_Wish", zoo: str | None) -> tuple[Row, dict[str, Any]]:
        """The row and the config.json of the one variant in the mirror that is meant.

        `wish` is (in_chans, bands, scheme); all may be None where the model has one variant.
        Raises UsageError for none or several.
        """
        rows = _rows(self.siblings(model, zoo))
        if wish[0] or wish[1]:
            target = manifests.target(*wish)
            key = target.in_chans, target.names
            rows = [row for row in rows if (row["in_chans"], row["bands"]) == key]
            rows = manifests.preferred([row for row in rows if target.admits(row["scheme"])])[:1]
        elif wish[2]:
            rows = [row for row in rows if row["scheme"].partition(".")[0] == wish[2]]
        if len(rows) != 1:
            has = "; ".join(dict.fromkeys(row["bands"] or str(row["in_chans"]) for row in rows))
            raise UsageError(
                f"the mirror has several variants of {model} ({has}): choose one with --chans or "
                f"--bands, and --scheme"
                if rows
                else f"the mirror has no such variant of {model}; zooadapt pull --to makes it, "
                f"with its card"
            )
        kept = self._cache.root / rows[0]["folder"] / CONFIG
        key_of_config = f"{rows[0]['folder']}/{CONFIG}"
        content = (
            kept.read_bytes()
            if cache.is_whole(kept.parent, rows[0])
            else self._cache.first(lambda store: store.read(key_of_config))
        )
        return rows[0], json.loads(content)

    def stem(self, row: Row, config: Mapping[str, Any]) -> Path:
        """The file with the original stem of a variant in the mirror. Raises FetchError."""
        return self._cache.stem(source_stem(row["folder"], dict(config)))

    def runs(self, limit: int = 365) -> "pd.DataFrame":
        """The latest runs of the mirror's jobs, one row each, the latest first.

        The columns are those of ``zooadapt runs --json``: ``ended`` says whether a run is running,
        done or stopped, and how far it has come is in the other columns. Of several mirrors only
        the first is asked. Raises UsageError if the mirror can't be listed.
        """
        from zooadapt.mirror import runs
        from zooadapt.mirror.runs_table import table

        store, _ = self.mirrors[0]
        return table(runs.latest(store, limit))

    def verify(self, deep: bool = False) -> "pd.DataFrame":
        """Verify the mirror. Returns its faults, one row each, with the columns `where` and `what`.

        Like ``zooadapt verify``, this reads every object; with `deep` it also proves every variant
        again. Of several mirrors only the first is verified. Raises UsageError if there is no
        mirror, RunError if its manifest or an object can't be read.
        """
        from zooadapt.upkeep import verify

        store, _ = self.mirrors[0]
        import pandas as pd

        wrong = [(found.where, found.what) for found in verify.verify(store, deep).wrong]
        return pd.DataFrame(wrong, columns=["where", "what"])


_Wish = tuple[int | None, str | Sequence[str] | None, str | None]
"""The arguments in_chans, bands and scheme of `pull` and `load`."""


def _rows(table: "pd.DataFrame") -> list[Row]:
    """The rows with Python's own values: lists for arrays, None for what is missing."""
    return [
        {str(name): _plain(value) for name, value in row.items()} for _, row in table.iterrows()
    ]


def _plain(value: Any) -> Any:
    if type(value).__name__ == "NAType":  # pandas isn't imported here
        return None
    return value.tolist() if hasattr(value, "tolist") else value
