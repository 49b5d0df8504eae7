"""What a user writes instead of netpress: a training in plain PyTorch, of two small networks, on images in memory.

    module, seconds = train(plain_resnet(5), images, labels, seconds=20, seed=1)

The ResNet has 25,645 weights for 5 classes and 5.6 million multiply-adds at 32 pixels; the other network is
MobileNetV2's blocks at the same size. Both: SGD with Nesterov's momentum, one cycle of the rate up to `RATE`, weight
decay of 5e-4 on everything, crops of 4 pixels out of a reflected border, flips, batches of 64. There is nothing of
netpress in this file.
"""

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATE, BATCH, DECAY, CROP = 0.1, 64, 5e-4, 4
WARMUP = 0.3  # of the steps: OneCycleLR's default


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(inputs, outputs, 3, stride), nn.ReLU(), conv(outputs, outputs, 3))
        self.shortcut = conv(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.body(images) + self.shortcut(images))


class Inverted(nn.Module):
    """MobileNetV2's block: widen, depthwise 3x3, narrow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.body = nn.Sequential(
            conv(inputs, wide, 1), nn.ReLU6(), conv(wide, wide, 3, stride, wide), nn.ReLU6(), conv(wide, outputs, 1)
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        return images + self.body(images) if self.adds else self.body(images)


def head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def plain_resnet(classes: int) -> nn.Module:
    """Five blocks of 8, 16 and 32 channels."""
    sizes = [(8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2)]
    return nn.Sequential(conv(3, 8, 3), nn.ReLU(), *(Residual(*size) for size in sizes), *head(32, classes))


def mobile_net(classes: int) -> nn.Module:
    """MobileNetV2 in small: the first block at full resolution, a last 1x1 convolution before the head."""
    sizes = [(8, 12, 1, 3), (12, 16, 2, 4), (16, 16, 1, 4), (16, 32, 2, 4), (32, 32, 1, 4)]
    blocks = (Inverted(*size) for size in sizes)
    return nn.Sequential(conv(3, 8, 3), nn.ReLU6(), *blocks, conv(32, 96, 1), nn.ReLU6(), *head(96, classes))


NETWORKS = {"plain ResNet": plain_resnet, "plain MobileNetV2": mobile_net}


def augmented(images: Tensor) -> Tensor:
    """Each image cropped out of its reflected surroundings, every other one mirrored."""
    side = images.shape[-1]
    padded = F.pad(images, (CROP,) * 4, mode="reflect")
    places = torch.randint(2 * CROP + 1, (len(images), 2)).tolist()
    crops = [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, places, strict=True)]
    batch = torch.stack(crops)
    mirrored = torch.rand(len(batch)) < 0.5
    batch[mirrored] = batch[mirrored].flip(3)
    return batch


def train(module: nn.Module, images: Tensor, labels: Tensor, seconds: float, seed: int) -> tuple[nn.Module, float]:
    """Train for about so many seconds of processor time; how many it took.

    images: float32 [count, 3, height, width], normalized; labels: int64 [count]. A few steps of a copy's tell how many
    epochs fit.
    """
    torch.manual_seed(seed)
    per_epoch = -(-len(images) // BATCH)
    started = time.process_time()
    spent = [_step_time(module, images, labels) for _ in range(6)]
    epochs = max(1, round((seconds - sum(spent)) / (sorted(spent)[2] * per_epoch)))
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * per_epoch, pct_start=WARMUP)
    module.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(module(augmented(images[batch])), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return module.eval(), time.process_time() - started


def _step_time(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    started = time.process_time()
    batch = torch.randint(len(images), (BATCH,))
    F.cross_entropy(module(augmented(images[batch])), labels[batch]).backward()
    return time.process_time() - started


@torch.inference_mode()
def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that the trained module is right about."""
    answers = torch.cat([module(part).argmax(1) for part in images.split(256)])
    return float((answers == labels).float().mean())
