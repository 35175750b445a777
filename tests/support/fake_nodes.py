"""What Ray's autoscaler starts its nodes with in tests: raylets on this machine."""

import os
from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ray's own, which would have a node's memory be a custom resource, and Ray refuses that."""

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
