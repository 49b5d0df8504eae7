"""Small ONNX files for tests: `save_onnx(path, [Relu], {})` writes a graph from one input `x` to one output `y`."""

from pathlib import Path
from typing import Any

import numpy as np


def save_onnx(
    path: Path,
    nodes: list[Any],
    constants: dict[str, Any],
    size: tuple[Any, ...],
    opset: int = 17,
) -> Path:
    """Save `nodes` as a graph with the stored arrays `constants` and an input of floats of `size`; return `path`."""
    path.write_bytes(onnx_model(nodes, constants, size, opset).SerializeToString())
    return path


def onnx_model(nodes: list[Any], constants: dict[str, Any], size: tuple[Any, ...], opset: int = 17) -> Any:
    """The model that `save_onnx` saves. It knows ONNX Runtime's operators (com.microsoft) too."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    # An older version of the container: not every ONNX Runtime reads the newest.
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset > 17 else 8)
