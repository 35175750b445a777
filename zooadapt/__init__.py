"""Pretrained image models for any number of channels: whole zoos adapted, proved and mirrored."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from zooadapt.reader.images import inspect, transform
    from zooadapt.reader.mirror import open_mirror

__version__ = version("zooadapt")
__all__ = ["__version__", "create_model", "inspect", "open_mirror", "transform"]


def create_model(
    model: str | PathLike[str],
    in_chans: int | None = None,
    *,
    bands: str | Sequence[str] | None = None,
    mirror: str | PathLike[str] | Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    pretrained: bool = True,
    **options: Any,
) -> "nn.Module":
    """A pretrained model for `in_chans` channels, or for `bands`, in train mode, as timm's.

    No mirror is needed: what no mirror has is made from the original weights, and kept in the
    cache. `mirror` and `storage_options` are those of `open_mirror`. With `pretrained=False` the
    model is built for these channels, and not trained.

    `options` are those of `Mirror.load` (`scheme`, `derive`, `prove`, `device`, `zoo`), and those
    of the model's own library, such as timm's `num_classes`, `features_only`, `checkpoint_path`.

        zooadapt.create_model("resnet34.a1_in1k", in_chans=4)
        zooadapt.create_model("resnet34.a1_in1k", bands="sentinel2-l2a", mirror="s3://bucket/mirror")
    """
    if not pretrained:
        from zooadapt.reader import original

        return original.untrained(model, in_chans, bands, options)
    from zooadapt.reader.mirror import open_mirror

    return open_mirror(mirror, storage_options).load(model, in_chans, bands, **options)


def __getattr__(name: str) -> Any:
    """Import these only when they are used: they import pandas or torch, which takes seconds."""
    if name == "open_mirror":
        from zooadapt.reader.mirror import open_mirror

        return open_mirror
    if name in ("inspect", "transform"):
        from zooadapt.reader import images

        return getattr(images, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
