"""Pretrained image models for any number of channels: whole zoos adapted, proved and mirrored."""

from importlib.metadata import version

__version__ = version("zooadapt")
