"""The networks under networks/: their files are read, counted and executed as their cards say."""

import json
import os
from pathlib import Path

import pytest
import torch

from netpress.data import DataSettings, load_dataset, normalize
from netpress.evaluation import evaluate, predict
from netpress.network import inspect_file, load
from netpress.process.console import Console
from netpress.program import execute, has_integer_arithmetic, lower
from netpress.scoring import score

pytestmark = pytest.mark.slow

NETWORKS = Path(__file__).parents[2] / "networks"
FOLDERS = sorted(path.parent for path in NETWORKS.glob("*/network.netpress"))
KEPT = {
    "kaist-int": ("cifar100", 0.80),
    "cifar10-tiny": ("cifar10", 0.85),
    "flagship": ("cifar100", 0.80),
    "flagship-small": ("cifar100", 0.79),
}
"""The data set of each, and the accuracy that it was made to keep."""


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_card_is_the_network(folder):
    network = load(folder / "network.netpress")
    card = json.loads((folder / "score.json").read_text())
    counted = score(network)
    assert counted.score == pytest.approx(card["score"], rel=1e-12)
    found = inspect_file(folder / "network.netpress")
    assert found["tensor_bits"] - found["alignment_bits"] == counted.params * 32
    assert (folder / "network.netpress").stat().st_size < 1_000_000
    assert card["accuracy"] >= KEPT[folder.name][1]


def test_a_third_of_the_residual_network_of_mlperf_tiny():
    """Of its 78,666 parameters of 8 bits and 12.5 M multiply-adds, in integers alone."""
    network = load(NETWORKS / "cifar10-tiny" / "network.netpress")
    footprint = score(network).footprint
    assert has_integer_arithmetic(network)
    assert footprint.flash_bytes <= 78_666 / 3 and footprint.multiply_adds <= 12.5e6 / 3


@pytest.mark.skipif("NETPRESS_DATA" not in os.environ, reason="needs CIFAR: set NETPRESS_DATA")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_classifies_in_integers(folder):
    network = load(folder / "network.netpress")
    dataset, kept = KEPT[folder.name]
    settings = DataSettings(dataset=dataset, select_on="test")
    test = load_dataset(settings, Path(os.environ["NETPRESS_DATA"]), 0, Console(quiet=True)).test
    some = test.take(torch.arange(64))
    program, pixels = lower(network), normalize(some.images, network.input.mean, network.input.std)
    exact, simulated = execute(program, pixels).float(), predict(network, some)
    if has_integer_arithmetic(network):  # simulated to a unit here and there
        assert torch.equal(torch.cat([execute(program, part) for part in pixels[:15].split(7)]), exact[:15])
        assert (exact.argmax(1) == simulated.argmax(1)).float().mean() > 0.9
    else:
        assert (exact == simulated).all()
    # Of 500 images, with a standard error of 1.8 points.
    assert evaluate(network, test.take(torch.arange(500))).accuracy > kept - 0.05
