"""An ONNX graph in the making, written node by node from a program.

Opset 13 and format 8 (ONNX 1.10): what compilers for FPGAs and older runtimes read. Every node works on a batch of any
size; no constant says how many images there are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from netpress import __version__
from netpress.errors import UserError
from netpress.files import atomic_path
from netpress.program import Program
from netpress.program.operations import Operation, Pad

OPSET, IR_VERSION = 13, 8


class GraphWriter:
    """Nodes in order of execution, and the constants that they read."""

    def __init__(self, program: Program, renamed: Mapping[str, str]) -> None:
        """`renamed`: other names for some of the program's buffers."""
        _require()
        self.program = program
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.domains: dict[str, int] = {}
        self.stands: dict[str, str] = dict(renamed)  # by buffer: the name of the value that holds it
        self.ends = set(renamed.values())

    def name(self, buffer: str) -> str:
        """What the values of a buffer are called in the graph."""
        if buffer in self.stands:
            return self.stands[buffer]
        name = buffer.replace(" ", "_")
        return f"{name}_" if name in self.ends else name

    def constant(self, name: str, values: Tensor | float | Sequence[int], kind: str = "float32") -> str:
        """The name of a constant: `name`, or that of an equal one whose name differs in its place alone."""
        array = np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, dtype=kind)
        stem, number = name, 2
        while (found := self.constants.get(name)) is not None:
            if found.dtype == array.dtype and found.shape == array.shape and bool((found == array).all()):
                return name
            name, number = f"{stem}_{number}", number + 1
        self.constants[name] = array
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node; returns its output."""
        from onnx import helper

        if domain:
            self.domains[domain] = 1
        node = helper.make_node(kind, list(inputs), [output], name=output, domain=domain, **attributes)
        self.nodes.append(node)
        return output

    def model(self, source: tuple[str, int], result: tuple[str, int], batch: int | str, facts: dict[str, str]) -> Any:
        """The model of the graph. `source`, `result`: name and ONNX type of what enters and leaves it.

        batch: how many images enter at once, or a name for any number.
        """
        from onnx import helper, numpy_helper

        buffers = self.program.buffers
        shapes = {source[0]: buffers[self.program.input].shape, result[0]: buffers[self.program.output].shape}
        ends = [helper.make_tensor_value_info(name, kind, [batch, *shapes[name]]) for name, kind in (source, result)]
        tensors = [numpy_helper.from_array(np.array(x, order="C"), name) for name, x in self.constants.items()]
        graph = helper.make_graph(self.nodes, "network", ends[:1], ends[1:], tensors)
        opsets = [helper.make_opsetid(domain, version) for domain, version in {"": OPSET, **self.domains}.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name, model.producer_version = "netpress", __version__
        helper.set_model_props(model, facts)
        return model


class OperationWriter:
    """Writes the nodes that stand for a program's operations."""

    def __init__(self, writer: GraphWriter) -> None:
        self.writer = writer

    def write(self, of: Operation, kind: str, *constants: str, inputs: Any = None, **attributes: Any) -> None:
        """A node that reads what `of` reads, then the constants, and writes its output."""
        read = [self.writer.name(name) for name in of.inputs] if inputs is None else inputs
        self.writer.node(kind, [*read, *constants], self.writer.name(of.output), **attributes)

    def step(self, of: Operation, suffix: str, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node on the way to what `of` writes; the name of its result."""
        return self.writer.node(kind, inputs, f"{self.writer.name(of.output)}.{suffix}", **attributes)

    def constant(self, of: Operation, suffix: str, values: Any, kind: str = "float32") -> str:
        return self.writer.constant(f"{self.writer.name(of.output)}.{suffix}", values, kind)


def write_model(model: Any, path: Path) -> None:
    """Write a model as one file."""
    import onnx

    with atomic_path(path) as part:
        onnx.save(model, str(part))


def pads_of(operation: Pad, axes: int) -> list[int]:
    """What ONNX adds before each axis, then after each, for a tensor of so many `axes`."""
    pairs = [operation.widths[place : place + 2] for place in range(0, len(operation.widths), 2)]
    pairs = [(0, 0)] * (axes - len(pairs)) + pairs[::-1]
    return [pair[end] for end in (0, 1) for pair in pairs]


def require_onnx_name(path: Path) -> None:
    """Raise UserError for a path that ONNX files are not called."""
    if path.suffix.lower() != ".onnx":
        raise UserError(f"{path}: ONNX is what is written; call the file {path.stem}.onnx")


def _require() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise UserError(f'ONNX needs the extra: pip install "netpress[onnx]" ({error})') from None
