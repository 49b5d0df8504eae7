"""Batch norms as a factor and an offset for each channel, and what that means for gradients.

A norm in training needs the mean and the variance of what it is given. `FoldedNorm` knows them before its values exist,
from the rows that a matrix is about to be applied to. `SummedNorm` gets them from sums taken while values were made.
Both move running statistics as torch's norm does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netpress.native.blocks import pad


def remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics as the norm does itself, the variance unbiased."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / max(1, count - 1)), norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1


@dataclass(frozen=True)
class FoldedNorm:
    """A norm multiplied into the matrix before it, from what is known of that matrix's input rows; all float32.

    matrix: [wide, narrow], as learned; factor, offset: [wide], what it is multiplied with and what is added then.
    mean, inverse: [wide], the values' mean and 1 / standard deviation; total [narrow], products [narrow, narrow] and
    count: sums over the input's rows.
    """

    matrix: Tensor
    factor: Tensor
    offset: Tensor
    mean: Tensor
    inverse: Tensor
    total: Tensor
    products: Tensor
    count: int

    @classmethod
    def over(
        cls, total: Tensor, products: Tensor, count: int, matrix: Tensor, norm: nn.BatchNorm2d, centred: bool = False
    ) -> "FoldedNorm":
        """Of `matrix` applied to `count` rows whose total and products are known in float64; running statistics move.

        With `centred`, of the matrix applied to these rows less their mean: what is subtracted later is nearer to zero.
        """
        wide = matrix.double()
        narrow_mean = total / count
        covariance = products / count - torch.outer(narrow_mean, narrow_mean)
        mean = (wide @ narrow_mean).float()
        variance = ((wide @ covariance) * wide).sum(1).clamp_(min=0).float()  # biased
        remember(norm, mean, variance, count)
        inverse = (variance + norm.eps).rsqrt()
        factor = norm.weight * inverse
        if centred:
            mean, total, products = torch.zeros_like(mean), torch.zeros_like(total), covariance * count
        offset = torch.addcmul(norm.bias, mean, factor, value=-1)
        return cls(matrix, factor, offset, mean, inverse, total.float(), products.float(), count)

    def folded(self) -> Tensor:
        """The matrix whose products, with the offset, are normalized: [wide, narrow]."""
        return self.matrix * self.factor[:, None]

    def backward(self, product: Tensor, for_shift: Tensor) -> "WideningGradients":
        """From what the gradient for the normalized values sums up to.

        product: [wide, narrow], its transpose times the rows; for_shift: [wide], its sum over all rows.
        """
        matrix, factor = self.matrix, self.factor
        for_scale = self.inverse * ((product * matrix).sum(1) - self.mean * for_shift)
        # The gradient for a wide value is factor * gradient + by_value * value + constant.
        by_value = factor * self.inverse * for_scale / -self.count
        constant = factor * for_shift / -self.count - by_value * self.mean
        for_matrix = product * factor[:, None]
        for_matrix += (matrix * by_value[:, None]) @ self.products
        for_matrix += torch.outer(constant, self.total)
        return WideningGradients(for_matrix, for_scale, matrix.t() @ (matrix * by_value[:, None]), constant @ matrix)


@dataclass(frozen=True)
class WideningGradients:
    """For the matrix [wide, narrow] and the norm's weight [wide]; to a row's gradient add row @ by_row + constant."""

    for_matrix: Tensor
    for_scale: Tensor
    by_row: Tensor
    constant: Tensor


@dataclass(frozen=True)
class SummedNorm:
    """A norm over values that a pass made, all [channels] and padded; `count` values a channel."""

    factor: Tensor
    offset: Tensor
    shift: Tensor
    mean: Tensor
    inverse: Tensor
    count: int

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, sums: Tensor, count: int, bias: Tensor | None = None) -> "SummedNorm":
        """From the sums of the values and of their squares, float64 [2, channels]; running statistics move.

        bias: what the layer adds to these values, unpadded. A norm takes it away again; its running mean knows it.
        """
        exact, squares = sums / count
        mean = exact.float()
        variance = (squares - exact * exact).clamp_(min=0).float()  # biased
        channels = norm.num_features
        remember(norm, mean[:channels] if bias is None else mean[:channels] + bias, variance[:channels], count)
        inverse = (variance + norm.eps).rsqrt()
        factor, shift = pad(norm.weight) * inverse, pad(norm.bias)
        return cls(factor, torch.addcmul(shift, mean, factor, value=-1), shift, mean, inverse, count)

    def backward(self, for_shift: Tensor, against: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the sums of the gradient and of gradient * (value - mean): the gradient for the norm's weight, and what
        the value and 1 are multiplied with, beside gradient * factor, to give the gradient for the value."""
        for_scale = against * self.inverse
        by_value = self.factor * self.inverse * for_scale / -self.count
        return for_scale, by_value, self.factor * for_shift / -self.count - by_value * self.mean
