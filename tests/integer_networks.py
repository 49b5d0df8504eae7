"""Small networks of integer arithmetic: those of every family, and such as are drawn at random."""

from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from netpress.compression.quantization.post_training import quantize_once
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.data import Dataset, Images, normalize
from netpress.network import Architecture, InputSpec, Network, create
from netpress.process.console import Console
from netpress.process.world import World
from netpress.program import execute, lower
from netpress.settings import parse
from netpress.stage import Context

SIZE = 8
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "c_efficientnet": ("c_efficientnet", {"widths": "tiny", "width_factor": 0.25}),
    "shortcut": ("c_efficientnet", {"widths": "tiny", "width_factor": 0.25, "downsample": "shortcut"}),
    "efficientnet": ("efficientnet", {"width": 0.25, "depth": 0.2, "head": "linear"}),
    "cosine": ("efficientnet", {"width": 0.25, "depth": 0.2, "head": "cosine"}),
    "densenet": ("densenet", {"blocks": [1, 1], "growth": 4}),
    "grouped": ("densenet", {"blocks": [1, 1], "growth": 4, "groups": 2, "grouped": ["bottleneck1", "bottleneck2"]}),
    "pyramidnet": ("pyramidnet", {"depth": 20, "alpha": 8}),
    "resnet": ("resnet", {"width": 4, "blocks": [1, 1]}),
    "wide_resnet": ("wide_resnet", {"depth": 10, "width": 1}),
}
QUICK = {"arithmetic": "integer", "calibration_images": 8, "calibration": {"kind": "minmax"}}


def images(count: int, seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 10, (count,), generator=generator))


def context(folder: Path, size: tuple[int, int] = (SIZE, SIZE)) -> Context:
    names, half = tuple("0123456789"), (0.5,) * 3
    data = Dataset("random", images(8, 1, size), images(4, 2, size), images(4, 3, size), names, half, half, "")
    return Context(folder, World(torch.device("cpu")), 3, Console(quiet=True), data, name="quantize")


def family(name: str) -> Network:
    kind, values = FAMILIES[name]
    return experienced(create(kind, {"classes": 10, "image_size": SIZE, **values}, seed=5))


def experienced(network: Network) -> Network:
    """The network, its norms as if they had seen something."""
    generator = torch.Generator().manual_seed(6)
    for norm in (part for part in network.module.modules() if isinstance(part, nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
    return network


def logits(network: Network, shown: Images) -> Tensor:
    """Of the reference, all images in one batch."""
    with torch.inference_mode():
        return execute(lower(network), normalize(shown.images, network.input.mean, network.input.std))


class Block(nn.Module):
    """A convolution, an activation, perhaps a gate, then nothing more, a shortcut, or a concatenation."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module, gate: bool, joins: str) -> None:
        super().__init__()
        channels = conv.out_channels
        self.conv, self.activation, self.joins = conv, activation, joins
        self.squeeze = nn.Conv2d(channels, channels, 1) if gate else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.conv(x))
        if self.squeeze is not None:
            y = y * torch.sigmoid(self.squeeze(functional.adaptive_avg_pool2d(y, 1)))
        if self.joins == "add":
            return x + y
        return torch.cat([y, x], 1) if self.joins == "concatenate" else y


ACTIVATIONS = (nn.ReLU, nn.Hardswish, nn.SiLU, nn.ReLU6, nn.Identity, nn.Mish, nn.GELU, nn.Tanh)


@st.composite
def modules(draw: st.DrawFn) -> nn.Module:
    parts: list[nn.Module] = []
    channels = 3
    for _ in range(draw(st.integers(1, 4))):
        joins = draw(st.sampled_from(["", "add", "concatenate"]))
        grouped = draw(st.sampled_from(["dense", "depthwise", "grouped"]))
        outputs = channels if joins == "add" or grouped != "dense" else draw(st.integers(1, 8))
        groups = {"depthwise": channels, "grouped": 2 if channels % 2 == 0 else 1}.get(grouped, 1)
        kernel, stride = draw(st.sampled_from([1, 3, (1, 3)])), 1 if joins else draw(st.integers(1, 2))
        padding: Any = "same" if stride == 1 else 1
        conv = nn.Conv2d(channels, outputs, kernel, stride, padding, 1, groups, draw(st.booleans()))
        parts.append(Block(conv, draw(st.sampled_from(ACTIVATIONS))(), draw(st.booleans()), joins))
        channels = outputs + channels if joins == "concatenate" else outputs
        if draw(st.booleans()):
            parts.append(draw(st.sampled_from([nn.AvgPool2d(2, 1), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)])))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def random_network(module: nn.Module, size: tuple[int, int], bits: int, seed: int, folder: Path) -> Network:
    """A module of `modules` with random weights, in integers of `bits` bits."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    spec = InputSpec(3, *size, (0.4, 0.5, 0.6), (0.25, 0.2, 0.3))
    network = Network(module.eval(), Architecture("import", {}), spec, tuple("0123456789"))
    weights = {"kind": "int", "bits": bits}
    inputs = {"kind": "int", "bits": bits, "scale": "tensor", "signed": False, "zero_point": True}
    values = {**QUICK, "weights": weights, "inputs": inputs, "correct_biases": False, "fold": False}
    return quantize_once(network, parse(QuantizeSettings, values), context(folder, size))
