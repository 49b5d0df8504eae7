"""Dropout and its kin where a batch is shared: drawn for the whole of it, so that each image meets what it meets alone.

All processes have the same random stream, and each takes the rows of its own images.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from netpress.models.blocks import DropConnect
from netpress.models.pyramidnet import ShakeDrop
from netpress.training.accelerated.plain import Swapped
from netpress.training.together.share import Share


class SharedDropout(Swapped, nn.Dropout):
    """Dropout with its own rows of what is drawn for the whole batch."""

    plain = nn.Dropout
    share: ClassVar[Share]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.share.is_split:
            return super().forward(x)
        drawn = functional.dropout(torch.ones_like(_whole(x, self.share)), self.p)[self.share.rows]
        return x * drawn


class SharedDropConnect(Swapped, DropConnect):
    """Drop connect with its own rows of what is drawn for the whole batch."""

    plain = DropConnect
    share: ClassVar[Share]

    def draw(self, x: Tensor) -> Tensor:
        if not self.share.is_split:
            return super().draw(x)
        return super().draw(_whole(x[:, :1, :1, :1], self.share))[self.share.rows]


class SharedShakeDrop(Swapped, ShakeDrop):
    """ShakeDrop with its own rows of what is drawn for the whole batch."""

    plain = ShakeDrop
    share: ClassVar[Share]

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.share.is_split:
            return super().draw(x)
        forward, backward = super().draw(_whole(x[:, :1, :1, :1], self.share))
        return forward[self.share.rows], backward[self.share.rows]


def _whole(x: Tensor, share: Share) -> Tensor:
    """An empty tensor as x would be with all images of the batch, in the same layout."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(share.whole, *x.shape[1:], dtype=x.dtype, device=x.device, memory_format=layout)
