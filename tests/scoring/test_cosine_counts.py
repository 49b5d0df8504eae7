"""What each convention charges for the normalizations of a cosine head: of n features, compared with c directions."""

import pytest

from netpress.network import Network, create
from netpress.network.edits.directions import FoldDirections
from netpress.scoring import CONVENTIONS, score
from netpress.scoring.card import Row

n, c = 24, 7  # features and classes
LENGTH, BOUND, QUOTIENT, CLAMP = "", ".threshold", ".div", ".clamp"
# Multiplications and additions: the features' length, its lower bound, the quotients, the clamp of the cosines.
CHARGES = {
    "official": {LENGTH: (n + 1, n - 1), BOUND: (1, 0), QUOTIENT: (n, 0), CLAMP: (2 * c, 0)},
    "kaist": {LENGTH: (0, 0), BOUND: (1, 0), QUOTIENT: (0, 0), CLAMP: (2 * c, 0)},
    "wave": {LENGTH: (0, 0), BOUND: (0, 0), QUOTIENT: (0, 0), CLAMP: (0, 0)},
    "uci": {LENGTH: (n * n, n * (n - 1) + n), BOUND: (0, 0), QUOTIENT: (0, 0), CLAMP: (0, 0)},
    "imt": {LENGTH: (0, 0), BOUND: (0, 0), QUOTIENT: (0, 0), CLAMP: (0, 0)},
}


@pytest.fixture
def network() -> Network:
    settings = {"width": 0.1, "depth": 0.1, "cosine_features": n, "image_size": 8, "classes": c}
    return create("efficientnet", settings, seed=5)


def _head(network: Network, convention: str) -> dict[str, Row]:
    return {row.name: row for row in score(network, convention=convention).rows if row.name.startswith("classifier.")}


def test_every_convention_is_here() -> None:
    assert CHARGES.keys() == set(CONVENTIONS)


@pytest.mark.parametrize("convention", CHARGES)
def test_normalizations(convention: str, network: Network) -> None:
    rows = _head(network, convention)
    for end, (multiplications, additions) in CHARGES[convention].items():
        row = rows[f"classifier.{'cosine' if end == CLAMP else 'normalize'}{end}"]
        assert (row.multiplications, row.additions) == (multiplications, additions), row.name
    cosine = rows["classifier.cosine"]
    assert (cosine.multiplications, cosine.additions) == (n * c, (n - 1) * c)
    assert cosine.weights == n * c
    # The directions' own lengths depend on nothing but weights: no operation is recorded for them.
    assert sum(row.operations > 0 for row in rows.values()) == 2 + sum(
        any(charge) for charge in CHARGES[convention].values()
    )


@pytest.mark.parametrize("convention", CHARGES)
def test_folded_directions_leave_out_the_clamp_alone(convention: str, network: Network) -> None:
    before = _head(network, convention)
    network.edit(FoldDirections(layers=("classifier.cosine",)))
    after = _head(network, convention)
    gone = before.keys() - after.keys()
    assert gone <= {"classifier.cosine.clamp", "classifier.cosine.weight"}  # the latter: raw rows, uncounted
    assert "classifier.cosine.clamp" in gone
    for name, row in after.items():
        assert (row.operations, row.storage_bits) == (before[name].operations, before[name].storage_bits)


def test_uci_takes_fixed_directions_for_trained(network: Network) -> None:
    kept = score(network, convention="uci").extra
    network.edit(FoldDirections(layers=("classifier.cosine",)))
    folded = score(network, convention="uci").extra
    assert folded["parameters"] == kept["parameters"] == folded["trainable"] == kept["trainable"] + n * c
