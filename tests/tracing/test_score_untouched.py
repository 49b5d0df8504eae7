"""Scoring leaves a module as it was, to the bit, whatever its forward pass does, and when it fails on the way."""

import contextlib
import copy
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from netpress.errors import UserError
from netpress.scoring import score


class Notes:
    """A thing of a user's own that a module keeps."""

    def __init__(self) -> None:
        self.seen = 0
        self.shapes: list[Any] = []


class Odd(nn.Module):
    """A module with everything that a forward pass can move, and a forward pass that does."""

    def __init__(self, change: Callable[["Odd", Tensor], Any]) -> None:
        super().__init__()
        self.change = change
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.grid: Tensor | None = None
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("table", torch.arange(12.0).reshape(3, 4))
        self.plain = torch.arange(4.0)
        self.count = 0
        self.list, self.dict, self.set, self.deque = [1], {"a": [torch.ones(2)]}, {1}, deque([1])
        self.notes = Notes()
        self.array = np.zeros(3)
        self.generator = torch.Generator().manual_seed(3)
        self.dice, self.numbers = random.Random(3), np.random.default_rng(3)

    def forward(self, x: Tensor) -> Tensor:
        self.change(self, x)
        return self.norm(self.conv(x))


def _grid(module: Odd, x: Tensor) -> None:
    if module.grid is None or module.grid.shape[-1] != x.shape[-1]:
        module.grid = torch.linspace(0, 1, x.shape[-1], device=x.device)
        x += module.grid


def _writes(module: Odd, x: Tensor) -> None:
    module.table[1] = 7
    module.table.t().mul_(2)
    module.plain.add_(1)
    module.dict["a"][0].zero_()
    module.conv.weight.mul_(0.5)
    module.conv.bias.data.fill_(3)


def _swaps(module: Odd, x: Tensor) -> None:
    module.conv.weight.data = module.conv.weight.data * 2
    module.conv.bias = nn.Parameter(torch.zeros(4))
    module.table = torch.zeros(3, 4)
    module.conv.weight.requires_grad_(False)


def _keeps(module: Odd, x: Tensor) -> None:
    module.count += 1
    module.list.append(x)
    module.dict["x"] = x
    module.dict["a"].append(x)
    module.set.add(2)
    module.deque.append(x)
    module.notes.seen += 1
    module.notes.shapes.append(x.shape)
    module.array[0] = 5
    module.calls += 1


def _draws(module: Odd, x: Tensor) -> None:
    torch.manual_seed(7)
    torch.rand(3)
    torch.rand(3, generator=module.generator)
    module.dice.random(), module.numbers.random(), random.random(), np.random.rand()


def _trains(module: Odd, x: Tensor) -> None:
    module.train()
    module.norm(module.conv(x))


def _numpy(module: Odd, x: Tensor) -> None:
    module.table.numpy()[0] = 9
    module.conv.weight.detach().numpy()[0] = 9


def _hooks(module: Odd, x: Tensor) -> None:
    module.conv.register_forward_hook(lambda *_: None)
    module.add_module("late", nn.Linear(2, 2))
    module.conv.extra = 3


def _state(module: Odd, x: Tensor) -> None:
    module.table[:, :3] = x[0, :, 0, :3]  # a state that depends on the image


CHANGES = (_grid, _writes, _swaps, _keeps, _draws, _trains, _numpy, _hooks, _state)


def everything(module: nn.Module) -> Any:
    """All that can be told of a module, as values that compare."""
    seen: dict[int, str] = {}

    def tell(thing: Any) -> Any:
        if isinstance(thing, Tensor):
            return (id(thing), str(thing.device), thing.requires_grad, thing.tolist(), str(thing.dtype))
        if isinstance(thing, torch.Generator):
            return thing.get_state().tolist()
        if isinstance(thing, random.Random):
            return thing.getstate()
        if isinstance(thing, np.random.Generator):
            return repr(thing.bit_generator.state)
        if isinstance(thing, np.ndarray):
            return thing.tolist()
        if isinstance(thing, dict):
            return {str(key): tell(value) for key, value in thing.items()}
        if isinstance(thing, list | tuple | set | deque):
            return [tell(entry) for entry in thing]
        if isinstance(thing, nn.Module | Notes) and id(thing) not in seen:
            seen[id(thing)] = ""
            return type(thing).__name__, tell(vars(thing))
        return repr(thing)

    drawn = np.random.get_state()
    return tell(module), torch.random.get_rng_state().tolist(), random.getstate(), drawn[1].tolist(), drawn[2]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize("examples", [None, torch.ones(2, 3, 8, 8)], ids=["shapes", "examples"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_module_is_as_it_was(change: Callable[[Odd, Tensor], Any], examples: Tensor | None, training: bool) -> None:
    module = Odd(change).train(training)
    module.norm.eval()
    before = everything(module)
    given = None if examples is None else examples.clone()
    score(module, (3, 8, 8), examples=given)
    assert everything(module) == before
    assert given is None or torch.equal(given, torch.ones(2, 3, 8, 8))
    with torch.no_grad():
        assert module(torch.rand(1, 3, 8, 8)).shape == (1, 4, 8, 8)


@given(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=6), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=25)
def test_any_changes_together_and_a_failure_at_the_end(changes: list[Any], training: bool, fails: bool) -> None:
    def change(module: Odd, x: Tensor) -> None:
        for one in changes:
            one(module, x)
        if fails:
            raise ValueError("on the way")

    module = Odd(change).train(training)
    before = everything(module)
    for _ in range(2):
        with contextlib.suppress(UserError):  # some orders are refused: a buffer that holds the image's values leaves
            score(module, (3, 8, 8))
        assert everything(module) == before


def test_the_change_from_training_to_evaluation_is_undone_too() -> None:
    class Merges(nn.Linear):
        """Adds a product of two small matrices to its weight when it is put into evaluation mode, as LoRA does."""

        def __init__(self) -> None:
            super().__init__(8, 8, bias=False)
            self.a, self.b = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 8))
            self.merged = False

        def train(self, mode: bool = True) -> "Merges":
            if not mode and not self.merged:
                self.weight.data += self.a.data @ self.b.data
                self.merged = True
            return super().train(mode)

    module = Merges()
    before = everything(module)
    assert score(module, (8,)).params == 32  # merged, the small matrices are used no more
    assert everything(module) == before


def _pruned() -> nn.Module:
    layer = nn.Linear(6, 4)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    return layer


@pytest.mark.parametrize(
    "make",
    [
        _pruned,
        lambda: spectral_norm(nn.Linear(6, 4)),
        lambda: parametrizations.weight_norm(nn.Linear(6, 4)),
        lambda: parametrizations.spectral_norm(nn.Linear(6, 4)),
        lambda: parametrizations.orthogonal(nn.Linear(6, 4)),
        lambda: nn.LSTM(6, 4, batch_first=True),
    ],
)
def test_torchs_own_modules_that_move_things(make: Callable[[], nn.Module]) -> None:
    module = make()
    before = everything(module)
    score(module, (6,) if not isinstance(module, nn.LSTM) else (3, 6))
    assert everything(module) == before
    copied = copy.deepcopy(module.state_dict())
    assert all(torch.equal(tensor, copied[name]) for name, tensor in module.state_dict().items())


def test_no_weight_is_copied() -> None:
    """A network's weights are read where they are: scoring takes no second copy of them."""
    module = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
    copies = []
    clone, deep = Tensor.clone, Tensor.__deepcopy__
    try:
        Tensor.clone = lambda tensor, **options: (copies.append(tensor.numel()), clone(tensor, **options))[1]  # type: ignore
        Tensor.__deepcopy__ = lambda tensor, memo: (copies.append(tensor.numel()), deep(tensor, memo))[1]  # type: ignore
        score(module, (512,))
    finally:
        Tensor.clone, Tensor.__deepcopy__ = clone, deep  # type: ignore[method-assign]
    assert sum(copies) < 512 * 512
