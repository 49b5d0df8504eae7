"""The other families against their published figures, and their parts against brute force."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from netpress.errors import UserError
from netpress.models.blocks import ConvNorm, CosineLinear, DropConnect, round_channels, same_padding
from netpress.models.pyramidnet import ShakeDrop
from netpress.models.registry import parse_model


def build_shapes(text: str) -> nn.Module:
    with torch.device("meta"):
        return parse_model(text).build()


def parameters_of(text: str) -> int:
    return sum(p.numel() for p in build_shapes(text).parameters())


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("efficientnet:ex", 2_793_064),
        ("efficientnet:exx", 2_418_650),
        ("efficientnet:b0", 4_285_556),
        ("efficientnet:b3", 11_027_240),
        ("efficientnet:ex,head=linear", 2_670_564),
        ("efficientnet:b0,head=linear", 4_137_456),
        ("efficientnet:b3,head=linear", 10_853_540),
        ("efficientnet:b0-224", 5_288_548),
        ("densenet:cifar", 1_000_618),
        ("densenet:small", 569_566),
        ("densenet:tiny", 259_114),
        ("densenet:nano", 119_146),
        ("densenet:nano,groups=2,grouped=bottleneck2", 2 * 51_221),
        ("densenet:nano,groups=4,grouped=bottleneck2", 2 * 47_045),
        ("densenet:nano,groups=2,grouped=bottleneck1", 2 * 43_813),
        ("densenet:nano,groups=4,grouped=bottleneck1", 2 * 35_933),
        ("densenet:nano,groups=2,grouped=transition", 2 * 56_885),
        ('densenet:nano,groups=2,grouped=["bottleneck1","bottleneck2"]', 2 * 35_461),
        ("pyramidnet:272", 26_288_692),
        ("resnet:18", 11_173_962),
    ],
)
def test_parameters_of_published_networks(text: str, parameters: int) -> None:
    assert parameters_of(text) == parameters


def test_weights_of_the_winners_network() -> None:
    weights = [p.numel() for p in build_shapes("densenet:bc-100-12").parameters() if p.dim() > 1]
    assert sum(weights) == 775_944


def test_folded_parameters_of_the_baseline() -> None:
    """36,527,892, as the official counter has it: weights, and biases of the blocks' 3x3 layers and the classifier."""
    module = build_shapes("wide_resnet:28-10")
    weights = sum(p.numel() for p in module.parameters() if p.dim() > 1)
    inside = [m for m in module.blocks.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert weights + sum(conv.out_channels for conv in inside) + module.classifier.out_features == 36_527_892


def test_values_stored_by_the_official_b0() -> None:
    """10.535080 MB at 16 bits: every parameter but the norms' factors, which fold into the convolutions."""
    module = build_shapes("efficientnet:b0-224")
    factors = sum(m.num_features for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    assert 2 * (sum(p.numel() for p in module.parameters()) - factors) == 10_535_080


@pytest.mark.parametrize(
    ("text", "millions"),
    [
        ("densenet:cifar", 125.34),
        ("densenet:small", 70.63),
        ("densenet:tiny", 31.50),
        ("densenet:nano", 14.07),
        ("densenet:bc-100-12", 288.0),
        ("c_efficientnet:v1", 37.3),
    ],
)
def test_multiply_adds_of_published_networks(text: str, millions: float) -> None:
    module = build_shapes(text).eval()
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("name", "stem", "widths", "repeats", "head"),
    [
        ("b0", 32, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 1280),
        ("b3", 40, (24, 32, 48, 96, 136, 232, 384), (2, 3, 3, 5, 5, 6, 2), 1536),
        ("ex", 24, (16, 24, 32, 64, 88, 152, 256), (1, 2, 2, 3, 3, 4, 1), 1024),
        ("exx", 24, (16, 24, 32, 64, 88, 152, 256), (1, 2, 2, 3, 3, 3, 1), 1024),
    ],
)
def test_rows_of_efficientnet(
    name: str, stem: int, widths: tuple[int, ...], repeats: tuple[int, ...], head: int
) -> None:
    module = build_shapes(f"efficientnet:{name}")
    assert module.stem.conv.out_channels == stem
    expected = [width for width, count in zip(widths, repeats, strict=True) for _ in range(count)]
    assert [block.project.conv.out_channels for block in module.blocks] == expected
    assert module.head.conv.out_channels == head
    assert module.head(module.blocks(module.stem(torch.empty(1, 3, 32, 32, device="meta")))).shape[2:] == (8, 8)


def test_channels_are_rounded_up_where_a_tenth_would_be_lost() -> None:
    assert [round_channels(c) for c in (25.6, 12.8, 19.2, 89.6, 10.0, 11.9, 3.0)] == [24, 16, 24, 88, 16, 16, 8]


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 8), (3, 2, 8), (5, 2, 8), (3, 2, 7), (5, 2, 9)])
def test_same_padding_puts_the_odd_one_right_and_below(kernel: int, stride: int, size: int) -> None:
    """Brute force: output i looks at inputs from i*stride - before on, where before is half of what is needed."""
    block = ConvNorm(1, 1, kernel, stride=stride, padding=same_padding(size, kernel, stride))
    convolution = nn.Sequential(*[m for m in block if isinstance(m, nn.ZeroPad2d | nn.Conv2d)])
    image = torch.rand(size, size, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(kernel, kernel, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        block.conv.weight.copy_(weight[None, None])
        found = convolution(image[None, None])[0, 0]
    outputs = math.ceil(size / stride)
    before = max((outputs - 1) * stride + kernel - size, 0) // 2
    expected = torch.zeros(outputs, outputs)
    for row in range(outputs):
        for column in range(outputs):
            for i in range(kernel):
                for j in range(kernel):
                    y, x = row * stride + i - before, column * stride + j - before
                    if 0 <= y < size and 0 <= x < size:
                        expected[row, column] += weight[i, j] * image[y, x]
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_cosine_head_gives_cosines() -> None:
    head = parse_model("efficientnet:width=0.2,depth=0.3,classes=7").build().classifier
    assert isinstance(head.cosine, CosineLinear)
    directions = head.cosine.weight.detach().clone()
    assert torch.allclose(directions.norm(dim=1), torch.ones(7))
    assert head.embed.out_features == 200 and head.embed.bias is not None and head.cosine.bias is None
    assert build_shapes("efficientnet:ex,cosine_features=31").classifier.embed.out_features == 31
    features = torch.rand(3, head.embed.in_features, generator=torch.Generator().manual_seed(0))
    expected = functional.cosine_similarity(head.embed(features)[:, None], directions[None], dim=2)
    assert torch.allclose(head(features), expected, atol=1e-5)
    with torch.no_grad():
        head.cosine.weight.mul_(3.0)  # only the direction counts
    assert torch.allclose(head(features), expected, atol=1e-5)


def test_groups_that_cannot_be_are_an_error() -> None:
    with pytest.raises(UserError, match="bottleneck1 convolution of 8 to 16 channels cannot have 3 groups"):
        build_shapes("densenet:nano,groups=3,grouped=bottleneck1")
    with pytest.raises(UserError, match="grouped names no place"):
        build_shapes("densenet:nano,groups=2")
    with pytest.raises(UserError, match="'everywhere' is not one of"):
        build_shapes("densenet:nano,groups=2,grouped=everywhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pyramidnet:depth=100", "9n \\+ 2"),
        ("wide_resnet:depth=27", "6n \\+ 4"),
        ("efficientnet:strides=[1,2]", "7 stages|seven|2 strides"),
        ("c_efficientnet:v1,downsample=shortcut,image_size=28", "multiple of 8"),
    ],
)
def test_impossible_settings(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_model(text)


def test_a_stride_in_the_stem_leaves_a_quarter_of_the_pixels() -> None:
    """The same weights; from the first norm on every tensor is half as high and wide."""
    shapes: dict[int, list[torch.Size]] = {}
    for stride in (1, 2):
        module = parse_model(f"resnet:width=8,blocks=[1,1],stem_stride={stride},classes=5").build().eval()
        seen = shapes.setdefault(stride, [])
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(lambda _layer, _inputs, output, seen=seen: seen.append(output.shape[2:]))
        assert module(torch.rand(2, 3, 32, 24)).shape == (2, 5)
    assert shapes[1][0] == (32, 24)
    assert [(2 * height, 2 * width) for height, width in shapes[2]] == [tuple(shape) for shape in shapes[1]]
    weights = [parameters_of(f"resnet:width=8,blocks=[1,1],stem_stride={stride}") for stride in (1, 2)]
    assert weights[0] == weights[1]


def test_pyramidnet_grows_evenly() -> None:
    module = build_shapes("pyramidnet:272")
    inside = [block.conv1.out_channels for block in module.blocks]
    assert len(inside) == 90 and inside[-1] == 216 and module.classifier.in_features == 864
    steps = {after - before for before, after in zip([16, *inside], inside, strict=False)}
    assert steps == {2, 3}
    assert [block.shakedrop.rate for block in module.blocks] == pytest.approx([0.5 * (i + 1) / 90 for i in range(90)])


def test_pyramidnet_takes_odd_sizes() -> None:
    module = build_shapes("pyramidnet:depth=11,alpha=6")
    assert module.eval()(torch.empty(1, 3, 27, 27, device="meta")).shape == (1, 100)


def test_shakedrop_in_evaluation_is_the_expectation() -> None:
    x = torch.ones(2, 3, 4, 4)
    assert torch.allclose(ShakeDrop(0.4).eval()(x), 0.6 * x)


def test_shakedrop_scales_forward_by_one_noise_and_backward_by_another() -> None:
    layer = ShakeDrop(1.0).train()
    torch.manual_seed(3)
    x = torch.ones(500, 1, 2, 2, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None
    alpha, beta = y.detach()[:, 0, 0, 0], x.grad[:, 0, 0, 0]
    assert torch.allclose(y.detach(), alpha[:, None, None, None].expand(500, 1, 2, 2), atol=1e-6)
    assert alpha.min() < -0.9 and alpha.max() > 0.9 and beta.min() > 0 and beta.max() > 0.9
    assert abs(torch.corrcoef(torch.stack([alpha, beta]))[0, 1]) < 0.2
    torch.manual_seed(3)
    assert torch.equal(y, layer(x))


def test_shakedrop_opens_its_gate_for_the_whole_batch() -> None:
    torch.manual_seed(0)
    layer, x = ShakeDrop(0.3).train(), torch.rand(4, 1, 2, 2)
    open_gates = [torch.equal(layer(x), x) for _ in range(400)]
    assert sum(open_gates) / 400 == pytest.approx(0.7, abs=0.08)


def test_drop_connect_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = DropConnect(0.25).train(), torch.ones(2000, 3, 2, 2)
    y = layer(x)
    values = y.flatten(1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    assert sorted(set(values[:, 0].tolist())) == pytest.approx([0.0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1.0, abs=0.05)
    assert layer.eval()(x) is x


@pytest.mark.parametrize(
    "text", ["efficientnet:width=0.2,depth=0.3,stem_stride=2", "densenet:growth=4,blocks=[2,2]", "resnet:width=8"]
)
def test_a_step_of_training_reaches_every_parameter(text: str) -> None:
    module = parse_model(f"{text},classes=5").build().train()
    torch.manual_seed(0)
    functional.cross_entropy(module(torch.rand(4, 3, 32, 32)), torch.arange(4)).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
