"""timm's pretrained models: 1,826 tags over 1,151 architectures in timm 1.0.31."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import timm.models._builder as timm_builder
import timm.models._manipulate as timm_manipulate
import torch
from packaging.version import Version
from timm.models._pretrained import filter_pretrained_cfg
from torch import Tensor, nn

from zooadapt.bands import RGB
from zooadapt.errors import UsageError
from zooadapt.names import WEIGHTS
from zooadapt.targets import Bands
from zooadapt.types import Layer, Listing, ModelEntry, ModelFacts
from zooadapt.zoos import timm_layers, timm_releases
from zooadapt.zoos.meta import shapes_only


class TimmZoo:
    """Every pretrained tag that the installed timm knows, from the Hub or the tag's own URL."""

    name = "timm"
    library = "timm"
    place = ""

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        """All pretrained tags in timm's natural order."""
        return [self._entry(tag) for tag in timm.list_models(pretrained=True)]

    def _entry(self, tag: str) -> ModelEntry:
        cfg = timm.get_pretrained_cfg(tag)
        return ModelEntry(
            zoo=self.name,
            name=tag,
            architecture=cfg.architecture,
            pretrained_tag=cfg.tag or "",
            license=cfg.license,
            hub_id=cfg.hf_hub_id,
            url=cfg.url if isinstance(cfg.url, str) else None,
        )

    def facts(self, entry: ModelEntry) -> ModelFacts:
        """From the tag's pretrained config."""
        cfg = timm.get_pretrained_cfg(entry.name)
        chans, height, width = cfg.input_size
        return ModelFacts(
            bands=RGB if chans == 3 else Bands.counted(chans),
            height=height,
            width=width,
            mean=tuple(cfg.mean),
            std=tuple(cfg.std),
            num_classes=cfg.num_classes,
            min_timm=timm_releases.min_timm(entry.architecture),
        )

    def build(self, entry: ModelEntry, in_chans: int) -> nn.Module:
        """``timm.create_model`` without weights, on the current default device."""
        return self._created(entry, in_chans=in_chans)

    def _created(self, entry: ModelEntry, **options: Any) -> nn.Module:
        model: nn.Module = timm.create_model(entry.name, **options)
        return model

    def stems(self, entry: ModelEntry, model: nn.Module) -> Iterable[str]:
        """timm's ``first_conv``, which may name several modules or none."""
        declared = getattr(model, "_traits", {}).get("first_conv") or ()
        return (declared,) if isinstance(declared, str) else tuple(declared)

    def layer(self, model: nn.Module, name: str, chans: int) -> Layer | None:
        """timm's layers: standardised weights, space-to-depth, patches."""
        return timm_layers.layer(model, name, chans)

    def arguments(self, entry: ModelEntry) -> Mapping[str, Any]:
        """None: the tag says it all."""
        return {}

    def version(self) -> str:
        """timm's own."""
        return str(timm.__version__)

    def convert(
        self, entry: ModelEntry, model: nn.Module, content: dict[str, Any]
    ) -> tuple[Mapping[str, Any], bool]:
        """What timm's own checkpoint filter makes of the content."""
        filter_fn, strict = _loading_rules(lambda: self._created(entry, pretrained=True))
        if filter_fn is not None:
            try:
                content = filter_fn(content, model)
            except TypeError:  # as timm does: some filters take the content alone
                content = filter_fn(content)
        return content, strict

    def config(self, entry: ModelEntry, base: nn.Module, facts: ModelFacts) -> dict[str, Any]:
        """timm's Hub configuration, with the channel count as the only model argument.

        ``first_conv`` is null: with a name there, timm 1.0.16 to 1.0.30 adapts the stem a second
        time, fails, and leaves it random. The pruned architectures need the name to be built.
        """
        cfg = filter_pretrained_cfg(base.pretrained_cfg, remove_source=True)
        for fact in ("architecture", "license", "label_offset"):
            cfg.pop(fact, None)
        cfg["custom_load"] = False
        if not timm_releases.pruned(entry.architecture):
            cfg["first_conv"] = None
        config = {
            "architecture": entry.architecture,
            "num_classes": facts.num_classes,
            "num_features": base.num_features,
            "model_args": {},
            "pretrained_cfg": cfg,
        }
        return self.with_channels(config, facts.mean, facts.std)

    def stated(self, config: Mapping[str, Any]) -> ModelFacts:
        """From its pretrained config."""
        cfg = config["pretrained_cfg"]
        chans, height, width = cfg["input_size"]
        return ModelFacts(
            bands=Bands.counted(chans),
            height=height,
            width=width,
            mean=tuple(cfg["mean"]),
            std=tuple(cfg["std"]),
            num_classes=config["num_classes"],
            min_timm=timm_releases.min_timm(config["architecture"]),
        )

    def companions(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """None: timm looks for nothing else."""
        return {}

    def with_channels(
        self, config: dict[str, Any], mean: Sequence[float], std: Sequence[float]
    ) -> dict[str, Any]:
        """The same with another ``in_chans``, input sizes, mean and std."""
        cfg, chans = dict(config["pretrained_cfg"]), len(mean)
        arguments = {**config["model_args"], "in_chans": chans}
        for size in ("input_size", "test_input_size", "min_input_size"):
            if cfg.get(size):
                cfg[size] = [chans, *cfg[size][1:]]
        cfg.update(mean=list(mean), std=list(std))
        return {**config, "model_args": arguments, "pretrained_cfg": cfg}

    def check_version(self, least: str) -> None:
        """By timm's own version."""
        if least and Version(timm.__version__) < Version(least):
            raise UsageError(
                f"the model needs timm {least}, and {timm.__version__} is installed: "
                f"pip install --upgrade timm"
            )

    def open(self, folder: Path, options: Mapping[str, Any]) -> nn.Module:
        """``timm.create_model("local-dir:…", pretrained=True, …)``.

        The file is named once more: for a folder older releases leave it to ``torch.load``, which
        knows safetensors only in newer releases of torch.
        """
        given = options.get("pretrained_cfg_overlay") or {}
        overlay = {**given, "source": "", "file": str(folder / WEIGHTS)}
        options = {**options, "pretrained_cfg_overlay": overlay}
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True, **options)
        return model.eval()

    def load(
        self, folder: Path, tensors: Mapping[str, Tensor], in_chans: int | None = None
    ) -> nn.Module:
        """``timm.create_model("local-dir:…")``, if possible without initialising it first."""

        def build() -> nn.Module:
            model: nn.Module = timm.create_model(f"local-dir:{folder}", in_chans=in_chans)
            return model

        with suppress(RuntimeError):  # older releases look at values while they build
            with shapes_only():
                model = build()
            model.load_state_dict(tensors, strict=True, assign=True)
            if recompute_buffers(model):
                return model.eval()
        model = build()
        model.load_state_dict(tensors, strict=True, assign=True)
        return model.eval()


def recompute_buffers(model: nn.Module) -> bool:
    """Give values to the buffers that no checkpoint holds; False if a module can't.

    A buffer was computed if it comes out the same whatever was in it before. Older releases of timm
    can't compute them by themselves.
    """
    holders = [
        (module, name)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_meta
    ]
    results: list[list[Tensor]] = []
    if not holders or not hasattr(timm_manipulate, "reinit_non_persistent_buffers"):
        return not holders
    for filling in (0, 1):
        for module, name in holders:
            filled = torch.full_like(getattr(module, name), filling, device="cpu")
            setattr(module, name, filled)
        timm_manipulate.reinit_non_persistent_buffers(model)
        results.append([getattr(module, name) for module, name in holders])
    return all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def _loading_rules(create: Callable[[], nn.Module]) -> tuple[Any, bool]:
    """The checkpoint filter that timm would apply to the model's weights, and its strictness.

    `create` has timm make the model with its weights.

    timm decides both inside its entry points and hands them to ``load_pretrained`` alone; so the
    model is built once more on the meta device with that function replaced by one that listens.
    """
    heard: dict[str, Any] = {}

    def listen(model: nn.Module, **arguments: Any) -> None:
        heard.update(arguments)

    with mock.patch.object(timm_builder, "load_pretrained", listen), shapes_only():
        create()
    return heard["filter_fn"], heard["strict"]
