"""The former name of `zooadapt.types`, for plug-ins that were written for zooadapt 0.1."""

from zooadapt.types import Listing, ModelEntry, ModelFacts

__all__ = ["Listing", "ModelEntry", "ModelFacts"]
