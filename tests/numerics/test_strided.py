"""Strided 1x1 convolutions of few channels: what they calculate, also where oneDNN has AVX2 alone."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from netpress.models.registry import parse_model
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import quantized_like
from netpress.numerics.strided import is_narrow_and_strided, keep_in_bounds
from netpress.scoring import score
from netpress.training.placement import lay_out

pytestmark = pytest.mark.slow

# In a process of its own, since oneDNN chooses its level once: gradients of narrow layers, and of networks with such
# shortcuts, laid out as in a training, against the same in float64.
UNDER_AVX2 = """
import sys, torch
from torch import nn
from netpress.models.registry import parse_model
from netpress.numerics.strided import keep_in_bounds
from netpress.training.placement import lay_out

torch.set_num_threads(int(sys.argv[1]))
generator = torch.Generator().manual_seed(0)
worst = 0.0
for channels in range(1, 9):
    for stride, size in ((2, 8), (2, 14), (4, 16), ((1, 2), 8), ((2, 1), 8)):
        layer = nn.Conv2d(channels, 8, 1, stride)
        twin = nn.Conv2d(channels, 8, 1, stride).double()
        twin.load_state_dict(layer.state_dict())
        lay_out(layer, torch.device("cpu"))
        x = torch.randn(32, channels, size, size, generator=generator)
        y = layer(x.to(memory_format=torch.channels_last))
        ahead = torch.randn(y.shape, generator=generator)
        y.backward(ahead.to(memory_format=torch.channels_last))
        twin(x.double()).backward(ahead.double())
        for one, other in zip(layer.parameters(), twin.parameters()):
            worst = max(worst, float((one.grad - other.grad).abs().max() / other.grad.abs().max()))
assert worst < 1e-5, worst

for width in (4, 6):
    module = parse_model(f"resnet:width={width},blocks=[1,1,1],classes=4,image_size=16").build().train()
    twin = parse_model(f"resnet:width={width},blocks=[1,1,1],classes=4,image_size=16").build().double().train()
    lay_out(module, torch.device("cpu"))
    for step in range(3):
        x = torch.randn(16, 3, 16, 16, generator=generator)
        module.zero_grad()
        nn.functional.cross_entropy(module(x.to(memory_format=torch.channels_last)), torch.arange(16) % 4).backward()
        if step == 0:
            nn.functional.cross_entropy(twin(x.double()), torch.arange(16) % 4).backward()
            shortcuts = [name for name, _ in module.named_parameters() if "shortcut.conv" in name]
            for name in shortcuts:
                one, other = module.get_parameter(name).grad, twin.get_parameter(name).grad
                off = float((one - other).abs().max() / other.abs().max())
                assert off < 1e-3, (name, off)
            assert len(shortcuts) == 2
print("right")
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_training_is_right_where_onednn_has_avx2_alone(threads: int) -> None:
    environment = {**os.environ, "DNNL_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": str(threads)}
    words = [sys.executable, "-c", UNDER_AVX2, str(threads)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


def _layer(inputs: int = 4, stride: int | tuple[int, int] = 2) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, 5, 1, stride)


def _gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad is not None
    return [x.grad, *(parameter.grad for parameter in layer.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("stride", [2, 3, (1, 2), (3, 1)])
def test_it_is_the_same_convolution(stride: int | tuple[int, int]) -> None:
    plain = _layer(stride=stride)
    other = keep_in_bounds(copy.deepcopy(plain))
    x = torch.randn(3, 4, 7, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(other(x), plain(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(other(x[0]), plain(x[0]), atol=1e-6, rtol=1e-6)  # one image without a batch
    for one, two in zip(_gradients(other, x), _gradients(plain.double(), x.double()), strict=True):
        torch.testing.assert_close(one.double(), two, atol=1e-5, rtol=1e-5)


def test_only_that_kind_is_touched() -> None:
    touched = [
        _layer(1),
        _layer(7, (1, 2)),
        quantized_like(_layer(), LayerFormats()),
    ]
    others = [
        _layer(8),
        _layer(4, 1),
        nn.Conv2d(4, 4, 3, 2),
        nn.Conv2d(4, 4, 1, 2, padding=1),
        nn.Conv2d(4, 4, 1, 2, groups=2),
        nn.Conv2d(4, 4, 1, 2, groups=4),
    ]
    for layer in (*touched, *others):
        keep_in_bounds(layer)
    assert all("_conv_forward" in vars(layer) for layer in touched)
    assert not any("_conv_forward" in vars(layer) for layer in others)


@pytest.mark.parametrize(
    ("text", "has_any"),
    [
        ("resnet:width=4", True),
        ("resnet:width=6,channels=1", True),
        ("c_efficientnet:tiny,width_factor=0.2,downsample=shortcut", True),
        ("wide_resnet:depth=10,width=1", False),
        ("efficientnet:width=0.1,depth=0.3,stem_stride=2", False),
        ("densenet:growth=2,blocks=[2,2]", False),
        ("pyramidnet:depth=11,alpha=3", False),
    ],
)
def test_every_family_keeps_them_in_bounds(text: str, has_any: bool) -> None:
    module = parse_model(text).build()
    kept = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and is_narrow_and_strided(layer)]
    assert all("_conv_forward" in vars(layer) and type(layer) is nn.Conv2d for layer in kept)
    assert bool(kept) == has_any


def test_a_module_of_a_users_own_is_trained_in_bounds() -> None:
    module = nn.Sequential(_layer(), nn.ReLU())
    lay_out(module, torch.device("cpu"))
    assert "_conv_forward" in vars(module[0])


def test_whoever_looks_sees_one_strided_convolution() -> None:
    plain = nn.Sequential(_layer(), nn.ReLU())
    kept = keep_in_bounds(copy.deepcopy(plain))
    one, two = score(plain, input_size=(4, 8, 8)), score(kept, input_size=(4, 8, 8))
    assert one.score == two.score and one.operations == two.operations
    x = torch.zeros(2, 4, 8, 8)
    graph = torch.export.export(kept.eval(), (x,)).graph  # with gradients on, as by default
    found = [node for node in graph.nodes if node.op == "call_function"]
    assert [str(node.target) for node in found] == ["aten.conv2d.default", "aten.relu.default"]
    assert found[0].args[3] == [2, 2]


def test_copies_and_pickles_stay_whole() -> None:
    layer = keep_in_bounds(_layer())
    twin = copy.deepcopy(layer)
    assert twin._conv_forward.__self__ is twin  # type: ignore[attr-defined, union-attr]
    assert layer.state_dict().keys() == nn.Conv2d(4, 5, 1, 2).state_dict().keys()
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
