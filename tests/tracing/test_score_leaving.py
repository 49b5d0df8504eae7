"""Values that leave torch in a forward pass, or steer it: refused, or counted with examples, never a silent 0."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netpress.errors import UserError
from netpress.scoring import Row, score


class Layer(nn.Module):
    """A linear layer of 8 inputs and 4 outputs after `function`: 32 products, 28 additions and a bias."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.function(x))


class ThroughNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(np.tanh(x.numpy()))


LEAVE: dict[str, Callable[[Tensor], Any]] = {
    "numpy": lambda x: torch.from_numpy(np.tanh(x.detach().cpu().numpy())),
    "asarray": lambda x: torch.from_numpy(np.asarray(x) * 2),
    "array protocol": lambda x: torch.as_tensor(np.sqrt(x)),
    "a function of autograd": ThroughNumpy.apply,
    "list": lambda x: torch.tensor(x.tolist()),
    "dlpack": lambda x: torch.from_dlpack(x.cpu()),
    "numpy by dlpack": lambda x: torch.from_numpy(np.from_dlpack(x.cpu())),
    "deep copy": copy.deepcopy,
    "storage": lambda x: torch.empty(0).set_(x.cpu().untyped_storage()).reshape(1, 8),
    "on the side": lambda x: x + torch.from_numpy(x.cpu().numpy()),
    "in a buffer of numpy's": lambda x: (lambda a: (np.copyto(a, x.cpu().numpy()), torch.from_numpy(a))[1])(
        np.zeros((1, 8), np.float32)
    ),
}


def test_a_refusal_that_the_forward_pass_catches_is_one_still() -> None:
    def numpy(x: Tensor) -> Tensor:
        try:
            return torch.from_numpy(x.numpy())
        except Exception:
            return x

    def steers(x: Tensor) -> Tensor:
        try:
            return x if x.sum() > 0 else -x
        except Exception:
            return x

    def unknown(x: Tensor) -> Tensor:
        try:
            return torch.cumsum(x, 1)
        except Exception as error:
            raise ValueError("another") from error

    for function, words in ((numpy, "leave torch"), (steers, "give examples"), (unknown, "operator cumsum: no rule")):
        with pytest.raises(UserError, match=words):
            score(Layer(function), (8,))


@pytest.mark.parametrize("way", LEAVE)
@pytest.mark.parametrize("examples", [None, torch.ones(2, 8)], ids=["shapes", "examples"])
def test_values_that_leave_torch_are_refused(way: str, examples: Tensor | None) -> None:
    with pytest.raises(UserError, match=r"the network \(Layer\), operator \w+: values that depend on the input leave"):
        score(Layer(LEAVE[way]), (8,), examples=examples)


STEER: dict[str, Callable[[Tensor], Any]] = {
    "allclose": lambda x: x if torch.allclose(x, x * 2) else -x,
    "equal": lambda x: x if torch.equal(x, x * 2) else -x,
    "bool": lambda x: x if x.sum() > 0 else -x,
    "float": lambda x: x * float(x.max()),
    "item": lambda x: x * x.max().item(),
    "int": lambda x: x * int(x.argmax()),
    "index": lambda x: x * [1, 2, 3, 4, 5, 6, 7, 8][x[0].argmax()],
    "mask": lambda x: x[x > 0].sum() + x,
    "mask of another": lambda x: x[:, torch.ones(8)[None].expand_as(x)[0] * x[0] > 0].sum() + x,
    "nonzero": lambda x: x + x.nonzero().shape[0],
    "where": lambda x: x + torch.where(x > 0)[0].shape[0],
    "masked_select": lambda x: x + x.masked_select(x > 0).sum(),
    "unique": lambda x: x + torch.unique(x).shape[0],
    "isin": lambda x: x if 1 in x else -x,
    "for each number": lambda x: x * sum(float(number) for number in x[0]),
}


@pytest.mark.parametrize("way", STEER)
@pytest.mark.parametrize("real", [False, True], ids=["shapes", "insists on real tensors"])
def test_values_that_steer_need_examples(way: str, real: bool) -> None:
    with pytest.raises(UserError, match="depends on values of its input; give examples"):
        score(Layer(lambda x: STEER[way](x.cpu() if real else x)), (8,))


SEEN: dict[str, Callable[[Tensor], Any]] = {
    "data": lambda x: x.data,
    "detached": lambda x: x.detach().clone(),
    "real": lambda x: x.cpu(),
    "written into zeros": lambda x: torch.zeros(1, 8).index_copy_(1, torch.arange(8), x),
    "written into a slice": lambda x: _written(torch.zeros(1, 8), x),
    "written into its own zeros": lambda x: _written(x.new_zeros(1, 8), x),
    "written into a view": lambda x: _written(torch.zeros(8).view(1, 8), x),
    "tensor of a tensor": lambda x: torch.stack([value for row in x for value in row])[None],
    "shown": lambda x: (f"{x} {x.sum():.2f}", x)[1],
}


def _written(place: Tensor, x: Tensor) -> Tensor:
    place[:, :4] = x[:, :4]
    place[:, 4:] = x[:, 4:]
    return place


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("way", SEEN)
@pytest.mark.parametrize("real", [False, True], ids=["shapes", "real tensors"])
def test_what_stays_in_torch_is_counted(way: str, real: bool) -> None:
    card = score(Layer(lambda x: SEEN[way](x.cpu() if real else x)), (8,))
    rows = {row.name: row for row in card.rows}
    assert (rows["linear"].multiplications, rows["linear"].additions) == (32, 32)
    assert rows["linear"].storage_bits == 16 * (32 + 4)


def rows_of(function: Callable[[Any], Any], examples: Tensor) -> dict[str, Row]:
    return {row.name: row for row in score(Layer(function), examples=examples).rows}


EXAMPLES = torch.eye(8)[:4] * 2 - 1  # one value of each is 1, the others are -1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.max().item(),
        lambda x: torch.full((1, 8), x.max().item()) + 0 * x,
        lambda x: torch.tensor([[x.max().item()] * 8]),
        lambda x: torch.tensor([x.max().item()]).expand(1, 8),
    ],
)
def test_a_number_that_comes_back_is_a_value_still(function: Any) -> None:
    row = rows_of(function, EXAMPLES)["linear"]
    assert (row.multiplications, row.additions) == (32, 32)


def test_chosen_values_are_counted_as_many_as_there_are() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Linear(1, 5, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.wide(x[x > 0][:, None]).sum(0)

    images = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0]])
    card = score(Chosen(), examples=images)
    wide = [row for row in card.rows if row.name.startswith("wide")]
    assert sum(row.multiplications for row in wide) == 5 * (2 + 4) / 2
    assert not any("never used" in row.note for row in card.rows)


def test_experts_chosen_by_number() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(8, 2, bias=False)
            self.router.weight.data = torch.stack([torch.ones(8), torch.zeros(8)])
            self.experts = nn.ModuleList([nn.Linear(8, 3, bias=False), nn.Linear(8, 5, bias=False)])

        def forward(self, x: Tensor) -> Tensor:
            (chosen,) = self.router(x).argmax(1).tolist()
            return self.experts[chosen](x).sum()

    rows = {row.name: row for row in score(Experts(), examples=torch.cat([torch.ones(3, 8), -torch.ones(1, 8)])).rows}
    assert (rows["experts.0"].multiplications, rows["experts.1"].multiplications) == (24 * 0.75, 40 * 0.25)
    assert not rows["router"].note


@pytest.mark.parametrize(
    "function", [lambda x: torch.ones(1, 8), lambda x: torch.ones_like(x), lambda x: torch.arange(8.0)[None]]
)
@pytest.mark.parametrize("examples", [None, torch.ones(2, 8)], ids=["shapes", "examples"])
def test_a_result_that_does_not_depend_on_the_input_is_refused(function: Any, examples: Tensor | None) -> None:
    with pytest.raises(UserError, match="Layer: what its forward pass returns does not depend on its input"):
        score(Layer(function), (8,), examples=examples)


@pytest.mark.parametrize("result", [lambda y: {"y": y}, lambda y: [(y,)], lambda y: type("Out", (), {})()])
def test_results_in_containers(result: Any) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            made = result(self.linear(x))
            if not isinstance(made, dict | list):
                made.logits = self.linear(x)
            return made

    assert score(Wrapped(), (8,)).params == 18


def test_a_library_without_a_rule_is_refused() -> None:
    @torch.library.custom_op("netpress_tests::relu", mutates_args=())
    def relu(x: Tensor) -> Tensor:
        return torch.from_numpy(np.maximum(x.numpy(), 0))

    with pytest.raises(UserError, match=r"operator netpress_tests\.relu: no rule says"):
        score(Layer(relu), (8,))
    with pytest.raises(UserError, match=r"operator _foreach_add_: no rule says"):
        score(Layer(lambda x: (torch._foreach_add_([x], 1.0), x)[1]), (8,))
