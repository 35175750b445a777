"""The command that says what a bug report needs."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import click

from zooadapt import __version__
from zooadapt.cli.common import OK
from zooadapt.errors import redact
from zooadapt.urls import cache_root

_PACKAGES = (
    "torch", "timm", "torchvision", "transformers", "safetensors", "ray", "fsspec", "s3fs",
    "huggingface_hub", "pyarrow", "pandas", "numpy", "click", "tqdm",
)  # fmt: skip
_VARIABLES = ("ZOOADAPT_", "HF_", "AWS_ENDPOINT_URL", "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES")
"""What the names of variables begin with that change what zooadapt does."""
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD", "OPTIONS")


@click.command("env")
def show_environment() -> int:
    """Print the versions and settings that a bug report needs, without secrets.

    \b
    zooadapt env
    """
    lines = {
        "zooadapt": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "processors": str(os.cpu_count()),
        **{name: _version(name) for name in _PACKAGES},
        "cache": str(cache_root()),
    }
    lines |= {
        name: "(set)" if any(word in name for word in _SECRET) else redact(value)
        for name, value in sorted(os.environ.items())
        if name.startswith(_VARIABLES)
    }
    width = max(map(len, lines))
    click.echo("\n".join(f"{name:<{width}}  {value}" for name, value in lines.items()))
    return OK


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


COMMANDS = (show_environment,)
