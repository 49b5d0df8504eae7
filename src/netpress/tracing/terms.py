"""For each output of a product with weights, this module counts the non-zero weights that it meets."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Terms = tuple[tuple[int, int], ...]
"""Pairs (terms of a sum, how many outputs have so many)."""

_NAMES = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 complex64 complex128"
_NUMPY = frozenset(getattr(torch, name) for name in _NAMES.split(" "))
"""Types that NumPy has too."""


def readable(tensor: Tensor) -> Tensor:
    """The tensor's values as a plain dense tensor that NumPy can read."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    return tensor if tensor.dtype in _NUMPY else tensor.float()


def count_nonzeros(tensor: Tensor, axis: int | None = None) -> Any:
    """How many values are not 0, in all or along an axis. NumPy counts ten times as fast as torch does here."""
    return np.count_nonzero(readable(tensor).cpu().numpy(), axis=axis)


def by_rows(weight: Tensor, axis: int) -> Counter[int]:
    """How many of the sums along `axis` have how many non-zero weights. Convolutions: axis 1 of [outputs, all else]."""
    return Counter(np.ravel(count_nonzeros(weight, axis)).tolist())


def transposed(weight: Tensor, image: Sequence[int], output: Sequence[int], attributes: Any, channels: int) -> Terms:
    """The terms of a transposed convolution: how many products meet in each output, without those beyond the border.

    `weight` [inputs, outputs / groups, *kernel], on the meta device if its zeros are unknown; `image` and `output`
    are the spatial lengths, `channels` the number of outputs. An output that no input reaches has 0 terms.
    """
    groups, kernel = attributes["groups"], weight.shape[2:]
    inputs = weight.shape[0] // groups
    if weight.is_meta:
        products, copies = torch.full((1, *kernel), float(inputs), dtype=torch.float64), channels
    else:
        counts = readable(weight).cpu().reshape(groups, inputs, weight.shape[1], *kernel).count_nonzero(1)
        products, copies = counts.reshape(channels, *kernel).double(), 1
        if bool((products == inputs).all()):
            products, copies = products[:1], channels
    spread = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[len(kernel) - 1]
    ones = torch.ones(1, 1, *image, dtype=torch.float64)
    stride, padding, dilation = (list(attributes[key]) for key in ("stride", "padding", "dilation"))
    terms = spread(ones, products[None], None, stride, padding, list(attributes["output_padding"]), 1, dilation)
    assert tuple(terms.shape[2:]) == tuple(output)
    numbers, counts_of = np.unique(terms.round().long().numpy(), return_counts=True)
    return tuple((int(n), int(count) * copies) for n, count in zip(numbers, counts_of, strict=True))


def matrix_rows(weight: Tensor, left: bool, joined: bool) -> tuple[Tensor, int]:
    """A matrix product's constant operand, and the axis that is summed along.

    `left`: weight @ x, summed along its rows; else x @ weight, along its columns. `joined`: the products of a batch are
    summed too (addbmm), so that rows of all of them make one sum.
    """
    if joined and weight.dim() == 3:
        weight = weight.transpose(0, 1).flatten(1) if left else weight.flatten(0, 1)
    return weight, -1 if left or weight.dim() == 1 else -2
