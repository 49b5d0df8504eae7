"""The inverted residual of MobileNetV2, with squeeze-and-excitation: what C-EfficientNet and EfficientNet are made of.

Sandler et al., "MobileNetV2" (arXiv 1801.04381). A 1x1 convolution widens the image, a depthwise convolution sees its
surroundings, another 1x1 convolution narrows it, and a shortcut is added.
"""

from typing import Literal

from torch import Tensor, nn

from netpress.models.blocks import ConvNorm, DropConnect, SqueezeExcite


class InvertedResidual(nn.Module):
    """[batch, inputs, height, width] -> [batch, outputs, height / stride, width / stride].

    `inside`: channels between the two 1x1 convolutions. Where `widens` is False there is no first one, and `inside` is
    `inputs`. `kernel`, `stride` and `padding` are the depthwise convolution's (see `ConvNorm`). `squeezed`: channels
    inside squeeze-and-excitation; 0 leaves it out. It multiplies the values inside (`gated` = "inside") or the output
    ("output"), or it is computed and thrown away ("nothing"). `shortcut` maps the input to what is added; None adds
    nothing. `drop_connect`: the rate at which the block's own part of an image is dropped in training.
    """

    def __init__(
        self,
        inputs: int,
        inside: int,
        outputs: int,
        *,
        activation: type[nn.Module],
        widens: bool = True,
        kernel: int = 3,
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        squeezed: int = 0,
        gated: Literal["inside", "output", "nothing"] = "output",
        project_bias: bool = False,
        momentum: float = 0.1,
        shortcut: nn.Module | None = None,
        drop_connect: float = 0.0,
    ) -> None:
        super().__init__()
        self.gated = gated
        self.expand = ConvNorm(inputs, inside, momentum=momentum, activation=activation()) if widens else None
        self.depthwise = ConvNorm(
            inside,
            inside,
            kernel,
            stride=stride,
            padding=padding,
            groups=inside,
            momentum=momentum,
            activation=activation(),
        )
        # Parameters are drawn in the order in which layers are named here.
        self.squeeze_excite: SqueezeExcite | None = None
        if squeezed and gated == "inside":
            self.squeeze_excite = SqueezeExcite(inside, squeezed, activation())
        self.project = ConvNorm(inside, outputs, bias=project_bias, momentum=momentum)
        if squeezed and gated != "inside":
            self.squeeze_excite = SqueezeExcite(outputs, squeezed, activation())
        self.shortcut = shortcut
        self.drop_connect = DropConnect(drop_connect) if drop_connect else None

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        if self.squeeze_excite is not None and self.gated == "inside":
            y = y * self.squeeze_excite(y)
        y = self.project(y)
        if self.squeeze_excite is not None and self.gated != "inside":
            gate = self.squeeze_excite(y)  # [batch, outputs, 1, 1]
            if self.gated == "output":
                y = y * gate
        if self.drop_connect is not None:
            y = self.drop_connect(y)
        return y if self.shortcut is None else y + self.shortcut(x)
