"""This module reads an ONNX file without trusting it.

It opens no other file than this one and a file of data in the same folder. It checks sizes before it allocates.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from netpress.errors import Failure, UserError
from netpress.files import require_file
from netpress.tracing.operations import Shape

LARGEST_FILE = 2**31 - 1  # bytes: what protobuf itself can hold

MOST_NODES = 50_000
DEEPEST = 100  # functions within functions


def load_model(path: Path) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import checker, inliner
    except ImportError as error:
        raise UserError(f'reading ONNX needs the extra: pip install "netpress[onnx]" ({error})') from None
    require_file(path, limit=LARGEST_FILE)
    try:
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
        if model.functions:
            if _size(model) > MOST_NODES:
                raise UserError(f"{path}: with its functions it has more than {MOST_NODES:,} nodes, too many to count")
            model = inliner.inline_local_functions(model)
    except (DecodeError, ValueError, RuntimeError, checker.ValidationError) as error:
        raise Failure(f"{path}: not an ONNX file, or a damaged one ({error})") from error
    if not all(isinstance(name, str) for name in _names(model.graph)):
        raise Failure(f"{path}: not an ONNX file, or a damaged one (a name is no text)")
    if len(model.graph.node) > MOST_NODES:
        raise UserError(f"{path}: it has {len(model.graph.node):,} nodes; at most {MOST_NODES:,} are counted")
    if not model.graph.node:
        raise Failure(f"{path}: not an ONNX file, or an empty one")
    if model.graph.sparse_initializer:
        raise UserError(f"{path}: sparse initializers are not read; store the tensors whole")
    return model


def _size(model: Any) -> int:
    """How many nodes a model has once its functions stand in their callers. One that calls itself is refused later."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Any, depth: int) -> int:
        total = 0
        for node in nodes:
            called = (node.domain, node.op_type)
            if called in bodies and called not in sizes and depth < DEEPEST:
                sizes[called] = 1
                sizes[called] = size(bodies[called], depth + 1)
            total += sizes.get(called, 1) if depth < DEEPEST else MOST_NODES
        return total

    return size(model.graph.node, 0)


def _names(graph: Any) -> Iterator[Any]:
    """All names in a graph. Where bytes are no text, protobuf gives the bytes."""
    for entry in (*graph.input, *graph.output, *graph.initializer):
        yield entry.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (entry.name for entry in node.attribute)
    for entry in (pair for tensor in graph.initializer for pair in tensor.external_data):
        yield from (entry.key, entry.value)


def read_array(path: Path, proto: Any) -> np.ndarray[Any, Any]:
    """The values of a tensor, from the file itself or from a file of data beside it."""
    from onnx import TensorProto, numpy_helper

    if proto.data_location == TensorProto.EXTERNAL:
        proto = _with_data(path, proto)
    try:
        return numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise Failure(f"{path}: damaged: the values of {proto.name or 'a constant'} do not fill its shape") from error


def _with_data(path: Path, proto: Any) -> Any:
    """The tensor with its values inside. They may lie in a file of the same folder, as torch.onnx writes it.

    Anything else that a file could name (another folder, a link, a device) is not opened.
    """
    from onnx import TensorProto

    entries = {entry.key: entry.value for entry in proto.external_data}
    location = entries.get("location", "")
    beside = path.parent / location if location and Path(location).name == location else None
    if beside is None or beside.is_symlink() or (beside.exists() and not beside.is_file()):
        raise UserError(
            f"{path}: {proto.name} lies in {location[:80]!r}, which is not opened; "
            "only a file of data in the same folder is"
        )
    if not beside.exists():
        raise UserError(
            f"{path}: {proto.name} lies in {location[:80]}, which is not there; put it into the same folder"
        )
    digits = [entries.get(key, "0") for key in ("offset", "length")]
    if not all(text.isdecimal() and len(text) < 16 for text in digits):
        raise Failure(f"{path}: damaged: where in {location[:80]} the values of {proto.name} lie is no number")
    offset, length = (int(text) for text in digits)
    size = beside.stat().st_size
    length = length or size - offset
    if offset + length > size or length < 0:
        raise Failure(f"{path}: {location[:80]} is cut off: the values of {proto.name} lie beyond its end")
    with beside.open("rb") as file:
        file.seek(offset)
        values = file.read(length)
    whole = TensorProto()
    whole.CopyFrom(proto)
    whole.ClearField("external_data")
    whole.data_location = TensorProto.DEFAULT
    whole.raw_data = values
    return whole


LARGEST = 1 << 32
"""Values that anything in a network may have; a file can claim any size."""


class OpenSize(UserError):
    """A file does not say how large its image is. `sizes`: what it does say; 0 where it does not."""

    def __init__(self, message: str, sizes: Shape) -> None:
        super().__init__(message)
        self.sizes = sizes


def input_size_of(path: Path, entry: Any, image_size: Shape | None) -> Shape:
    """The size of one image: what the file says of it, or for what it leaves open (no number, 0, -1) `image_size`."""
    if not entry.type.HasField("tensor_type"):
        raise UserError(f"{path}: its input {entry.name} is no tensor; networks of one image are counted")
    has_shape = entry.type.tensor_type.HasField("shape")
    sizes = [max(0, dim.dim_value) for dim in entry.type.tensor_type.shape.dim]
    if not has_shape and image_size is not None:
        return image_size
    if has_shape and len(sizes) < 2:
        raise UserError(f"{path}: its input {entry.name} has no shape of batch and image")
    if has_shape and sizes[0] > 1:
        raise UserError(f"{path}: it takes {sizes[0]} images at once; export it with a batch of 1 or of any size")
    if not has_shape or (image_size is None and not all(sizes[1:])):
        raise OpenSize(
            f"{path}: the size of its input {entry.name} is left open; give the image's with --input-size 3,224,224 "
            "(in Python input_size=(3, 224, 224))",
            tuple(sizes[1:]),
        )
    if image_size is None:
        if math.prod(sizes[1:]) > LARGEST >> 4:
            raise UserError(
                f"{path}: its input {entry.name} has {math.prod(sizes[1:]):,} values, more than are counted"
            )
        return tuple(sizes[1:])
    if len(image_size) != len(sizes) - 1 or any(
        size and size != length for size, length in zip(sizes[1:], image_size, strict=True)
    ):
        fixed = "x".join(str(size or "?") for size in sizes[1:])
        raise UserError(
            f"{path}: its input {entry.name} is {fixed}, so it cannot take {'x'.join(map(str, image_size))}"
        )
    return image_size
