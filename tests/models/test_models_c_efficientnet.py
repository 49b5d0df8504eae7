"""C-EfficientNet against the figures of the released networks and of the paper."""

import math

import pytest
import torch
from torch import nn

from netpress.models.inverted_residual import InvertedResidual
from netpress.models.registry import parse_model
from netpress.network.selection import select


def build_shapes(text: str) -> nn.Module:
    with torch.device("meta"):
        return parse_model(text).build()


def count(module: nn.Module) -> tuple[int, int]:
    """Weights in tensors of more than one dimension, and all parameters."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters if p.dim() > 1), sum(p.numel() for p in parameters)


@pytest.mark.parametrize(
    ("text", "weights", "parameters", "tensors"),
    [
        ("c_efficientnet:v1,expansion=3,classes=100", 450_456, 464_918, 86),
        ("c_efficientnet:released-v1", 450_456, 464_918, 86),
        ("c_efficientnet:v2", 471_184, 485_330, 86),
        ("c_efficientnet:released-v2", 471_184, 485_330, 86),
        # Without the gates of the three stride-2 blocks: 6,304 weights and 230 biases fewer.
        ("c_efficientnet:v1,downsample_gate=false", 450_456 - 6_304, 464_918 - 6_304 - 230, 80),
    ],
)
def test_counts_of_the_released_networks(text: str, weights: int, parameters: int, tensors: int) -> None:
    module = build_shapes(text)
    assert count(module) == (weights, parameters)
    assert sum(p.dim() > 1 for p in module.parameters()) == tensors


@pytest.mark.parametrize(
    ("kind", "v1", "v2"),
    [
        ("stem", 864, 864),
        ("*.expand.conv", 174_912, 180_000),
        ("depthwise", 23_976, 22_320),
        ("*.project.conv", 187_536, 192_680),
        ("*.shortcut.conv", 18_416, 22_048),
        ("*.squeeze_excite.reduce", 17_076, 20_936),
        ("*.squeeze_excite.expand", 17_076, 20_936),
        ("squeeze_excite", 2 * 17_076, 2 * 20_936),
        ("classifier", 10_600, 11_400),
        ("all", 450_456, 471_184),
    ],
)
def test_weights_by_kind(kind: str, v1: int, v2: int) -> None:
    for preset, expected in (("v1", v1), ("v2", v2)):
        layers = select(build_shapes(f"c_efficientnet:{preset}"), kind)
        assert sum(layer.weight.numel() for _, layer in layers) == expected


def test_the_regularizer_finds_the_68_matrices_of_their_code() -> None:
    assert len(select(build_shapes("c_efficientnet:v1"), "pointwise")) == 68


@pytest.mark.parametrize(
    ("expansion", "millions"), [(1.0, 0.099), (1.5, 0.131), (2.0, 0.164), (2.5, 0.197), (3.0, 0.229), (4.0, 0.295)]
)
def test_parameters_by_expansion_agree_with_the_published_rows(expansion: float, millions: float) -> None:
    """NP at 16 bits: non-bias weights, and one bias per output channel of every layer (folded norms)."""
    module = build_shapes(f"c_efficientnet:v1,expansion={expansion}")
    weights, _ = count(module)
    biases = sum(layer.weight.shape[0] for _, layer in select(module, "all"))
    assert (weights + biases) / 2 / 1e6 == pytest.approx(millions, abs=0.0006)


def test_the_papers_table_has_one_block_more_and_other_widths() -> None:
    def outputs(text: str) -> list[int]:
        return [b.project.conv.out_channels for b in build_shapes(text).modules() if isinstance(b, InvertedResidual)]

    assert outputs("c_efficientnet:v1") == [16] * 2 + [32] * 2 + [48] * 3 + [72] * 5 + [80] + [88] * 2 + [106]
    paper = outputs("c_efficientnet:paper")
    assert paper == [20] * 2 + [36] * 3 + [56] * 3 + [80] * 5 + [88] + [96] * 2 + [114]


def test_downsampling_by_the_figure() -> None:
    module = build_shapes("c_efficientnet:v1,downsample=shortcut")
    reducing = [b for b in module.modules() if isinstance(b, InvertedResidual) and b.depthwise.conv.stride == (2, 2)]
    assert len(reducing) == 3
    for block in reducing:
        assert block.depthwise.conv.kernel_size == (2, 2)
        assert block.shortcut is not None and block.shortcut.conv.stride == (2, 2)
    plain = build_shapes("c_efficientnet:v1").eval()
    images = torch.empty(1, 3, 32, 32, device="meta")
    assert module.eval().blocks(module.stem(images)).shape == plain.blocks(plain.stem(images)).shape == (1, 106, 4, 4)


def test_a_gate_is_dead_only_as_released() -> None:
    """Noise in the gates of the stride-2 blocks changes no logit as released, and does otherwise."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for text, dead in (("c_efficientnet:tiny,released=true", True), ("c_efficientnet:tiny", False)):
        module = parse_model(text).build().eval()
        before = module(images)
        for block in module.modules():
            if isinstance(block, InvertedResidual) and block.depthwise.conv.stride == (2, 2):
                assert block.squeeze_excite is not None
                nn.init.constant_(block.squeeze_excite.expand.bias, -2.0)
        assert torch.equal(before, module(images)) is dead


def test_factors_scale_width_and_depth() -> None:
    half = build_shapes("c_efficientnet:v1,width_factor=0.5")
    assert half.stem.conv.out_channels == 16 and half.classifier.in_features == 53
    assert len(build_shapes("c_efficientnet:v1,depth_factor=2").blocks) == 3 + 2 * 13
    assert len(build_shapes("c_efficientnet:v1,depth_factor=0.5").blocks) == 3 + 1 + 1 + 2 + 2 + 1 + 1


def test_he_out_scale() -> None:
    module = parse_model("c_efficientnet:v1").build(torch.Generator().manual_seed(1))
    for _, layer in select(module, ["conv"]):
        if layer.weight.numel() > 5000:
            expected = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.06)
    assert module.classifier.weight.std().item() == pytest.approx(0.01, rel=0.06)
    assert not module.classifier.bias.any()


def test_orthogonal_start_has_singular_values_of_one() -> None:
    module = parse_model("c_efficientnet:tiny,init=orthogonal").build(torch.Generator().manual_seed(1))
    matrices = select(module, ["pointwise", "classifier"])
    for _, layer in matrices:
        values = torch.linalg.svdvals(layer.weight.detach().flatten(1))
        assert torch.allclose(values, torch.ones_like(values), atol=1e-5)
        assert layer.bias is None or not layer.bias.any()
    stem = module.stem.conv.weight.detach().flatten(1)
    assert not torch.allclose(torch.linalg.svdvals(stem), torch.ones(16), atol=0.1)


def test_trained_scale_is_that_of_their_constants() -> None:
    module = parse_model("c_efficientnet:v1,init=trained_scale").build(torch.Generator().manual_seed(1))
    for block in module.blocks:
        inputs, inside = block.expand.conv.in_channels, block.depthwise.conv.in_channels
        assert block.expand.conv.weight.std().item() * math.sqrt(inputs) == pytest.approx(0.65, rel=0.1)
        assert block.project.conv.weight.std().item() * math.sqrt(inside) == pytest.approx(1.18, rel=0.1)
        assert block.depthwise.conv.weight.std().item() / math.sqrt(2 / inside) == pytest.approx(9.37, rel=0.15)


def test_channels_last_changes_no_result() -> None:
    module = parse_model("c_efficientnet:tiny").build().eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = module(images)
    fast = module.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(plain, fast, atol=1e-5)


def test_norms_average_as_the_paper_says_or_as_told() -> None:
    for text, momentum in (("c_efficientnet:v1", 0.01), ("c_efficientnet:v1,norm_momentum=0.2", 0.2)):
        norms = [layer for layer in build_shapes(text).modules() if isinstance(layer, nn.BatchNorm2d)]
        assert {norm.momentum for norm in norms} == {momentum}
