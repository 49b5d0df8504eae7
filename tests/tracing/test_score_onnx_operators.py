"""Every operator for which the `onnx` package has a test of its own is counted right, or refused in one sentence.

Those tests (1,884 small models in onnx 1.22) bring what goes in and what must come out. The first input of floats stays
an input, the others become stored values. What a graph answers then shows that it was read right; what it costs is
compared with numbers worked out from the shapes alone, by the rules in docs/scoring.md.
"""

import math
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netpress.errors import Failure, UserError
from netpress.scoring import choose_settings, score_trace
from netpress.scoring.onnx import OnnxGraph

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")

from onnx import helper, numpy_helper  # noqa: E402
from onnx.backend.test.loader import load_model_tests  # noqa: E402

pytestmark = pytest.mark.slow

LONGEST = 20  # seconds for one of these models, all of which are tiny

OTHER_VALUES = {
    "Resize": "which neighbours and weights are used changes no cost",
    "AveragePool": "uneven padding that is left out of the mean is taken for zeros; the cost is that of the window",
    "QuantizeLinear": "gives the numbers that the integers stand for",
    "DynamicQuantizeLinear": "likewise",
    "MatMulInteger": "zero points of what depends on the image belong to its numbers",
    **dict.fromkeys(("ArgMax", "ArgMin"), "the last of equal places instead of the first costs the same"),
    "RandomUniformLike": "draws other numbers",
    "BitwiseNot": "integers are kept in 64 bits",
}
"""Operators whose results may have other values than the test has, and why the count is right all the same."""

_ONE = """
Exp Log Sqrt Erf Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Tanh Abs Neg Sign Floor Ceil Round Reciprocal
Relu ThresholdedRelu Mul Div Where Greater Less Equal GreaterOrEqual LessOrEqual And Or Xor Not IsNaN
"""
_NOTHING = """
Identity Reshape Flatten Transpose Squeeze Unsqueeze Slice Gather Expand Tile Concat Pad DepthToSpace SpaceToDepth
Trilu GatherElements GatherND Cast Split
"""
PER_VALUE: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("Add", "Sub"), (0, 1)),
    **dict.fromkeys(_ONE.split(), (1, 0)),
    **dict.fromkeys(("LeakyRelu", "PRelu"), (2, 0)),
    **dict.fromkeys(("Sigmoid", "Elu", "Softsign"), (2, 1)),
    "HardSwish": (4, 1),
    **dict.fromkeys(_NOTHING.split(), (0, 0)),
}
"""Multiplications and additions for each value of the result."""

PER_SUM: dict[str, Callable[[int], tuple[int, int]]] = {
    "ReduceSum": lambda n: (0, n - 1),
    "ReduceMean": lambda n: (1, n - 1),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceProd", "ArgMax", "ArgMin"), lambda n: (n - 1, 0)),
    "ReduceL1": lambda n: (n, n - 1),
    "ReduceSumSquare": lambda n: (n, n - 1),
    "ReduceL2": lambda n: (n + 1, n - 1),
    "ReduceLogSum": lambda n: (1, n - 1),
    "ReduceLogSumExp": lambda n: (n + 1, n - 1),
    "GlobalAveragePool": lambda n: (1, n - 1),
    "GlobalMaxPool": lambda n: (n - 1, 0),
}
"""The same for each value that is made of n."""


def _model(case: Any) -> tuple[Any, Any]:
    """The case's model with one input of floats of a batch of 1, all else stored; and that input's values."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph, (inputs, _) = model.graph, case.data_sets[0]
    entries = list(graph.input)
    arrays = [index for index, value in enumerate(inputs) if isinstance(value, np.ndarray)]
    first = next((index for index in arrays if inputs[index].dtype.kind == "f" and inputs[index].size), 0)
    del graph.input[:]
    given = None
    for index, (entry, value) in enumerate(zip(entries, inputs, strict=False)):
        if index == first and index in arrays:
            given, name = value, f"{entry.name}__one"
            kind = entry.type.tensor_type.elem_type
            graph.input.append(helper.make_tensor_value_info(name, kind, [1, *value.shape]))
            graph.initializer.append(numpy_helper.from_array(np.array(value.shape, np.int64), "__shape"))
            graph.node.insert(0, helper.make_node("Reshape", [name, "__shape"], [entry.name]))
        elif index in arrays:
            graph.initializer.append(numpy_helper.from_array(value, entry.name))
        else:
            graph.input.append(entry)
    return model, given


def _wrong_values(graph: OnnxGraph, case: Any, given: Any) -> bool:
    wide = np.float32 if given.dtype.kind not in "biu" else np.int64 if given.dtype.kind in "iu" else bool
    made = graph(torch.from_numpy(given.astype(wide))[None])
    names = [entry.name for entry in case.model.graph.output]
    pairs = zip(names, case.data_sets[0][1], strict=True)
    varying = {name for name, value in graph._values.items() if not value.constant}  # constants are not answered
    wanted = [value for name, value in pairs if name in graph.results and name in varying]
    exact = not any("bfloat16" in str(getattr(value, "dtype", "")) for value in (*wanted, given))
    tolerance = 2e-3 if exact else 2e-2
    for ours, theirs in zip(made, wanted, strict=True):
        if not isinstance(theirs, np.ndarray) or theirs.dtype.kind in "OSU":
            continue
        values, expected = ours.numpy().astype(np.float64), theirs.astype(np.float64)
        if values.shape != expected.shape or not np.allclose(
            values, expected, rtol=tolerance, atol=tolerance / 10, equal_nan=True
        ):
            return True
    return False


def _by_hand(case: Any) -> tuple[float, float] | None:
    """Multiplications and additions of a model of one node, from the shapes and zeros of what goes in and comes out."""
    if len(case.model.graph.node) != 1 or not isinstance(case.data_sets[0][1][0], np.ndarray):
        return None
    node, (inputs, outputs) = case.model.graph.node[0], case.data_sets[0]
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    x, made, kind = inputs[0], outputs[0].size, node.op_type
    sizes = [value.size for value in inputs if isinstance(value, np.ndarray)]
    if kind in PER_VALUE:
        if kind == "Slice" and case.name.endswith("neg_steps"):
            return None  # backwards along channels: a permutation of them
        if len(sizes) > 1 and min(sizes) == 1 and kind in ("Mul", "Div"):
            return None
        multiplications, additions = PER_VALUE[kind]
        return multiplications * made, additions * made
    if kind in PER_SUM and made and x.size:
        multiplications, additions = PER_SUM[kind](x.size // made)
        return multiplications * made, additions * made
    if kind in ("MaxPool", "AveragePool"):
        window = math.prod(attributes["kernel_shape"])
        return (made * (window - 1), 0) if kind == "MaxPool" else (made, made * (window - 1))
    if kind in ("Conv", "MatMul", "Gemm"):
        if np.count_nonzero(inputs[1]) != inputs[1].size:
            return None
        terms = x.shape[0 if attributes.get("transA") else -1] if kind != "Conv" else math.prod(inputs[1].shape[1:])
        bias = made if len(inputs) > 2 and attributes.get("beta", 1.0) == 1 else 0
        if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1 or (bias and kind == "Gemm"):
            return None  # a bias that is broadcast, alpha and beta: in test_score_operators.py
        return terms * made, (terms - 1) * made + bias
    if kind == "Softmax":
        length = x.shape[attributes.get("axis", -1)]
        return 2 * made, (length - 1) * made // length
    return None


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, while the package makes its tests
        return [case for case in load_model_tests(kind="node") if case.data_sets]


def _stop(*_: Any) -> None:
    raise TimeoutError


def test_each_is_counted_right_or_refused_in_a_sentence(cases: list[Any], tmp_path: Path) -> None:
    assert len(cases) > 1000
    path, settings = tmp_path / "case.onnx", choose_settings()
    counted: Counter[str] = Counter()
    problems, checked = [], 0
    signal.signal(signal.SIGALRM, _stop)
    for case in cases:
        model, given = _model(case)
        kinds = {node.op_type for node in model.graph.node} | {node.op_type for node in case.model.graph.node}
        path.write_bytes(model.SerializeToString())
        signal.alarm(LONGEST)
        try:
            graph = OnnxGraph(path)
            card = score_trace(graph.trace(), settings, graph.formats)
        except (UserError, Failure) as error:
            message = str(error)
            if "\n" in message or len(message) > 500 or not message.startswith(str(path)):
                problems.append((case.name, message))
            continue
        except Exception as error:
            problems.append((case.name, repr(error)))
            continue
        finally:
            signal.alarm(0)
        counted.update(kinds)
        if given is not None and not kinds & OTHER_VALUES.keys() and _wrong_values(graph, case, given):
            problems.append((case.name, "other values"))
        expected = _by_hand(case)
        if expected is not None:
            checked += 1
            if (card.multiplications, card.additions) != expected:
                problems.append((case.name, f"{card.multiplications}, {card.additions}, not {expected}"))
    assert not problems, f"{len(problems)} of {len(cases)}: {problems[:20]}"
    assert checked > 250
    assert len(counted) > 120 and counted["LSTM"] and counted["Einsum"] and counted["QuantizeLinear"]
