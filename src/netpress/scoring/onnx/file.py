"""What an ONNX file holds, read without trusting it: nothing outside it is opened."""

from pathlib import Path
from typing import Any

import numpy as np

from netpress.errors import Failure, UserError
from netpress.files import require_file
from netpress.scoring.operations import Shape

LARGEST_FILE = 2**31 - 1  # bytes: what protobuf itself can hold


def load_model(path: Path) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import inliner
    except ImportError as error:
        raise UserError(f'reading ONNX needs the extra: pip install "netpress[onnx]" ({error})') from None
    require_file(path, limit=LARGEST_FILE)
    try:
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
        if model.functions:
            model = inliner.inline_local_functions(model)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise Failure(f"{path}: not an ONNX file, or a damaged one ({error})") from error
    if not model.graph.node:
        raise Failure(f"{path}: not an ONNX file, or an empty one")
    if model.graph.sparse_initializer:
        raise UserError(f"{path}: sparse initializers are not read; store the tensors whole")
    return model


def read_array(path: Path, proto: Any) -> np.ndarray[Any, Any]:
    """The values of a tensor that lies in the file itself."""
    from onnx import TensorProto, numpy_helper

    if proto.data_location == TensorProto.EXTERNAL:
        raise UserError(f"{path}: {proto.name} lies in another file, which is not opened; save it with the data inside")
    try:
        return numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise Failure(f"{path}: damaged: the values of {proto.name or 'a constant'} do not fill its shape") from error


class OpenSize(UserError):
    """A file does not say how large its image is. `sizes`: what it does say; 0 where it does not."""

    def __init__(self, message: str, sizes: Shape) -> None:
        super().__init__(message)
        self.sizes = sizes


def input_size_of(path: Path, entry: Any, wanted: Shape | None) -> Shape:
    """The size of one image: what the file says of it, or for what it leaves open (no number, 0, -1) what is wanted."""
    if not entry.type.HasField("tensor_type"):
        raise UserError(f"{path}: its input {entry.name} is no tensor; networks of one image are counted")
    stated = entry.type.tensor_type.HasField("shape")
    sizes = [max(0, dim.dim_value) for dim in entry.type.tensor_type.shape.dim]
    if not stated and wanted is not None:
        return wanted
    if stated and len(sizes) < 2:
        raise UserError(f"{path}: its input {entry.name} has no shape of batch and image")
    if stated and sizes[0] > 1:
        raise UserError(f"{path}: it takes {sizes[0]} images at once; export it with a batch of 1 or of any size")
    if not stated or (wanted is None and not all(sizes[1:])):
        raise OpenSize(
            f"{path}: the size of its input {entry.name} is left open; give the image's with --input-size 3,224,224 "
            "(in Python input_size=(3, 224, 224))",
            tuple(sizes[1:]),
        )
    if wanted is None:
        return tuple(sizes[1:])
    if len(wanted) != len(sizes) - 1 or any(
        size and size != length for size, length in zip(sizes[1:], wanted, strict=True)
    ):
        fixed = "x".join(str(size or "?") for size in sizes[1:])
        raise UserError(f"{path}: its input {entry.name} is {fixed}, so it cannot take {'x'.join(map(str, wanted))}")
    return wanted
