"""ONNX Runtime's operators on integers are rewritten as nodes that say what they do.

QLinearConv, for example, becomes DequantizeLinear of its operands, Conv, and QuantizeLinear of the result.
"""

from collections.abc import Callable
from typing import Any

Rewriter = Callable[[Any], list[Any]]
INTEGERS = "netpress.Integers"
"""An operator of our own: integers less their zero point, as wide as they are and without a scale."""
DYNAMIC = "netpress.Dynamic"
"""An operator of our own: values made 8-bit integers on a scale found from their extremes."""


def rewrite(proto: Any) -> list[Any]:
    """The nodes that a node stands for: itself, or for an operator on integers the ones that say what it does."""
    writer = _WRITERS.get(proto.op_type) if proto.domain in ("", "ai.onnx", "com.microsoft") else None
    return writer(proto) if writer is not None else [proto]


def _node(proto: Any, kind: str, inputs: list[str], output: str, suffix: str = "", **attributes: Any) -> Any:
    import onnx

    node = onnx.helper.make_node(kind, inputs, [output], **attributes)
    node.name = f"{proto.name or proto.output[0]}{suffix}"
    return node


def _given(proto: Any, *places: int) -> list[str]:
    return [proto.input[place] if place < len(proto.input) else "" for place in places]


def _number(proto: Any, places: tuple[int, int, int], suffix: str, **attributes: Any) -> tuple[Any, str]:
    """The node that makes numbers of the integers, scale and zero point at three inputs; and its result's name."""
    name = f"{proto.output[0]}/{suffix}"
    return _node(proto, "DequantizeLinear", _given(proto, *places), name, f"/{suffix}", **attributes), name


def _product(kind: str, axis: int, bias: int | None, result: tuple[int, int]) -> Rewriter:
    """x, its scale and zero point, w likewise; the integers' bias is on the scale of their products."""

    def write(proto: Any) -> list[Any]:
        transposed = any(entry.name == "transB" and entry.i for entry in proto.attribute)
        left, x = _number(proto, (0, 1, 2), "x")
        right, w = _number(proto, (3, 4, 5), "w", axis=0 if transposed else axis)
        nodes, operands = [left, right], [x, w]
        if bias is not None and any(_given(proto, bias)):
            scale, added = f"{proto.output[0]}/bias_scale", f"{proto.output[0]}/bias"
            nodes.append(_node(proto, "Mul", _given(proto, 1, 4), scale, "/bias_scale"))
            nodes.append(_node(proto, "DequantizeLinear", [proto.input[bias], scale], added, "/bias", axis=0))
            operands.append(added)
        return [*nodes, *_then_quantize(proto, kind, operands, result)]

    return write


def _then_quantize(proto: Any, kind: str, operands: list[str], result: tuple[int, int]) -> list[Any]:
    quantized = any(_given(proto, result[0]))
    name = f"{proto.output[0]}/y" if quantized else proto.output[0]
    node = _node(proto, kind, operands, name)
    node.attribute.extend(entry for entry in proto.attribute if entry.name not in ("channels_last",))
    if not quantized:
        return [node]
    return [node, _node(proto, "QuantizeLinear", [name, *_given(proto, *result)], proto.output[0], "/y")]


def _function(kind: str) -> Rewriter:
    """x, its scale and zero point, the scale and zero point of the result."""

    def write(proto: Any) -> list[Any]:
        node, x = _number(proto, (0, 1, 2), "x")
        return [node, *_then_quantize(proto, kind, [x], (3, 4))]

    return write


def _two(kind: str) -> Rewriter:
    """Two values, each with its scale and zero point, and those of the result."""

    def write(proto: Any) -> list[Any]:
        (left, a), (right, b) = _number(proto, (0, 1, 2), "a"), _number(proto, (3, 4, 5), "b")
        return [left, right, *_then_quantize(proto, kind, [a, b], (6, 7))]

    return write


def _joined(proto: Any) -> list[Any]:
    """The result's scale and zero point, then each value with its own."""
    parts = [_number(proto, (k, k + 1, k + 2), f"part{k // 3}") for k in range(2, len(proto.input), 3)]
    return [*(node for node, _ in parts), *_then_quantize(proto, "Concat", [name for _, name in parts], (0, 1))]


def _of_integers(kind: str) -> Rewriter:
    """Two tensors of integers and their zero points; the result is integers of 32 bits."""

    def write(proto: Any) -> list[Any]:
        names = [f"{proto.output[0]}/{suffix}" for suffix in ("x", "w")]
        nodes = [
            _node(proto, INTEGERS, _given(proto, place, place + 2), name, f"/{name[-1]}")
            for place, name in enumerate(names)
        ]
        node = _node(proto, kind, names, proto.output[0])
        node.attribute.extend(proto.attribute)
        return [*nodes, node]

    return write


def _dynamic(proto: Any) -> list[Any]:
    node = _node(proto, DYNAMIC, _given(proto, 0), proto.output[0])
    node.output.extend(list(proto.output)[1:])
    return [node]


def _dynamic_product(proto: Any) -> list[Any]:
    """A value, integer weights with scale and zero point, a bias: A, B, b_scale, b_zero_point, bias."""
    x, product = f"{proto.output[0]}/x", f"{proto.output[0]}/product"
    weight, w = _number(proto, (1, 2, 3), "w", axis=-1)
    nodes = [_node(proto, DYNAMIC, _given(proto, 0), x, "/x"), weight]
    if not any(_given(proto, 4)):
        return [*nodes, _node(proto, "MatMul", [x, w], proto.output[0])]
    added = _node(proto, "Add", [product, proto.input[4]], proto.output[0], "/bias")
    return [*nodes, _node(proto, "MatMul", [x, w], product), added]


_WRITERS: dict[str, Rewriter] = {
    "QLinearConv": _product("Conv", 0, 8, (6, 7)),
    "QLinearMatMul": _product("MatMul", -1, None, (6, 7)),
    "QGemm": _product("Gemm", -1, 6, (7, 8)),
    "QLinearAdd": _two("Add"),
    "QLinearMul": _two("Mul"),
    "QLinearConcat": _joined,
    "QLinearSigmoid": _function("Sigmoid"),
    "QLinearLeakyRelu": _function("LeakyRelu"),
    "QLinearSoftmax": _function("Softmax"),
    "QLinearAveragePool": _function("AveragePool"),
    "QLinearGlobalAveragePool": _function("GlobalAveragePool"),
    "ConvInteger": _of_integers("Conv"),
    "MatMulInteger": _of_integers("MatMul"),
    "DynamicQuantizeLinear": _dynamic,
    "DynamicQuantizeMatMul": _dynamic_product,
}
