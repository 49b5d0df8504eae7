"""The tracer sees what is executed: every operator, whoever calls it, under the right name, and leaves no trace."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from netpress.errors import UserError
from netpress.scoring import score
from netpress.tracing import trace


class Mixed(nn.Module):
    """Modules, functional calls, operators, a derived weight and a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.Hardswish(inplace=True)
        self.kernel = nn.Parameter(torch.randn(5, 8))
        self.unused = nn.Linear(4, 4)
        self.table = torch.ones(1, 8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        x = functional.relu6(x) + x * self.table
        x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return functional.linear(functional.normalize(x), functional.normalize(self.kernel))


def kinds(module: nn.Module, size: tuple[int, ...] = (3, 8, 8)) -> dict[str, tuple[str, str]]:
    return {operation.name: (operation.kind, operation.function) for operation in trace(module, size)}


def test_names_and_kinds_of_modules_functions_and_operators() -> None:
    found = kinds(Mixed())
    assert found["conv"] == ("conv", "conv")
    assert found["norm"] == ("norm", "batch_norm")
    assert found["act"] == ("activation", "hard_swish")
    assert found["relu6"] == ("activation", "relu6")
    assert found["mul"] == ("multiply", "mul")
    assert found["add"] == ("add", "add")
    assert found["average"] == ("pool", "average")
    assert found["linear"] == ("linear", "linear")


def test_a_weight_that_is_calculated_first_is_counted_by_its_real_zeros() -> None:
    module = Mixed()
    with torch.no_grad():
        module.kernel[0, :3] = 0
        module.kernel[1] = 0
    traced = trace(module, (3, 8, 8))
    linear = traced.by_name["linear"]
    assert linear.terms == ((0, 1), (5, 1), (8, 3))
    assert linear.derived_weight and linear.tensors == (linear.weight,) == ("weight",)
    assert traced.stored["weight"].made_of == ("kernel",) and traced.stored["weight"].nonzeros == 40 - 3 - 8
    assert not traced.stored["kernel"].used and traced.stored["kernel"].folded_into == "weight"
    assert not any(operation.within == "normalize" and operation.kind == "constant" for operation in traced)


def test_unused_and_unnamed_tensors_are_listed() -> None:
    traced = trace(Mixed(), (3, 8, 8))
    unused = {tensor.name for tensor in traced.unused if tensor.role == "parameter" and not tensor.folded_into}
    assert unused == {"unused.weight", "unused.bias"}
    assert traced.stored["constant"].shape == (1, 8, 1, 1)
    rows = {row.name: row for row in score(Mixed(), (3, 8, 8)).rows}
    assert rows["unused.weight"].uncounted and rows["unused.weight"].params == 0
    assert rows["mul"].storage_bits == 8 * 16


def test_tracing_changes_nothing() -> None:
    module = Mixed().train()
    module.norm.eval()
    module.conv.register_forward_pre_hook(lambda layer, inputs: None)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    hooks = len(module.conv._forward_pre_hooks), len(module.conv._forward_hooks)
    state = torch.random.get_rng_state()
    trace(module, (3, 8, 8))
    assert module.training and module.conv.training and not module.norm.training
    assert (len(module.conv._forward_pre_hooks), len(module.conv._forward_hooks)) == hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert module.conv.weight.device.type == "cpu"


def test_a_trace_on_the_meta_device_is_the_same() -> None:
    real = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 5)
    )
    with torch.device("meta"):
        shapes = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 5)
        )
    assert trace(real, (3, 8, 8)).operations == trace(shapes, (3, 8, 8)).operations


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1)


class Branching(nn.Module):
    """Leaves early for images whose mean is above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1, bias=False)
        self.second = nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return y if x.mean() > 0 else self.second(y)


class Insists(nn.Module):
    """Works on real tensors only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.cpu()) * 2


def test_an_operator_without_a_rule_is_an_error_that_names_it() -> None:
    with pytest.raises(UserError, match=r"inner \(Unknown\), operator cumsum"):
        trace(_Holder(Unknown()), (3, 4, 4))


class _Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_flow_that_depends_on_values_needs_examples() -> None:
    module = Branching()
    with pytest.raises(UserError, match="give examples"):
        trace(module, (3, 4, 4))
    examples = torch.cat([torch.ones(3, 3, 4, 4), -torch.ones(1, 3, 4, 4)])
    traced = trace(module, (3, 4, 4), examples=examples)
    assert traced.by_name["first"].share == 1.0
    assert traced.by_name["second"].share == 0.25
    assert traced.examples == 4
    row = {row.name: row for row in score(module, examples=examples).rows}["second"]
    assert row.multiplications == 4 * 4 * 16 / 4
    assert row.weights == 16  # what is stored does not depend on who leaves


def test_a_module_that_insists_on_real_tensors_gets_them() -> None:
    assert set(kinds(Insists())) >= {"relu", "mul"}


def test_a_forward_pass_that_fails_says_where() -> None:
    with pytest.raises(UserError, match=r"fails for an input of 5x4x4 in inner \(Conv2d\)"):
        trace(_Holder(nn.Conv2d(3, 4, 1)), (5, 4, 4))
