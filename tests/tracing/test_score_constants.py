"""What is made of stored tensors before any example: it is stored as it is used, once, with its own zeros, and free."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, spectral_norm

from netpress.network import create
from netpress.scoring import score
from netpress.tracing import trace


class Uses(nn.Module):
    """`function(x, w, v)` of an image [1, 8] and two parameters [8, 8]."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.w, self.v = nn.Parameter(torch.rand(8, 8) + 0.1), nn.Parameter(torch.rand(8, 8) + 0.1)
        self.register_buffer("mask", torch.eye(8))
        self.table = torch.arange(1.0, 9.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self)


def stored(function: Callable[..., Tensor], size: tuple[int, ...] = (8,)) -> float:
    """Stored values of 16 bits, masks included in units of 16 bits."""
    return score(Uses(function), size).params * 2


MOVES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "itself": lambda x, n: x @ n.w,
    "transposed": lambda x, n: x @ n.w.t(),
    "both ways": lambda x, n: (x @ n.w) @ n.w.t(),
    "as a layer": lambda x, n: functional.linear(x @ n.w, n.w),
    "reshaped": lambda x, n: x @ n.w.reshape(4, 16).reshape(8, 8),
    "cast": lambda x, n: x @ n.w.half().float(),
    "cloned": lambda x, n: x @ n.w.clone().detach(),
    "in parts": lambda x, n: x @ torch.cat(n.w.chunk(2, 1)[::-1], 1),
    "a slice": lambda x, n: x[:, :4] @ n.w[:4],
    "data": lambda x, n: x @ n.w.data,
    "flipped": lambda x, n: x @ n.w.flip(0),
    "repeated": lambda x, n: x.repeat(1, 2) @ n.w.repeat(2, 1),
    "expanded": lambda x, n: x.expand(2, 1, 8) @ n.w.expand(2, 8, 8),
}


@pytest.mark.parametrize("way", MOVES)
def test_a_stored_tensor_in_other_places_stores_nothing_new(way: str) -> None:
    assert stored(MOVES[way]) == 64
    rows = {row.name: row for row in score(Uses(MOVES[way]), (8,)).rows}
    assert "w" not in rows and rows["v"].uncounted.startswith("no operation uses it")


MADE: dict[str, tuple[Callable[[Tensor, Any], Tensor], float]] = {
    "a product": (lambda x, n: x @ (n.w @ n.v), 64),
    "its factors in turn": (lambda x, n: x @ n.w @ n.v, 128),
    "a product, and a factor used itself": (lambda x, n: x @ (n.w @ n.v) @ n.w, 128),
    "a product in two ways": (lambda x, n: (x @ (n.w @ n.v)) @ (n.w @ n.v).t(), 64),
    "a product, and its transpose as a layer": (lambda x, n: functional.linear(x, n.w @ n.v), 64),
    "scaled": (lambda x, n: x @ (n.w * 2), 64),
    "parts of a product": (lambda x, n: sum(x @ part for part in (n.w @ n.v).chunk(2, 1)), 64),
    "half of a product": (lambda x, n: x @ (n.w @ n.v)[:, :4], 32),
    "masked": (lambda x, n: x @ (n.w * n.mask), 8 + 64 / 16),
    "cut": (lambda x, n: x @ n.w.tril(), 36 + 64 / 16),
    "set to zero in place": (lambda x, n: x @ _cleared(n.w.clone()), 56 + 64 / 16),
    "written into zeros": (lambda x, n: x @ _placed(torch.zeros(8, 8), n.w), 16 + 64 / 16),
    "spread": (lambda x, n: x * (n.w[0] * 2).expand(1, 8), 8),
    "sines": (lambda x, n: x @ torch.sin(n.table[:, None] * n.table), 64),
    "a number": (lambda x, n: x * n.w.mean(), 1),
    "a gather": (lambda x, n: x @ n.w[torch.arange(4).repeat(2)], 64),
}


def _cleared(weight: Tensor) -> Tensor:
    weight[0] = 0
    return weight


def _placed(place: Tensor, weight: Tensor) -> Tensor:
    place[:4, :4] = weight[:4, :4]
    return place


@pytest.mark.parametrize("way", MADE)
def test_what_is_calculated_from_stored_tensors_is_stored_in_their_place(way: str) -> None:
    function, values = MADE[way]
    assert stored(function) == values


def test_making_costs_nothing_and_its_zeros_save_products() -> None:
    card = score(Uses(lambda x, n: x @ (n.w * n.mask)), (8,))
    assert (card.multiplications, card.additions) == (8, 0)
    rows = {row.name: row for row in card.rows}
    assert rows["w"].uncounted == "folded into weight, which is stored in its place"


CONSTANTS: dict[str, tuple[Callable[[Tensor, Any], Tensor], float]] = {
    "one number over and over": (lambda x, n: x * torch.full((8,), 0.5), 0),
    "zeros": (lambda x, n: torch.cat([x, torch.zeros(1, 8)], 1), 0),
    "ones like it": (lambda x, n: x + torch.ones_like(x), 0),
    "numbers written down": (lambda x, n: x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), 8),
    "a line": (lambda x, n: x + torch.linspace(0, 1, 8, device=x.device), 8),
    "position codes": (lambda x, n: x + torch.sin(torch.arange(8, device=x.device) / 100), 8),
    "drawn from a seed": (lambda x, n: x @ _drawn(1), 64),
    "drawn twice from one seed": (lambda x, n: x @ _drawn(1) @ _drawn(1), 64),
    "drawn from two seeds": (lambda x, n: x @ _drawn(1) @ _drawn(2), 128),
    "signs from a seed": (lambda x, n: x @ torch.sign(_drawn(1)), 64),
    "the unit matrix": (lambda x, n: x @ torch.eye(8), 8 + 64 / 16),
    "by way of numpy": (lambda x, n: x @ torch.from_numpy(n.table.numpy()[:, None] + n.table.numpy()), 64),
}


def _drawn(seed: int) -> Tensor:
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("way", CONSTANTS)
@pytest.mark.parametrize("real", [False, True], ids=["shapes", "real tensors"])
def test_constants_of_the_forward_pass_are_stored(way: str, real: bool) -> None:
    function, values = CONSTANTS[way]
    assert stored(lambda x, n: function(x.cpu() if real else x, n)) == values


def test_a_shared_layer_makes_its_weight_once() -> None:
    shared = parametrizations.weight_norm(nn.Linear(8, 8))
    card = score(nn.Sequential(shared, nn.ReLU(), shared), (8,))
    assert card.params == (64 + 8) / 2
    assert card.multiplications == 2 * 64 + 8


# --- torch's own ways to make a weight of others


def plain(layer: nn.Module) -> nn.Module:
    """The same layer with the weight that it has now."""
    copied: Any = type(layer).__mro__[1] if parametrized(layer) else type(layer)
    twin = nn.Linear(8, 8) if issubclass(copied, nn.Linear) else nn.Conv2d(8, 8, 3)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)  # type: ignore[arg-type]
        twin.bias.copy_(layer.bias)  # type: ignore[union-attr, arg-type]
    return twin


def parametrized(layer: nn.Module) -> bool:
    return hasattr(layer, "parametrizations")


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight, self.bias)


WAYS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "spectral norm by hooks": lambda: spectral_norm(nn.Conv2d(8, 8, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
    "standardized": lambda: Standardized(8, 8, 3),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("convention", ["official", "kaist", "wave", "uci", "imt"])
def test_a_layer_that_makes_its_weight_counts_as_the_plain_one(way: str, convention: str) -> None:
    layer = WAYS[way]().eval()
    size = (8,) if isinstance(layer, nn.Linear) else (8, 5, 5)
    layer(torch.zeros(1, *size))
    made, wanted = (score(module, size, convention=convention) for module in (layer, plain(layer)))
    assert (made.params, made.operations) == (wanted.params, wanted.operations)


@given(st.floats(0, 0.99), st.integers(0, 99), st.booleans())
@settings(deadline=None, max_examples=20)
def test_a_pruned_module_counts_as_after_remove(amount: float, seed: int, twice: bool) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 3))
    layers = [(net[0], "weight"), (net[3], "weight")]
    for _ in range(1 + twice):
        prune.global_unstructured(layers, prune.L1Unstructured, amount=amount)
        prune.l1_unstructured(net[3], "bias", amount=1)
    for convention in ("official", "kaist", "imt"):
        hooked = score(net, (2, 5, 5), convention=convention)
        removed = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 3))
        with torch.no_grad():
            for index in (0, 3):
                removed[index].weight.copy_(net[index].weight)
                removed[index].bias.copy_(net[index].bias)
        made = score(removed, (2, 5, 5), convention=convention)
        assert (hooked.params, hooked.operations) == (made.params, made.operations)


def test_weights_without_values_give_shapes() -> None:
    with torch.device("meta"):
        module = Uses(lambda x, n: x @ (n.w @ n.v) + n.w[0].exp() + torch.arange(8))
    card = score(module, (8,))
    assert card.params == (64 + 8 + 8) / 2
    assert card.multiplications == 64


def test_a_mask_reaches_what_is_made_of_the_weight() -> None:
    made = create("efficientnet", {}, seed=1)
    traced = trace(made.module, made.input.size)
    derived = [tensor for tensor in traced.stored.values() if tensor.made_of]
    for tensor in derived:
        origin = tensor.made_of[0]
        mask = torch.ones(traced.stored[origin].shape, dtype=torch.bool)
        mask[:, ::2] = False
        masked = trace(made.module, made.input.size, masks={origin: mask}).stored[tensor.name]
        assert masked.values == masked.nonzeros == int(mask.sum())
    assert derived


def test_a_made_weight_is_as_wide_as_the_widest_of_its_floats() -> None:
    traced = trace(Uses(lambda x, n: x @ (n.w @ n.v)), (8,))
    from netpress.scoring import choose_settings, score_trace

    halves = {"w": {"kind": "float16"}, "v": {"kind": "float16"}, "*": {"kind": "float32"}}
    integers = halves | {"w": {"kind": "int", "bits": 8, "scale": "tensor"}}
    assert score_trace(traced, choose_settings(), halves).params == 32
    assert score_trace(traced, choose_settings(), integers).params == 64
    own = integers | {"weight": {"kind": "float16"}}
    assert score_trace(traced, choose_settings(), own).params == 32


def test_normalized_directions_keep_their_zeros() -> None:
    def function(x: Tensor, n: Any) -> Tensor:
        return functional.linear(x, functional.normalize(n.w * n.mask))

    card = score(Uses(function), (8,))
    assert card.storage_bits + card.mask_bits == 8 * 16 + 64
    assert math.isclose(card.multiplications, 8)


def test_what_different_paths_make_is_told_apart_and_stored_once() -> None:
    def function(x: Tensor, n: Any) -> Tensor:
        both = x @ (n.w @ n.v)
        return both @ torch.sin(n.w) if x.sum() > 0 else both * torch.cos(n.v[0])

    card = score(Uses(function), examples=torch.stack([torch.ones(8), -torch.ones(8), torch.ones(8)]))
    assert card.params * 2 == 64 + 64 + 8
    assert card.multiplications == pytest.approx(1 + 64 + 64 * 2 / 3 + 8 / 3)  # 1: the comparison
