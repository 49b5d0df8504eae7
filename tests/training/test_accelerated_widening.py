"""The fused widening against its three modules one after another, in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from netpress.models.blocks import ConvNorm
from netpress.models.c_efficientnet import CEfficientNet, CEfficientNetSettings
from netpress.training.accelerated import accelerate, widening


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "WORTHWHILE_BYTES", 0)


def _link(inputs: int = 6, outputs: int = 10, activation: nn.Module | None = None) -> ConvNorm:
    torch.manual_seed(0)
    link = ConvNorm(inputs, outputs, momentum=0.3, activation=activation or nn.Hardswish())
    nn.init.normal_(link.norm.weight, 1.0, 0.5)
    nn.init.normal_(link.norm.bias)
    return link.to(memory_format=torch.channels_last).train()


def _widen(link: ConvNorm, x: Tensor) -> Tensor:
    with accelerate(link):
        return link(x)


def _images(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(memory_format=torch.channels_last)


def _run(link: ConvNorm, x: Tensor, run: Callable[[ConvNorm, Tensor], Tensor]) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = run(link, x)
    y.backward(_images(9, *y.shape).to(y.dtype))
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in link.parameters() if p.grad is not None), *link.buffers()]


@pytest.mark.parametrize("shape", [(5, 6, 7, 9), (3, 6, 1, 4), (40, 6, 16, 16)])
@pytest.mark.parametrize("activation", [nn.Hardswish, nn.SiLU, nn.ReLU])
def test_equals_the_modules(shape: tuple[int, ...], activation: type[nn.Module]) -> None:
    link, x = _link(activation=activation()), 3 + _images(1, *shape)  # far from zero, where sums of squares lose most
    exact = _run(copy.deepcopy(link).double(), x.double(), lambda link, x: link(x))
    found = _run(link, x, _widen)
    assert len(found) == len(exact) == 8  # result, gradients for x and three parameters, three statistics
    for one, other in zip(found, exact, strict=True):
        scale = float(other.abs().max()) or 1.0
        torch.testing.assert_close(one.double(), other.double(), atol=1e-4 * scale, rtol=0)


def test_is_fused_only_where_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _images(1, 4, 6, 5, 5)

    def is_fused(link: ConvNorm, x: Tensor = x) -> bool:
        return "_Widening" in str(_widen(link, x).grad_fn)

    hooked, norm_hooked = _link(), _link()
    hooked.register_forward_hook(lambda *_: None)
    norm_hooked.norm.register_forward_pre_hook(lambda *_: None)
    assert is_fused(_link())
    assert is_fused(_link(activation=nn.SiLU()))
    assert not is_fused(_link().eval())
    assert not is_fused(_link(outputs=4))
    assert not is_fused(_link(activation=nn.ReLU6()))
    assert not is_fused(hooked)
    assert not is_fused(norm_hooked)
    assert not is_fused(_link().double(), x.double())
    with torch.no_grad():
        assert _widen(_link(), x).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_fused(_link())
    monkeypatch.setattr(widening, "WORTHWHILE_BYTES", 4 * 10 * 25 * 4)
    assert is_fused(_link())
    assert not is_fused(_link(), x[:3])


def test_frozen_weights_and_inputs_without_gradient() -> None:
    link, x = _link(), _images(1, 4, 6, 5, 5)
    link.conv.weight.requires_grad_(False)
    y = _widen(link, x)
    y.sum().backward()
    assert link.conv.weight.grad is None and x.grad is None
    assert link.norm.bias.grad is not None


def test_a_network_trains_to_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights_after_a_step(threshold: int) -> list[Tensor]:
        monkeypatch.setattr(widening, "WORTHWHILE_BYTES", threshold)
        torch.manual_seed(0)
        network = CEfficientNet(CEfficientNetSettings(widths="tiny", classes=10, dropout=0.0)).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        with accelerate(network):
            network(_images(2, 16, 3, 32, 32)).logsumexp(1).sum().backward()
        optimizer.step()
        return [tensor.detach() for tensor in network.state_dict().values()]

    for one, other in zip(weights_after_a_step(0), weights_after_a_step(1 << 40), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3 * (float(other.abs().max()) + 1e-3), rtol=0)
