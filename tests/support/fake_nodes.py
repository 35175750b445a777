"""The provider with which Ray's autoscaler starts nodes in tests: raylets on this machine."""

import os
from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ray's own provider, but it doesn't make memory a custom resource, which Ray refuses."""

    def _create_node_with_resources_and_labels(
        self,
        node_config: Mapping[str, Any],
        tags: Mapping[str, str],
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        others = {name: value for name, value in resources.items() if name != "memory"}
        with self.lock:
            os.environ["RAY_OVERRIDE_RESOURCES"] = f'{{"memory": {resources["memory"]}}}'
            super()._create_node_with_resources_and_labels(node_config, tags, count, others, labels)
