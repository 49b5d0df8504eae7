"""Batch norms over a batch whose parts lie in several processes.

The moments are those of the whole batch: each process sends the sums over its part, in float64, and gets those of all;
backward, the sums of the gradient and of its product with the values. So the processes compute one network, whose
running statistics are the same everywhere. Synchronised norms of others exist for GPUs alone.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.training.accelerated.plain import Swapped
from netpress.training.together.share import Share


class SharedNorm(Swapped, _BatchNorm):
    """A batch norm in training that takes its moments over all parts of a batch; else it is what it was."""

    share: ClassVar[Share]

    def forward(self, x: Tensor) -> Tensor:
        if not self.share.is_split or not (self.training or self.running_mean is None):
            return super().forward(x)
        self._check_input_dim(x)
        y, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps, self.share)
        if self.training and self.track_running_stats and self.running_mean is not None:
            self._remember(mean, variance, count)
        return y

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / float(self.num_batches_tracked)
        assert momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var), momentum)


class SharedNorm1d(SharedNorm, nn.BatchNorm1d):
    plain = nn.BatchNorm1d


class SharedNorm2d(SharedNorm, nn.BatchNorm2d):
    plain = nn.BatchNorm2d


class SharedNorm3d(SharedNorm, nn.BatchNorm3d):
    plain = nn.BatchNorm3d


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, share: Share
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The normalized values; mean and variance (biased), float32 [channels]; the count of values, float64 [1]."""
        channels = x.shape[1]
        mean, variance = torch.batch_norm_update_stats(x.float(), None, None, 0.0)
        count, exact = x.numel() // channels, mean.double()
        moments = torch.cat([exact * count, (variance.double() + exact * exact) * count, exact.new_tensor([count])])
        total, squares, counts = share.team.sum(moments).split([channels, channels, 1])
        exact = total / counts
        mean, variance = exact.float(), (squares / counts - exact * exact).clamp_(min=0).float()
        ctx.save_for_backward(x, weight, mean, variance, counts)
        ctx.eps, ctx.share = eps, share
        ctx.mark_non_differentiable(mean, variance, counts)
        return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, counts = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight
        # In evaluation mode, as far as the sums go: the moments are given.
        wanted = [False, True, True]
        _, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, scale, mean, variance, None, None, False, ctx.eps, wanted
        )
        sums = ctx.share.team.sum(torch.cat([for_weight, for_bias]).double()) / counts
        against, total = sums.float().chunk(2)
        inverse = (variance + ctx.eps).rsqrt()
        # The gradient for a value is factor * gradient + by_value * value + constant.
        factor = scale * inverse
        by_value = -factor * inverse * against
        constant = -factor * total - mean * by_value
        shape = (1, -1, *[1] * (x.ndim - 2))
        for_x = torch.addcmul(constant.view(shape), x, by_value.view(shape)).addcmul_(gradient, factor.view(shape))
        learned = (for_weight, for_bias) if weight is not None else (None, None)
        return for_x.to(x.dtype), *learned, None, None
