"""A module inside `accelerate` and after it: the same names, tensors and copies, and plain again however it ends."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from netpress.models.blocks import ConvNorm
from netpress.models.inverted_residual import InvertedResidual
from netpress.models.registry import parse_model
from netpress.native.library import available
from netpress.training.accelerated import accelerate
from netpress.training.accelerated.inverted_residual import AcceleratedInvertedResidual

TEXT = "c_efficientnet:tiny,classes=5,dropout=0"


def _classes(module: nn.Module) -> list[type[nn.Module]]:
    return [type(part) for part in module.modules()]


def _network() -> nn.Module:
    return parse_model(TEXT).build().train()


def _images() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_everything_but_the_way_stays() -> None:
    network = _network()
    plain, names, tensors = _classes(network), [*dict(network.named_modules())], network.state_dict()
    with accelerate(network):
        assert AcceleratedInvertedResidual in _classes(network)
        assert [*dict(network.named_modules())] == names
        assert all(network.state_dict()[name] is not tensor for name, tensor in tensors.items())
        assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in tensors.items())
        assert all(
            part is not None and isinstance(part, kind) for part, kind in zip(network.modules(), plain, strict=True)
        )
    assert _classes(network) == plain


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt])
def test_it_is_plain_again_however_it_ends(end: type[BaseException]) -> None:
    network = _network()
    plain = _classes(network)
    with pytest.raises(end), accelerate(network):
        raise end
    assert _classes(network) == plain


def test_inside_another_it_changes_nothing() -> None:
    network = _network()
    with accelerate(network):
        inside = _classes(network)
        with accelerate(network):
            assert _classes(network) == inside
        assert _classes(network) == inside


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy])
def test_copies_are_plain_and_stand_alone(copied: Callable[[nn.Module], nn.Module]) -> None:
    block = _network().blocks[0]
    with accelerate(block):
        other = copied(block)
        assert type(other) is InvertedResidual
        if copied is copy.deepcopy:
            assert type(other.expand) is ConvNorm
            with torch.no_grad():
                other.expand.conv.weight.zero_()
            assert block.expand.conv.weight.any()
            assert other.state_dict().keys() == block.state_dict().keys()


@pytest.mark.parametrize("text", [TEXT, "efficientnet:width=0.2,depth=0.3,classes=5"])
def test_evaluation_is_torchs_own_to_the_bit(text: str) -> None:
    network = parse_model(text).build().eval()
    expected = network(_images())
    with accelerate(network):
        assert torch.equal(network(_images()), expected)


def test_a_hook_runs_wherever_it_is() -> None:
    network = _network()
    calls: list[str] = []
    for name, part in network.named_modules():
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        network(_images())
    expected, calls[:] = [*calls], []
    with accelerate(network):
        network(_images())
    assert calls == expected


@pytest.mark.skipif(not available(), reason="netpress was installed without a compiler")
def test_an_edited_block_stays_with_torch() -> None:
    """Here its depthwise convolution is two in a row; so stay the results, and the other blocks' way."""
    network = _network()
    first = network.blocks[0]
    conv = first.depthwise.conv
    first.depthwise.conv = nn.Sequential(
        nn.Conv2d(conv.in_channels, conv.in_channels, (1, 3), padding=(0, 1), groups=conv.in_channels),
        nn.Conv2d(conv.in_channels, conv.in_channels, (3, 1), padding=(1, 0), groups=conv.in_channels),
    )
    second = copy.deepcopy(network.blocks[0])
    second.depthwise = nn.Sequential(second.depthwise.conv, second.depthwise.norm)
    ways: list[str] = []
    for block in [*network.blocks, second]:
        block.register_forward_hook(lambda _, __, y: ways.append(str(y.grad_fn)))
    expected = copy.deepcopy(network)(_images())
    with accelerate(network), accelerate(second):
        found = network(_images())
        second(network.stem(_images()))
    assert ["_Inverted" in way for way in ways[-1 - len(network.blocks) :]] == [False, *[True] * 5, False]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
