"""Shapes of results for the operators for which torch's meta device is slow.

The meta device works out some shapes in Python. That takes milliseconds an operator, and the first use imports the
whole compiler, which takes longer than tracing a large network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from netpress.tracing.kinds import ACTIVATIONS


def shape_only(name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """What the operator `name` returns given tensors on the meta device; None to leave it to torch."""
    if name in ("mm", "addmm") and len(arguments) == (2 if name == "mm" else 3) and not keywords:
        left, right = arguments[-2:]
        return torch.empty(left.shape[0], right.shape[1], dtype=left.dtype, device="meta")
    if name == "cat" and all(part.dim() > 1 for part in arguments[0]) and not keywords:
        parts, dim = arguments[0], arguments[1] if len(arguments) > 1 else 0
        sizes = list(parts[0].shape)
        sizes[dim] = sum(part.shape[dim] for part in parts)
        return torch.empty(sizes, dtype=parts[0].dtype, device="meta")
    x = arguments[0] if arguments else None
    if not isinstance(x, Tensor) or not x.is_meta:
        return None
    plain = name.rstrip("_")
    if plain in ACTIVATIONS and not any(isinstance(value, Tensor) for value in arguments[1:]):
        return torch.empty_like(x) if plain == name else x
    if plain in ("hardtanh", "clamp_min", "clamp_max") and not any(
        isinstance(value, Tensor) for value in arguments[1:]
    ):
        return torch.empty_like(x) if plain == name else x
    if plain in ("add", "sub", "mul", "div") and not keywords and len(arguments) == 2:
        return x if plain != name else _broadcast(x, arguments[1])
    if name == "native_batch_norm":
        return torch.empty_like(x), torch.empty(0), torch.empty(0)
    if name == "mean" and len(arguments) > 1 and arguments[1] and not keywords:
        dims = {dim % x.dim() for dim in arguments[1]}
        keep = len(arguments) > 2 and arguments[2]
        sizes = [1 if d in dims else size for d, size in enumerate(x.shape) if keep or d not in dims]
        return torch.empty(sizes, dtype=x.dtype, device="meta")
    return None


def _broadcast(x: Tensor, other: Any) -> Tensor:
    sizes = torch.broadcast_shapes(x.shape, other.shape) if isinstance(other, Tensor) else x.shape
    return torch.empty(sizes, dtype=torch.result_type(x, other), device="meta")
