"""Wave Computing's arithmetic, from the network itself and by our own rules: sizes, sparsity, the three scores.

What the team states, and what was recalculated from their code, stands beside each figure.
"""

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from netpress.compression.magnitude import choose_masks, count_removed
from netpress.compression.prune import prune_once
from netpress.compression.schedule import amounts
from netpress.models.registry import parse_model
from netpress.network import create
from netpress.scoring import ScoreCard, choose_settings, score, score_trace
from netpress.scoring.card import relative_score
from netpress.scoring.tracks import TRACKS
from netpress.scoring.wave import operation_bits, storage
from netpress.tracing import Trace, trace

PARAMETERS = 26_288_692
IN_NORMS = 210_864
PRUNED = 1_890_157
FOLDED_CHANNELS = 63_256


@functools.cache
def shapes() -> nn.Module:
    choice = parse_model("pyramidnet:272")
    with torch.device("meta"):
        return choice.family.build(choice.settings)


@functools.cache
def traced() -> Trace:
    return trace(shapes(), (3, 32, 32))


def card(**options: object) -> ScoreCard:
    return score_trace(traced(), choose_settings("wave", options=options))


def test_the_network_has_their_layers_and_parameters() -> None:
    kinds = {kind: [m for m in shapes().modules() if isinstance(m, kind)] for kind in (nn.Conv2d, nn.Linear)}
    assert (len(kinds[nn.Conv2d]), len(kinds[nn.Linear])) == (271, 1)
    assert sum(parameter.numel() for parameter in shapes().parameters()) == PARAMETERS
    norms = [module for module in shapes().modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 362
    assert sum(parameter.numel() for norm in norms for parameter in norm.parameters()) == IN_NORMS


def test_three_factors_at_full_rank_have_81_54_million_parameters() -> None:
    """Of inputs x inputs, kernel x inputs x outputs, outputs x outputs, the linear layer's bias as a 865th input.

    81.54 M holds with the norms' parameters, as their counter counts: without them it would be 81.33 M, and with the
    linear layer left whole 80.78 M. (With a bias apart, in place of the 865th input, it would be 81.539 M.)
    """

    def factors(inputs: int, outputs: int, kernel: int = 1) -> int:
        return inputs**2 + kernel * inputs * outputs + outputs**2

    convolutions = [m for m in shapes().modules() if isinstance(m, nn.Conv2d)]
    (linear,) = (m for m in shapes().modules() if isinstance(m, nn.Linear))
    assert (linear.in_features, linear.out_features) == (864, 100)
    total = sum(factors(m.in_channels, m.out_channels, math.prod(m.kernel_size)) for m in convolutions)
    total += factors(linear.in_features + 1, linear.out_features)
    assert (total, total + IN_NORMS) == (81_329_918, 81_540_782)
    assert (total + IN_NORMS) / PARAMETERS == pytest.approx(3.10, abs=5e-3)


def test_a_compression_of_92_81_percent() -> None:
    assert round(PARAMETERS * (1 - 0.9281)) == PRUNED
    assert round(1 - PRUNED / PARAMETERS, 7) == 0.9281


def test_a_sparsity_of_45_31_percent_is_two_rounds_of_30() -> None:
    prunable = PRUNED - IN_NORMS
    two = amounts(0.51, 2, "exponential")
    assert two == amounts(0.83193, 5, "exponential")[:2]  # they stopped after two of five
    weights = {"all": torch.randn(prunable, generator=torch.Generator().manual_seed(1))}
    masks: dict[str, Tensor] = {}
    left = [prunable]
    for amount in two:
        masks = choose_masks(weights, masks, amount, "global").masks
        left.append(int(masks["all"].sum()))
    for before, after in itertools.pairwise(left):
        assert abs(after - 0.7 * before) <= 1.7  # a percentile takes up to one more, in each round
    removed = prunable - left[-1]
    assert removed == count_removed(0.51, prunable)
    assert round(removed / PRUNED, 4) == 0.4531
    assert round(removed / prunable, 4) == 0.51
    assert round((PRUNED - removed) / 1e6, 4) == 1.0337


def test_operations_of_the_dense_network() -> None:
    kept = card()
    assert kept.extra["parameters"] == PARAMETERS
    assert kept.multiplications / 1e9 == pytest.approx(4.523, abs=5e-4)
    assert kept.additions / 1e9 == pytest.approx(4.501, abs=5e-4)
    folded = card(norms="folded")
    assert kept.extra["parameters"] - folded.extra["parameters"] == FOLDED_CHANNELS
    assert kept.multiplications - folded.multiplications == pytest.approx(16.920e6, rel=1e-4)
    assert kept.additions == folded.additions


def residual_additions() -> int:
    """One for each value that a block puts out: four times its inner width, at sides of 32, 16 and 8."""
    return sum(4 * math.floor(16 + 200 * n / 90 + 0.5) * (32 >> (n - 1) // 30) ** 2 for n in range(1, 91))


def test_residual_additions_that_their_counter_left_out() -> None:
    assert residual_additions() / 1e6 == pytest.approx(11.206, abs=5e-4)
    assert card(residual_adds=True).additions - card().additions == residual_additions()
    assert residual_additions() / TRACKS["cifar100"].operations == pytest.approx(0.00107, abs=5e-6)


# What the team states of all operations, and of these weighted by their bits; the rest follows.
ALL_OPERATIONS, WEIGHTED = 580e6, 391.2e6


@pytest.mark.parametrize(
    ("nonzeros", "bits", "folded", "params", "operations", "stated", "whole"),
    [
        (1.0149e6, 9, False, 0.3445e6, 391.2e6, 0.0467, 0.04780),
        (0.9560e6, 10, True, 0.3558e6, 384.8e6, 0.0464, 0.04750),
        (0.9515e6, 9, True, 0.32467e6, 384.8e6, 0.04558, 0.04665),
    ],
    ids=["first", "second", "third"],
)
def test_the_three_submissions(
    nonzeros: float, bits: int, folded: bool, params: float, operations: float, stated: float, whole: float
) -> None:
    stored = PRUNED - (FOLDED_CHANNELS if folded else 0)
    values = sum(storage(round(nonzeros), stored, bits)) / 32
    assert values == pytest.approx(params, rel=2e-4)
    narrow, wide = operation_bits(None)
    multiplications = (ALL_OPERATIONS * wide - WEIGHTED * 32) / (wide - narrow)
    additions = ALL_OPERATIONS - multiplications
    if folded:
        multiplications -= card().multiplications - card(norms="folded").multiplications
    counted = (multiplications * narrow + additions * wide) / 32
    assert counted == pytest.approx(operations, rel=2e-4)
    track = card().track
    digits = len(str(stated)) - 2
    assert round(relative_score(values, counted, track), digits) == stated
    with_residuals = counted + residual_additions() * wide / 32
    assert relative_score(values, with_residuals, track) == pytest.approx(whole, abs=1e-5)


def test_a_sparse_network_is_counted_as_hooks_count_it() -> None:
    settings = {"depth": 11, "alpha": 6, "classes": 10, "image_size": 16}
    network, _ = prune_once(create("pyramidnet", settings, seed=1), 0.7)
    counts = {"multiplications": 0.0, "additions": 0.0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            places = output.numel() // output.shape[1]
            products = int(module.weight.count_nonzero()) * places
            counts["multiplications"] += products
            counts["additions"] += products - (output.numel() if module.bias is None else 0)
        elif isinstance(module, nn.BatchNorm2d):
            counts["multiplications"] += output.numel()
            counts["additions"] += output.numel()
        elif isinstance(module, nn.ReLU):
            counts["multiplications"] += output.numel()
        elif isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            counts["multiplications"] += output.numel()
            counts["additions"] += inputs[0].numel() - output.numel()

    hooks = [module.register_forward_hook(count) for module in network.module.modules()]
    with torch.no_grad():
        network.module.eval()(torch.zeros(1, 3, 16, 16))
    for hook in hooks:
        hook.remove()
    counted = score(network, convention="wave")
    once = 9 / 10_000, (10 + 1) / 10_000  # argmax of ten classes; an exponent for each of the layers
    assert counted.multiplications == pytest.approx(counts["multiplications"] + once[0], rel=1e-12)
    assert counted.additions == pytest.approx(counts["additions"] + once[1], rel=1e-12)
    parameters = list(network.module.parameters())
    alive = sum(int(p.count_nonzero()) if p.ndim > 1 else p.numel() for p in parameters)
    assert counted.params == (alive * 9 + sum(p.numel() for p in parameters)) / 32
    weighted = 12 * counts["multiplications"] + 32 * counts["additions"] + 12 * once[0] + 8 * once[1]
    assert counted.operations == pytest.approx(weighted / 32, rel=1e-12)
