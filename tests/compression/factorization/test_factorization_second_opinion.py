"""Kronecker factors and the diagonal against curvlinops, which knows nothing of netpress (MIT; test-only, extra `dev`).

It gets our labels as the data's own (the empirical Fisher), a loss that is summed over N images, and counts for P
positions of a layer's output (KFAC-expand, Eschenhagen et al., arXiv 2311.00636):

    its A = 1 / (N P) sum over images and positions of patch patch^T     [columns * places, columns * places]
    its G = sum over images and positions of g g^T

Ours is of channels, so it adds up the blocks of the same place; it is a sum over positions and not a mean, for which
G is a mean: A = P sum over places of the diagonal block of its A, and G = its G / (N P).
"""

from typing import Any

import pytest
import torch
from small_networks import head, images, known_labels, network_of
from torch import Tensor, nn

from netpress.compression.factorization.curvature import Curvature, layers_of, measure_curvature
from netpress.data import normalize
from netpress.network import Network
from netpress.numerics.strided import keep_in_bounds

pytestmark = pytest.mark.slow

COUNT = 6
LABELS = torch.tensor([0, 3, 1, 2, 2, 0])


@pytest.fixture(scope="module")
def curvlinops() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a package of its own still scripts a function
        return pytest.importorskip("curvlinops", reason="curvlinops is not installed: make setup")


def ours(network: Network, name: str) -> Curvature:
    with known_labels(LABELS):
        return measure_curvature(network, layers_of(network, [name]), images(COUNT, 8), 1, batch_size=4)[name]


def theirs(kind: str, curvlinops: Any, network: Network, name: str) -> Any:
    """Its operator for one layer's weights: `KFACLinearOperator` or `EKFACLinearOperator`."""
    pixels = normalize(images(COUNT, 8).images, network.input.mean, network.input.std)
    keep_in_bounds(network.module)  # torch itself harms a strided 1x1 convolution of 3 channels on some processors
    return getattr(curvlinops, kind)(
        network.module,
        nn.CrossEntropyLoss(reduction="sum"),
        [network.module.get_submodule(name).weight],
        [(pixels[:4], LABELS[:4]), (pixels[4:], LABELS[4:])],
        fisher_type=curvlinops.FisherType.EMPIRICAL,
        kfac_approx=curvlinops.KFACType.EXPAND,
        check_deterministic=False,
    )


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize(
    ("layer", "positions"),
    [
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), 16),
        (nn.Conv2d(3, 5, (2, 3), padding=(0, 2), dilation=(1, 2)), 56),
        (nn.Conv2d(3, 5, 1, stride=2), 16),
    ],
    ids=["3x3", "2x3", "1x1"],
)
def test_factors_of_a_convolution(layer: nn.Conv2d, positions: int, curvlinops: Any) -> None:
    network = network_of(layer, nn.GELU(), *head(5), size=8, seed=4)
    operator = theirs("KFACLinearOperator", curvlinops, network, "0")
    operator.compute_kronecker_factors()
    (inputs,), (outputs,) = operator._input_covariances.values(), operator._gradient_covariances.values()
    places = layer.kernel_size[0] * layer.kernel_size[1]
    blocks = inputs.view(3, places, 3, places).diagonal(dim1=1, dim2=3).sum(2)  # [columns, columns]
    found = ours(network, "0")
    close(found.inputs, positions * blocks)
    close(found.outputs, outputs / (COUNT * positions))


def test_factors_of_linear_layers(curvlinops: Any) -> None:
    parts = [nn.Conv2d(3, 4, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(36, 6), nn.GELU(), nn.Linear(6, 4)]
    network = network_of(*parts, size=8, seed=4)
    for name in ("3", "5"):
        operator = theirs("KFACLinearOperator", curvlinops, network, name)
        operator.compute_kronecker_factors()
        (inputs,), (outputs,) = operator._input_covariances.values(), operator._gradient_covariances.values()
        found = ours(network, name)
        close(found.inputs, inputs)
        close(found.outputs, outputs / COUNT)


def test_the_diagonal_of_a_linear_layer(curvlinops: Any) -> None:
    """In the eigenbasis of both factors, which is one but for signs, as their eigenvalues lie apart."""
    network = network_of(nn.Conv2d(3, 4, 8), nn.GELU(), nn.Flatten(), nn.Linear(4, 4), size=8, seed=4)
    operator = theirs("EKFACLinearOperator", curvlinops, network, "3")
    operator.compute_kronecker_factors()
    operator._compute_eigenvectors()
    operator.compute_eigenvalue_correction()
    (corrected,) = operator._corrected_eigenvalues.values()
    found = ours(network, "3")
    values = torch.linalg.eigvalsh(found.inputs), torch.linalg.eigvalsh(found.outputs)[1:]  # gradients sum up to 0
    assert all(float((one[1:] / one[:-1]).min()) > 1.2 for one in values)
    if isinstance(corrected, dict):
        (corrected,) = corrected.values()
    close(found.diagonal[1:], corrected[1:] / COUNT)
