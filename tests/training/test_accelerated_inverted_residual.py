"""The fused inverted residual against its modules one after another, in float64, for each variant of the kernels."""

import copy
import ctypes
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from netpress.models.blocks import ConvNorm
from netpress.models.c_efficientnet import CEfficientNet, CEfficientNetSettings
from netpress.models.efficientnet import EfficientNet, EfficientNetSettings
from netpress.models.inverted_residual import InvertedResidual
from netpress.native import blocks
from netpress.native.library import SWITCH, available, library
from netpress.training.accelerated import accelerate, inverted_residual
from netpress.training.accelerated.inverted_residual import is_fusable

pytestmark = pytest.mark.skipif(not available(), reason="netpress was installed without a compiler")


@dataclass
class Case:
    inputs: int
    inside: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    padding: int | tuple[int, int] = 1
    gated: bool = True
    gate: Literal["inside", "output", "nothing"] = "output"
    activation: type[nn.Module] = nn.Hardswish
    bias: bool = False
    drop_connect: float = 0.0
    shortcut: str = "none"
    images: tuple[int, int, int] = (3, 7, 9)  # how many, height, width


_swish = functools.partial(Case, activation=nn.SiLU, gate="inside", bias=True)

CASES = {
    "the network's second block": Case(16, 48, 16, shortcut="identity", images=(5, 32, 32)),
    "odd widths": Case(6, 10, 6, shortcut="identity"),
    "no gate, no shortcut": Case(6, 10, 5, gated=False),
    "a shortcut of its own": Case(6, 17, 5, shortcut="conv"),
    "stride 2": Case(7, 40, 20, stride=2, images=(4, 8, 8)),
    "stride 2, odd sizes": Case(7, 40, 20, stride=2, images=(2, 9, 7)),
    "a kernel of 2": Case(20, 50, 9, kernel=2, stride=2, padding=0, shortcut="conv", images=(4, 6, 6)),
    "a last row that no kernel sees": Case(4, 9, 3, kernel=2, stride=2, padding=0, gated=False, images=(2, 7, 5)),
    "a kernel of 5": Case(5, 17, 5, kernel=5, padding=2, shortcut="identity"),
    "a kernel of 5, stride 2": Case(5, 17, 3, kernel=5, stride=2, padding=2),
    "a kernel of 3 without padding": Case(5, 17, 3, padding=0),
    "one pixel": Case(5, 17, 5, shortcut="identity", images=(6, 1, 1)),
    "one row": Case(5, 17, 5, shortcut="identity", images=(2, 1, 6)),
    "wide, many images": Case(24, 72, 24, shortcut="identity", images=(37, 4, 4)),
    "swish alone": _swish(6, 10, 5, gated=False),
    "swish, gated output": _swish(6, 17, 6, gate="output", shortcut="identity"),
    "hard-swish, gated inside": Case(6, 17, 6, gate="inside", shortcut="identity"),
    "EfficientNet's second block": _swish(16, 96, 24, images=(5, 16, 16)),
    "relu": Case(6, 17, 6, activation=nn.ReLU, shortcut="identity"),
    "relu, a kernel of 5, stride 2": Case(
        5, 36, 5, activation=nn.ReLU, kernel=5, padding=2, stride=2, images=(4, 11, 10)
    ),
    "drop connect": _swish(6, 17, 6, shortcut="identity", drop_connect=0.4, images=(7, 6, 5)),
    "drop connect, gated output": Case(6, 17, 6, shortcut="identity", drop_connect=0.4, images=(7, 6, 5)),
    "gated inside, a kernel of 5": _swish(5, 36, 5, kernel=5, padding=2, shortcut="identity", images=(4, 11, 10)),
    "a kernel of 5, few rows": _swish(5, 36, 5, kernel=5, padding=2, shortcut="identity", images=(4, 2, 10)),
    "a kernel of 5, one pixel": _swish(5, 36, 5, kernel=5, padding=2, images=(4, 1, 1)),
    "more zeros after": _swish(5, 17, 6, stride=2, padding=(0, 1), images=(3, 8, 10)),
    "more zeros after, a kernel of 5": _swish(5, 17, 6, kernel=5, stride=2, padding=(1, 2), images=(3, 8, 6)),
    "more zeros after, stride 1": _swish(5, 17, 6, kernel=3, padding=(0, 2), images=(3, 8, 6)),
}


def _block(case: Case) -> InvertedResidual:
    torch.manual_seed(0)
    shortcuts = {
        "none": None,
        "identity": nn.Identity(),
        "conv": ConvNorm(case.inputs, case.outputs, stride=case.stride),
    }
    block = InvertedResidual(
        case.inputs,
        case.inside,
        case.outputs,
        activation=case.activation,
        kernel=case.kernel,
        stride=case.stride,
        padding=case.padding,
        squeezed=max(1, case.outputs // 4) if case.gated else 0,
        gated=case.gate,
        project_bias=case.bias,
        drop_connect=case.drop_connect,
        shortcut=shortcuts[case.shortcut],
    )
    for link, momentum in ((block.expand, 0.3), (block.depthwise, 0.2), (block.project, 0.1)):
        assert link is not None
        link.norm.momentum = momentum
        nn.init.normal_(link.norm.weight, 1.0, 0.5)
        nn.init.normal_(link.norm.bias)
        nn.init.normal_(link.norm.running_mean)  # by which sums are centred, near or not
    return block.train()


def _by_modules(block: InvertedResidual, x: Tensor) -> Tensor:
    return block(x)


def _by_kernels(block: InvertedResidual, x: Tensor) -> Tensor:
    with accelerate(block):
        y = block(x)
    assert "_Inverted" in str(y.grad_fn)
    return y


def _images(case: Case, seed: int = 1) -> Tensor:
    count, height, width = case.images
    generator = torch.Generator().manual_seed(seed)
    return 2 + torch.randn(
        count, case.inputs, height, width, generator=generator
    )  # far from zero, where sums lose most


def _run(block: InvertedResidual, x: Tensor, run: Callable[[InvertedResidual, Tensor], Tensor]) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    torch.manual_seed(5)  # what drop connect draws
    y = run(block, x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(y.dtype))
    assert x.grad is not None
    gradients = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
    return {"result": y.detach(), "input": x.grad, **gradients, **dict(block.named_buffers())}


def _assert_equal(found: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    assert found.keys() == exact.keys()
    for name, one in found.items():
        scale = float(exact[name].abs().max()) + 1e-3
        torch.testing.assert_close(one.double(), exact[name].double(), atol=1e-4 * scale, rtol=0, msg=name)


@pytest.fixture(params=[16, 8, 4], ids=lambda lanes: f"{lanes} lanes")
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Vectors of so many floats, where this processor has them."""
    loaded, most = blocks._kernels()
    if request.param > most:
        pytest.skip(f"this processor has vectors of {most} floats")
    monkeypatch.setattr(blocks, "_kernels", lambda: (loaded, request.param))
    yield request.param


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_modules(case: Case, lanes: int) -> None:
    block, x = _block(case), _images(case)
    exact = _run(copy.deepcopy(block).double(), x.double(), _by_modules)
    _assert_equal(_run(block, x, _by_kernels), exact)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_and_always_the_same_bits(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_WORTH_A_THREAD", 1)
    case = CASES["wide, many images"]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one, other = (_run(_block(case), _images(case), _by_kernels) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one[name], other[name]) for name in one)
    _assert_equal(one, _run(_block(case).double(), _images(case).double(), _by_modules))


def test_small_blocks_wake_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert blocks.InvertedResidual(128, 2, 2, 24, 80, 24, 3, 1, 1)._threads() == 1
    assert blocks.InvertedResidual(128, 8, 8, 72, 224, 72, 3, 1, 1)._threads() == 8
    assert blocks.InvertedResidual(3, 32, 32, 72, 224, 72, 3, 1, 1)._threads() == 3


def test_channels_last_or_not_gives_the_same() -> None:
    case = CASES["odd widths"]
    last = _images(case).to(memory_format=torch.channels_last)
    one, other = _run(_block(case), _images(case), _by_kernels), _run(_block(case), last, _by_kernels)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["result"].is_contiguous(memory_format=torch.channels_last)


def test_frozen_parameters_stay_without_gradient() -> None:
    case = CASES["odd widths"]
    block = _block(case)
    frozen = [block.expand.conv.weight, block.project.norm.bias, block.squeeze_excite.reduce.weight]
    for parameter in frozen:
        parameter.requires_grad_(False)
    found, exact = _run(block, _images(case), _by_kernels), copy.deepcopy(block).double()
    exact.load_state_dict(_block(case).double().state_dict())
    _assert_equal(found, _run(exact, _images(case).double(), _by_modules))
    assert all(parameter.grad is None for parameter in frozen)


def test_moments_of_what_lies_far_from_zero() -> None:
    shape = blocks.InvertedResidual(5, 9, 7, 6, 16, 5, 3, 1, 1)
    x = 1000 + torch.randn(5, 9, 7, 6, generator=torch.Generator().manual_seed(4))
    sums = shape.moments(x)[:, :6]
    rows = x.double().flatten(0, 2)
    mean = sums[0] / len(rows)
    torch.testing.assert_close(mean, rows.mean(0), rtol=1e-9, atol=0)
    covariance = sums[1:] / len(rows) - torch.outer(mean, mean)
    torch.testing.assert_close(covariance, rows.t().cov(correction=0), rtol=0, atol=1e-5)


def test_backward_runs_twice_where_the_graph_is_kept() -> None:
    case = CASES["odd widths"]
    block, x = _block(case), _images(case).requires_grad_()
    y = _by_kernels(block, x).sum()
    y.backward(retain_graph=True)
    once = [p.grad.clone() for p in block.parameters()]
    y.backward()
    for one, both in zip(once, block.parameters(), strict=True):
        torch.testing.assert_close(2 * one, both.grad)


def test_a_single_value_is_refused_as_torch_refuses_it() -> None:
    case = CASES["one pixel"]
    x = _images(case)[:1]
    assert not is_fusable(_block(case), x)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        _by_modules(_block(case), x)


def test_statistics_that_are_not_finite_do_no_harm() -> None:
    case = CASES["odd widths"]
    block = _block(case)
    block.depthwise.norm.running_mean.fill_(float("nan"))
    block.project.norm.running_mean.fill_(float("inf"))
    found = _run(block, _images(case), _by_kernels)
    assert found["result"].isfinite().all() and found["input"].isfinite().all()


def test_is_fused_only_where_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["odd widths"]
    x = _images(case)

    def fusable(change: Callable[[InvertedResidual], object] = lambda block: None, x: Tensor = x) -> bool:
        block = _block(case)
        change(block)
        return is_fusable(block, x)

    assert fusable()
    assert not fusable(InvertedResidual.eval)
    assert not fusable(InvertedResidual.double, x.double())
    assert not fusable(lambda block: block.depthwise.eval())
    assert not fusable(lambda block: block.project.register_forward_hook(lambda *_: None))
    assert not fusable(lambda block: block.squeeze_excite.register_forward_hook(lambda *_: None))
    assert not fusable(lambda block: block.squeeze_excite.pool.register_forward_hook(lambda *_: None))
    assert not fusable(lambda block: block.depthwise.conv.register_forward_pre_hook(lambda *_: None))
    assert not fusable(lambda block: setattr(block.depthwise, "activation", nn.ReLU()))
    assert not fusable(lambda block: setattr(block.depthwise, "activation", nn.SiLU()))
    assert not fusable(lambda block: setattr(block, "drop_connect", nn.Dropout(0.5)))
    case = CASES["drop connect"]
    assert fusable()
    assert not fusable(lambda block: block.drop_connect.register_forward_hook(lambda *_: None))
    assert not fusable(lambda block: block.squeeze_excite.pool.register_forward_hook(lambda *_: None))
    case = CASES["more zeros after"]
    assert fusable()
    assert not fusable(lambda block: block.depthwise.pad.register_forward_hook(lambda *_: None))
    assert not fusable(lambda block: setattr(block.depthwise, "pad", nn.ReflectionPad2d((0, 1, 0, 1))))
    assert not fusable(lambda block: setattr(block.depthwise, "pad", nn.ZeroPad2d((1, 0, 0, 1))))
    case = CASES["odd widths"]
    assert not fusable(lambda block: setattr(block.project, "norm", nn.Identity()))
    with torch.no_grad():
        assert not fusable()
    with torch.autocast("cpu", torch.bfloat16):
        assert not fusable()
    monkeypatch.setattr(inverted_residual, "available", lambda: False)
    assert not fusable()


def _values(count: int) -> Tensor:
    spread = torch.linspace(-30, 30, count)
    return torch.cat([spread, torch.tensor([0.0, -0.0, 1e-30, -80.0, 86.0, -200.0, 200.0])])


def test_swish_is_torchs_to_a_few_units_in_the_last_place(lanes: int) -> None:
    x = _values(16 * 1000 + 9).view(1, -1, 1, 16).contiguous()
    shape = blocks.InvertedResidual(1, x.shape[1], 1, 1, 16, 16, 1, 1, 0, activation=1)
    found = shape.narrow(x, torch.ones(16), torch.zeros(16), torch.eye(16))[0].flatten()
    exact = nn.functional.silu(x.flatten().double())
    units = (found.double() - exact).abs() / exact.abs().clamp_min(1e-28) * 2**23  # smaller ones do not matter
    assert float(units.max()) < 4


def test_the_slope_of_swish_is_torchs(lanes: int) -> None:
    x = _values(16 * 1000 + 9).view(1, -1, 1, 16).contiguous()
    shape = blocks.InvertedResidual(1, x.shape[1], 1, 1, 16, 16, 1, 1, 0, activation=1)
    norm = torch.ones(16), torch.zeros(16), torch.zeros(16)
    parts = torch.ones(1, 16), torch.zeros(16), torch.zeros(1, 16)
    found = shape.narrow_backward(torch.ones_like(x), x, parts, torch.eye(16), x, norm)[0].flatten()
    wanted = x.flatten().double().requires_grad_()
    nn.functional.silu(wanted).sum().backward()
    torch.testing.assert_close(found.double(), wanted.grad, rtol=1e-6, atol=3e-7)


def _c_efficientnet() -> nn.Module:
    return CEfficientNet(CEfficientNetSettings(widths="tiny", classes=10, dropout=0.0))


def _efficientnet() -> nn.Module:
    return EfficientNet(EfficientNetSettings(width=0.25, depth=0.5, classes=10, strides=(1, 2, 2, 1, 1, 2, 1)))


@pytest.mark.parametrize("build", [_c_efficientnet, _efficientnet])
def test_a_network_trains_to_the_same_weights(build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    def weights_after_a_step(kernels: bool) -> dict[str, Tensor]:
        monkeypatch.setattr(inverted_residual, "available", lambda: kernels)
        torch.manual_seed(0)
        network = build().train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(2))
        with accelerate(network):
            network(x).logsumexp(1).sum().backward()
        optimizer.step()
        return {name: tensor.detach() for name, tensor in network.state_dict().items()}

    _assert_equal(weights_after_a_step(True), weights_after_a_step(False))


def test_arrays_of_another_size_are_refused() -> None:
    shape = blocks.InvertedResidual(2, 4, 4, 3, 16, 5, 3, 1, 1)
    with pytest.raises(ValueError, match=r"moments: x must be dense torch.float32 \[2, 4, 4, 3\]"):
        shape.moments(torch.zeros(2, 4, 4, 4))
    with pytest.raises(ValueError, match="float64"):
        shape.moments(torch.zeros(2, 4, 4, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="dense"):
        shape.moments(torch.zeros(2, 3, 4, 4).permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match="no passes"):
        blocks.InvertedResidual(2, 4, 4, 3, 15, 5, 3, 1, 1)


def test_the_structure_is_as_long_as_its_c_twin() -> None:
    loaded = library()
    assert loaded is not None
    assert loaded.netpress_block_bytes() == ctypes.sizeof(blocks._Block)


def test_the_switch_leaves_kernels_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    library.cache_clear()
    try:
        assert not available()
    finally:
        monkeypatch.undo()
        library.cache_clear()
