"""A small network of each family whose channels can go."""

from typing import Any

SMALL = {"classes": 4, "image_size": 8}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet": ("densenet", {"growth": 4, "blocks": [2, 3], **SMALL}),
    "grouped densenet": ("densenet", {"growth": 4, "blocks": [2, 2], "groups": 2, "grouped": ["bottleneck2"], **SMALL}),
    "resnet": ("resnet", {"blocks": [1, 2], "width": 8, **SMALL}),
    "efficientnet": ("efficientnet", {"width": 0.3, "depth": 0.5, "strides": [1] * 7, **SMALL}),
    "c_efficientnet": ("c_efficientnet", {"widths": "tiny", "width_factor": 0.5, **SMALL}),
    "pyramidnet": ("pyramidnet", {"depth": 11, "alpha": 12.0, **SMALL}),
}
