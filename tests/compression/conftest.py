"""What tests of compression share."""

from pathlib import Path

import pytest
import torch

from netpress.data import Dataset
from netpress.network import Network, create
from netpress.process.console import Console
from netpress.process.world import World
from netpress.stage import Context


@pytest.fixture
def network() -> Network:
    """Small, with weights of its own, for the images of `shades`."""
    settings = {"blocks": [1], "width": 8, "classes": 4, "image_size": 8}
    return create("resnet", settings, classes=("a", "b", "c", "d"), seed=3)


@pytest.fixture
def context(shades: Dataset, tmp_path: Path) -> Context:
    """Of a stage that prunes `shades` and saves after every step."""
    world = World(torch.device("cpu"))
    return Context(tmp_path, world, 1, Console(quiet=True), shades, save_every_seconds=0, name="02-prune")
