"""What tests of compression share."""

import pytest

from netpress.network import Network, create


@pytest.fixture
def network() -> Network:
    """Small, with weights of its own, for the images of `shades`."""
    settings = {"blocks": [1], "width": 8, "classes": 4, "image_size": 8}
    return create("resnet", settings, classes=("a", "b", "c", "d"), seed=3)
