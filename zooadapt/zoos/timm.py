"""The zoo of timm's pretrained models: 1,826 tags over 1,151 architectures in timm 1.0.31."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, get_ident
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
from zooadapt.zoos import stated, timm_layers, timm_releases
from zooadapt.zoos.meta import shapes_only


class TimmZoo:
    """Every pretrained tag of the installed timm, with its place on the Hub or its own URL."""

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
        """The facts that the tag's pretrained config states."""
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
        """The model of ``timm.create_model`` without weights, on torch's current default device."""
        return self._created(entry, in_chans=in_chans)

    def _created(self, entry: ModelEntry, **options: Any) -> nn.Module:
        model: nn.Module = timm.create_model(entry.name, **options)
        return model

    def stems(self, entry: ModelEntry, model: nn.Module) -> Iterable[str]:
        """The modules that timm's ``first_conv`` names: one, several or none."""
        declared = getattr(model, "_traits", {}).get("first_conv") or ()
        return (declared,) if isinstance(declared, str) else tuple(declared)

    def layer(self, model: nn.Module, name: str, chans: int) -> Layer | None:
        """How one of timm's own layers reads the image: see `timm_layers`."""
        return timm_layers.layer(model, name, chans)

    def arguments(self, entry: ModelEntry) -> Mapping[str, Any]:
        """No arguments: the tag alone determines the model."""
        return {}

    def version(self) -> str:
        """timm's release, such as ``1.0.31``."""
        return str(timm.__version__)

    def convert(
        self, entry: ModelEntry, model: nn.Module, content: dict[str, Any]
    ) -> tuple[Mapping[str, Any], bool]:
        """The content after timm's own checkpoint filter, and the strictness that timm applies."""
        filter_fn, strict = _loading_rules(lambda: self._created(entry, pretrained=True))
        if filter_fn is not None:
            try:
                content = filter_fn(content, model)
            except TypeError:  # some filters take the content only; timm does the same
                content = filter_fn(content)
        return content, strict

    def config(self, entry: ModelEntry, base: nn.Module, facts: ModelFacts) -> dict[str, Any]:
        """timm's config for the Hub, with the number of channels as the only model argument.

        ``first_conv`` is null, because timm 1.0.16 to 1.0.30 would adapt a named stem a second
        time, fail, and leave it random. Pruned architectures keep the name: timm can't build them
        without it.
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
        return self.with_channels(config, facts.chans, facts.mean, facts.std)

    def stated(self, config: Mapping[str, Any]) -> ModelFacts:
        """The facts that the ``pretrained_cfg`` in ``config.json`` states."""
        return stated.timm(config)

    def companions(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """No other file: timm reads ``config.json`` only."""
        return {}

    def with_channels(
        self, config: dict[str, Any], chans: int, mean: Sequence[float], std: Sequence[float]
    ) -> dict[str, Any]:
        """The ``config.json`` with another ``in_chans``, mean and std, and input sizes to match."""
        cfg = dict(config["pretrained_cfg"])
        arguments = {**config["model_args"], "in_chans": chans}
        for size in ("input_size", "test_input_size", "min_input_size"):
            if cfg.get(size):
                cfg[size] = [chans, *cfg[size][1:]]
        cfg.update(mean=list(mean), std=list(std))
        return {**config, "model_args": arguments, "pretrained_cfg": cfg}

    def check_version(self, least: str) -> None:
        """Raise UsageError if the installed timm is older than `least`."""
        if least and Version(timm.__version__) < Version(least):
            raise UsageError(
                f"the model needs timm {least}, and {timm.__version__} is installed: "
                f"pip install --upgrade timm"
            )

    def open(self, folder: Path, options: Mapping[str, Any]) -> nn.Module:
        """The model that ``timm.create_model("local-dir:…", pretrained=True, …)`` loads.

        The weights' file is given explicitly, because older releases of timm open a folder's file
        with ``torch.load``, which reads safetensors in newer releases of torch only.
        """
        given = options.get("pretrained_cfg_overlay") or {}
        overlay = {**given, "source": "", "file": str(folder / WEIGHTS)}
        options = {**self._layers(folder), **options, "pretrained_cfg_overlay": overlay}
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True, **options)
        return model.eval()

    def _layers(self, folder: Path) -> Mapping[str, Any]:
        """The layers' classes that the ``config.json`` in a folder names; timm's own names none."""
        return {}

    def load(
        self, folder: Path, tensors: Mapping[str, Tensor], in_chans: int | None = None
    ) -> nn.Module:
        """The model of ``timm.create_model("local-dir:…")``, uninitialised if that is possible."""

        def build() -> nn.Module:
            model: nn.Module = timm.create_model(
                f"local-dir:{folder}", in_chans=in_chans, **self._layers(folder)
            )
            return model

        with suppress(RuntimeError):  # older releases read tensors' values while they build
            with shapes_only():
                model = build()
            model.load_state_dict(tensors, strict=True, assign=True)
            if recompute_buffers(model):
                return model.eval()
        model = build()
        model.load_state_dict(tensors, strict=True, assign=True)
        return model.eval()


def recompute_buffers(model: nn.Module) -> bool:
    """Compute the buffers that no checkpoint holds; False if one of them can't be computed.

    timm computes each buffer twice, over zeros and over ones: if both results are equal, they are
    computed values. Older releases of timm have no function that computes buffers.
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


_recording = Lock()
"""Held while timm's `load_pretrained` is replaced."""


def _loading_rules(create: Callable[[], nn.Module]) -> tuple[Any, bool]:
    """The checkpoint filter that timm applies to the model's weights, and timm's strictness.

    `create` calls timm to create the model with its weights.

    timm's entry points choose both, and pass them to ``load_pretrained`` only. So the model is
    built once more, on the meta device, with a ``load_pretrained`` that records its arguments.
    Other threads, which may load models meanwhile, get timm's own.
    """
    passed: dict[str, Any] = {}
    thread = get_ident()
    with _recording:
        load = timm_builder.load_pretrained

        def record(model: nn.Module, **arguments: Any) -> None:
            if get_ident() == thread:
                passed.update(arguments)
            else:
                load(model, **arguments)

        with mock.patch.object(timm_builder, "load_pretrained", record), shapes_only():
            create()
    return passed["filter_fn"], passed["strict"]
