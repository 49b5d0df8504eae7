"""The tables that say what each of torch's own operators is: its kind of operation, and how many values it covers.

torch breaks every call of a module into these operators (aten). So functional calls, operators such as `x + y` and a
user's own modules all arrive here. An operator that is not in these tables is an error that names it: nothing is
skipped.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """What an operator does. `weight` and `bias` are the positions of its operands that are such, if constant."""

    kind: str
    function: str
    window: int = 1
    weight: int | None = None
    bias: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


Arguments = Sequence[Any]
Reader = Callable[[Arguments, Mapping[str, Any], Any], Reading | None]

_MOVES = """
view _unsafe_view reshape _reshape_alias permute t transpose slice select expand cat stack split
split_with_sizes chunk unbind squeeze unsqueeze clone copy alias detach contiguous constant_pad_nd
reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d narrow flatten unflatten repeat roll flip
_to_copy to lift_fresh lift_fresh_copy as_strided view_as movedim pixel_shuffle pixel_unshuffle im2col unfold
diagonal resolve_conj resolve_neg tril triu gather embedding fill zero masked_fill expand_copy dropout native_dropout
unsafe_split unsafe_split_with_sizes unsafe_chunk index_copy slice_scatter select_scatter index _unsafe_index
index_select take take_along_dim masked_select nonzero nonzero_static argwhere
"""
MOVES = frozenset(_MOVES.split())
"""Operators that place values elsewhere or (dropout at evaluation) do nothing."""

_FRESH = """
zeros ones full empty arange linspace logspace eye empty_strided scalar_tensor new_zeros new_ones new_full new_empty
new_empty_strided zeros_like ones_like full_like empty_like rand randn randint randperm rand_like randn_like
randint_like tril_indices triu_indices hann_window hamming_window
"""
FRESH = frozenset(_FRESH.split())
"""Operators that make constants. Of another tensor they take its shape at most, never its values."""

_FUNCTIONS = """
exp log sqrt rsqrt reciprocal erf sin cos abs neg sign round floor ceil log1p expm1 square
exp2 log2 log10 tan asin acos atan sinh cosh asinh acosh atanh erfc trunc
"""
FUNCTIONS = tuple(_FUNCTIONS.split())
"""Functions of one value that are one operation each, under the names that torch gives them."""

ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "hardswish": "hard_swish",
    "hardsigmoid": "hard_sigmoid",
    "silu": "swish",
    "sigmoid": "sigmoid",
    "gelu": "gelu",
    "tanh": "tanh",
    "elu": "elu",
    "selu": "selu",
    "celu": "elu",
    "leaky_relu": "leaky_relu",
    "prelu": "prelu",
    "_prelu_kernel": "prelu",
    "mish": "mish",
    "softplus": "softplus",
    **{name: name for name in FUNCTIONS},
}
"""Functions of one value, applied to each."""

_COMPARISONS = """
gt ge lt le eq ne maximum minimum where logical_and logical_or logical_xor logical_not bitwise_and bitwise_or
bitwise_xor bitwise_not isnan isfinite isinf
"""
COMPARISONS = frozenset(_COMPARISONS.split())


def read_operator(name: str, arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading | None:
    """What the operator `name` does with these arguments; None if it is unknown."""
    plain = name.rstrip("_")  # relu_ is relu in place
    if plain in READERS:
        return READERS[plain](arguments, keywords, result)
    if plain in ACTIVATIONS:
        return Reading("activation", ACTIVATIONS[plain])
    if plain in COMPARISONS:
        return Reading("compare", plain)
    if plain in MOVES:
        return Reading("move", plain)
    return None


def _argument(arguments: Arguments, keywords: Mapping[str, Any], index: int, name: str, default: Any = None) -> Any:
    return arguments[index] if len(arguments) > index else keywords.get(name, default)


def _first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple | list) else result


def _convolution(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    weight, stride, padding, dilation, transposed, _, groups = (arguments[1], *arguments[3:9])
    kernel = tuple(weight.shape[2:])
    attributes = {
        "kernel": kernel,
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "output_padding": tuple(arguments[7]),
        "groups": groups,
        # A weight is [outputs, inputs / groups, *kernel]; a transposed one [inputs, outputs / groups, *kernel].
        "in_channels": weight.shape[0] if transposed else weight.shape[1] * groups,
    }
    window = math.prod(kernel) * weight.shape[1]
    kind = "conv_transpose" if transposed else "conv"
    return Reading(kind, kind, window, weight=1, bias=2, attributes=attributes)


def _matrix_product(first: int, added: int | None, joined: bool = False) -> Reader:
    """The product of the operands `first` and the next, times alpha, and the operand `added`, times beta.

    What is added is a bias if it is constant, otherwise a value (`added` among the attributes). `joined`: the
    products of a batch are summed (addbmm).
    """

    def read(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
        x = arguments[first]
        window = x.shape[-1] * (x.shape[0] if joined else 1)
        alpha, beta = keywords.get("alpha", 1), keywords.get("beta", 1)
        attributes: dict[str, Any] = {"joined": True} if joined else {}
        if alpha != 1:
            attributes["scaled"] = 1
        if added is None or beta == 0:
            return Reading("matmul", "matmul", window, weight=first + 1, attributes=attributes)
        attributes |= {"beta": True} if beta != 1 else {}
        return Reading("matmul", "matmul", window, weight=first + 1, bias=added, attributes=attributes)

    return read


def _outer_product(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    factors = sum(keywords.get(name, 1) not in (0, 1) for name in ("alpha", "beta"))
    if keywords.get("beta", 1) == 0:
        return Reading("multiply", "outer")
    return Reading("add", "addr", attributes={"scaled": 1 + factors})


def _batch_norm(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    training = arguments[5] if isinstance(arguments[5], bool) else False
    x = arguments[0]  # [batch, channels, ...]
    if training or arguments[3] is None:
        return Reading("group_norm", "group_norm", x.numel() // x.shape[1], weight=1, bias=2)
    return Reading("norm", "batch_norm", weight=1, bias=2)


def _legit_norm(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    x = arguments[0]
    return Reading("group_norm", "group_norm", x.numel() // x.shape[1], weight=1, bias=2)


def _layer_norm(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    return Reading("group_norm", "layer_norm", math.prod(arguments[1]), weight=2, bias=3)


def _group_norm(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    _, _, _, _, channels, places, groups = arguments[:7]
    return Reading("group_norm", "group_norm", channels * places // groups, weight=1, bias=2)


def _rms_norm(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    return Reading("group_norm", "rms_norm", math.prod(arguments[1]), weight=2)


def _clamp(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    low = _argument(arguments, keywords, 1, "min", _argument(arguments, keywords, 1, "min_val"))
    high = _argument(arguments, keywords, 2, "max", _argument(arguments, keywords, 2, "max_val"))
    if low is not None and high is not None:
        numbers = isinstance(low, int | float) and isinstance(high, int | float)
        function = "relu6" if numbers and (low, high) == (0, 6) else "clamp"
    else:
        function = "relu" if isinstance(low, int | float) and low == 0 else "threshold"
    return Reading("activation", function)


def _hard_tanh(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    low = _argument(arguments, keywords, 1, "min_val", -1)
    high = _argument(arguments, keywords, 2, "max_val", 1)
    return Reading("activation", "relu6" if (low, high) == (0, 6) else "clamp")


def _elementwise(kind: str, function: str) -> Reader:
    def read(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
        scaled = keywords.get("alpha", 1) != 1  # add(x, y, alpha=2) is x + 2 * y
        return Reading(kind, function, attributes={"scaled": 1} if scaled else {})

    return read


def _added_product(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    """x + value * y * z, or y / z."""
    factors = 1 + (keywords.get("value", 1) != 1)
    return Reading("add", "addcmul", attributes={"scaled": factors})


def _interpolation(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    """x + weight * (y - x)."""
    return Reading("add", "lerp", attributes={"scaled": 1, "additions": 2})


def _power(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    exponent = arguments[1] if isinstance(arguments[1], int | float) else None
    if exponent == 2:
        return Reading("multiply", "square")
    return Reading("activation", "sqrt" if exponent == 0.5 else "power")


def _pool(function: str) -> Reader:
    def read(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
        kernel = tuple(arguments[1])
        # [k] means [k, k]; which dimensions are spatial depends on the operator's rank, its last ones.
        places = len(arguments[0].shape) - 2 if len(arguments[0].shape) > 2 else 1
        kernel = kernel * places if len(kernel) == 1 else kernel
        return Reading("pool", function, math.prod(kernel), attributes={"kernel": kernel})

    return read


def _adaptive_pool(function: str, places: int) -> Reader:
    def read(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
        output = _first(result)
        pairs = zip(arguments[0].shape[-places:], output.shape[-places:], strict=True)
        lengths = [_adaptive_windows(*pair) for pair in pairs]
        maps = output.numel() // math.prod(output.shape[-places:])
        counts = Counter(math.prod(window) for window in itertools.product(*(length.elements() for length in lengths)))
        windows = tuple((window, count * maps) for window, count in sorted(counts.items()))
        if len(windows) == 1:
            return Reading("pool", function, windows[0][0], attributes={"adaptive": True})
        mean = sum(window * count for window, count in windows) // output.numel()
        return Reading("pool", function, mean, attributes={"adaptive": True, "windows": windows})

    return read


def _adaptive_windows(size: int, outputs: int) -> Counter[int]:
    """Lengths of the windows of torch's own: each from floor(k * size / outputs) to the ceiling of the next."""
    return Counter(-(-(k + 1) * size // outputs) - k * size // outputs for k in range(outputs))


def _reduction(function: str) -> Reader:
    def read(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
        x, output = arguments[0], _first(result)
        window = max(1, x.numel() // max(1, output.numel()))
        # length is vector_norm(x, order, dim), the others are mean(x, dim)
        dims = _argument(arguments, keywords, 2 if function == "length" else 1, "dim")
        if isinstance(dims, Tensor):  # max(x, y): the larger of two
            return Reading("compare", function)
        spatial = dims is not None and {
            d % max(1, x.dim()) for d in ([dims] if isinstance(dims, int) else dims)
        } == set(range(2, x.dim()))
        if spatial and function in ("average", "max"):  # global pooling, in whatever words
            return Reading("pool", function, window, attributes={"global": True})
        return Reading("reduce", function, window)

    return read


def _softmax(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    return Reading("softmax", "softmax", arguments[0].shape[arguments[1]])


def _log_softmax(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    return Reading("softmax", "log_softmax", arguments[0].shape[arguments[1]])


def _upsample(function: str, window: int) -> Reader:
    def read(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
        return Reading("upsample", function, window)

    return read


def _placed(name: str, adds: Callable[[Arguments, Mapping[str, Any]], Any]) -> Reader:
    """Values put where indices say. Where they are added to what is there instead, no rule says what that costs."""
    return lambda arguments, keywords, result: None if adds(arguments, keywords) else Reading("move", name)


def _channel_shuffle(arguments: Arguments, keywords: Mapping[str, Any], result: Any) -> Reading:
    return Reading("permute_channels", "channel_shuffle")


READERS: dict[str, Reader] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "addmm": _matrix_product(1, 0),
    "mm": _matrix_product(0, None),
    "bmm": _matrix_product(0, None),
    "baddbmm": _matrix_product(1, 0),
    "addbmm": _matrix_product(1, 0, joined=True),
    "addmv": _matrix_product(1, 0),
    "mv": _matrix_product(0, None),
    "dot": _matrix_product(0, None),
    "vdot": _matrix_product(0, None),
    "addr": _outer_product,
    "native_batch_norm": _batch_norm,
    "cudnn_batch_norm": _batch_norm,
    "miopen_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _legit_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_fused_rms_norm": _rms_norm,
    "clamp": _clamp,
    "clamp_min": lambda a, k, r: _clamp((a[0], _argument(a, k, 1, "min"), None), {}, r),
    "clamp_max": lambda a, k, r: _clamp((a[0], None, _argument(a, k, 1, "max")), {}, r),
    "threshold": lambda a, k, r: Reading("activation", "relu" if (a[1], a[2]) == (0, 0) else "threshold"),
    "hardtanh": _hard_tanh,
    "add": _elementwise("add", "add"),
    "sub": _elementwise("add", "sub"),
    "rsub": _elementwise("add", "sub"),
    "mul": _elementwise("multiply", "mul"),
    "div": _elementwise("multiply", "div"),
    "pow": _power,
    "addcmul": _added_product,
    "addcdiv": _added_product,
    "lerp": _interpolation,
    "glu": lambda a, k, r: Reading("activation", "glu"),  # of half as many values as it reads
    "avg_pool1d": _pool("average"),
    "avg_pool2d": _pool("average"),
    "avg_pool3d": _pool("average"),
    "max_pool2d_with_indices": _pool("max"),
    "max_pool3d_with_indices": _pool("max"),
    "_adaptive_avg_pool2d": _adaptive_pool("average", 2),
    "_adaptive_avg_pool3d": _adaptive_pool("average", 3),
    "adaptive_max_pool2d": _adaptive_pool("max", 2),
    "adaptive_max_pool3d": _adaptive_pool("max", 3),
    "mean": _reduction("average"),
    "sum": _reduction("sum"),
    "prod": _reduction("product"),
    "amax": _reduction("max"),
    "amin": _reduction("max"),
    "max": _reduction("max"),
    "min": _reduction("max"),
    "argmax": _reduction("max"),
    "argmin": _reduction("max"),
    "any": _reduction("max"),
    "all": _reduction("max"),
    "var": _reduction("variance"),
    "std": _reduction("deviation"),
    "var_mean": _reduction("variance"),
    "std_mean": _reduction("deviation"),
    "linalg_vector_norm": _reduction("length"),
    "norm": _reduction("length"),
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "upsample_nearest1d": _upsample("nearest", 1),
    "upsample_nearest2d": _upsample("nearest", 1),
    "upsample_nearest3d": _upsample("nearest", 1),
    "_upsample_nearest_exact1d": _upsample("nearest", 1),
    "_upsample_nearest_exact2d": _upsample("nearest", 1),
    "upsample_linear1d": _upsample("linear", 2),
    "upsample_trilinear3d": _upsample("trilinear", 8),
    "upsample_bilinear2d": _upsample("bilinear", 4),
    "upsample_bicubic2d": _upsample("bicubic", 16),
    "index_put": _placed("index_put", lambda a, k: _argument(a, k, 3, "accumulate")),
    "_index_put_impl": _placed("index_put", lambda a, k: _argument(a, k, 3, "accumulate")),
    "scatter": _placed("scatter", lambda a, k: "reduce" in k),
    "channel_shuffle": _channel_shuffle,
    "native_channel_shuffle": _channel_shuffle,
}
