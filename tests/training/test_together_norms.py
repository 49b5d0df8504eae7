"""Norms and draws over a batch in parts: values, gradients and running statistics of one batch."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from threads_as_team import in_threads
from torch import nn

from netpress.errors import UserError
from netpress.models.blocks import DropConnect
from netpress.models.pyramidnet import ShakeDrop
from netpress.training.together.share import Share
from netpress.training.together.swapping import check_shareable, shared


def step(module, x, weights):
    """y, the gradient for x, and those of the parameters, for the loss sum(y * weights)."""
    torch.manual_seed(3)
    x = x.detach().clone().requires_grad_()
    y = module(x)
    (y * weights).sum().backward()
    return y.detach(), x.grad, [p.grad for p in module.parameters()]


def step_in_parts(module, x, weights, size):
    """As `step`, by so many processes; their parts put together, gradients of parameters summed."""

    def work(team):
        own, share = copy.deepcopy(module), Share(team)
        with shared([own], share):
            assert share.divide(len(x))
            y, back, grads = step(own, x[share.rows], weights[share.rows])
        return y, back, grads, own.state_dict()

    # What draws asks the team for nothing, and threads share torch's random stream.
    draws = not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    found = [work(SimpleNamespace(rank=rank, size=size)) for rank in range(size)] if draws else in_threads(size, work)
    for other in found[1:]:
        assert all(torch.equal(one, other[3][name]) for name, one in found[0][3].items())
    grads = [sum(parts) for parts in zip(*(one[2] for one in found), strict=True)]
    return torch.cat([one[0] for one in found]), torch.cat([one[1] for one in found]), grads, found[0][3]


def modules():
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(5)
    nn.init.normal_(norm.weight)
    yield "norm", norm, (7, 5, 4, 3)
    yield "mean of all", nn.BatchNorm2d(5, momentum=None), (7, 5, 4, 3)
    yield "bare", nn.BatchNorm2d(5, affine=False), (7, 5, 4, 3)
    yield "without statistics", nn.BatchNorm2d(5, track_running_stats=False), (7, 5, 4, 3)
    yield "rows", nn.BatchNorm1d(5), (7, 5)
    yield "depthwise", nn.Sequential(nn.Conv2d(5, 5, 3, groups=5), nn.BatchNorm2d(5), nn.Hardswish()), (7, 5, 4, 3)
    yield "dropout", nn.Dropout(0.4), (7, 5, 4, 3)
    yield "drop connect", DropConnect(0.4), (7, 5, 4, 3)
    yield "shake drop", ShakeDrop(0.8), (7, 5, 4, 3)


@pytest.mark.parametrize(("module", "shape"), [pytest.param(m, s, id=name) for name, m, s in modules()])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_parts_of_a_batch_give_what_the_batch_gives(module, shape, size, layout):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(shape, generator=generator) * 2 + 30
    if len(shape) == 4:
        x = x.contiguous(memory_format=layout)
    weights = torch.randn(module(x).shape, generator=generator)
    exact = copy.deepcopy(module).double()
    draws = "Drop" in type(module).__name__  # in float64 it would draw other numbers
    whole = step(module, x, weights) if draws else step(exact, x.double(), weights.double())
    found = step_in_parts(module, x, weights, size)
    torch.testing.assert_close(found[0].double(), whole[0].double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1].double(), whole[1].double(), rtol=1e-4, atol=1e-5)
    for one, other in zip(found[2], whole[2], strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-4)
    for name, tensor in (exact if whole[0].dtype == torch.float64 else module).state_dict().items():
        torch.testing.assert_close(found[3][name].double(), tensor.double(), rtol=1e-5, atol=1e-6, msg=name)


def test_a_module_is_what_it_was_after_it_was_shared():
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    with shared([module], Share(SimpleNamespace(rank=0, size=2))):
        assert type(module[0]) is not nn.BatchNorm2d
        for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert [type(part) for part in copied] == [nn.BatchNorm2d, nn.Dropout]
    assert [type(part) for part in module] == [nn.BatchNorm2d, nn.Dropout]


def test_a_norm_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match="1: a Own takes statistics of a batch"):
        check_shareable(nn.Sequential(nn.BatchNorm2d(3), type("Own", (nn.BatchNorm2d,), {})(3)))
