"""The manifests in configs/ as KubeRay and Kubernetes would check them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.support.jobs import ROOT

KUBERNETES = "1.30"
"""The oldest Kubernetes version that has to accept our pods."""

_SCHEMA = json.loads(
    (Path(__file__).parents[1] / "configs" / "data" / "kuberay.schema.json").read_text()
)


def load(name: str) -> Any:
    """The only YAML document of a manifest in configs/."""
    return yaml.safe_load((ROOT / "configs" / name).read_text())


def job(manifest: Any) -> Any:
    """The RayJobSpec of a RayJob or a RayCronJob."""
    return manifest["spec"].get("jobTemplate", manifest["spec"])


def groups(manifest: Any) -> Iterator[Any]:
    """The head group and the worker groups."""
    cluster = job(manifest)["rayClusterSpec"]
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def faults(manifest: Any) -> list[str]:
    """What KubeRay or Kubernetes would refuse, and unknown keys, which they would ignore."""
    found = [str(error.message) for error in _validator().iter_errors(manifest)]
    return found or [fault for group in groups(manifest) for fault in _pod_faults(group)]


def _validator() -> Any:
    return jsonschema.Draft202012Validator(_SCHEMA)


def _pod_faults(group: Any) -> Iterator[str]:
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
    try:
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield str(error.message)
