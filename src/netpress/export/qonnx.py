"""Networks as QONNX files, which compilers for FPGAs read (FINN, hls4ml), checked by QONNX's own executor.

    export_qonnx(network, "network.onnx")
    check_qonnx(network, "network.onnx").agreement    # where the package qonnx is installed

QONNX is ONNX with operators that round to any number of bits: weights, inputs and, in integer arithmetic, outputs have
the widths that they have in the network. `netpress.export.qonnx_graph` writes the nodes.
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netpress.data import Images, normalize
from netpress.errors import Failure, UserError
from netpress.evaluation import best_class, predict
from netpress.export.comparing import FAR_QUANTIZED, random_images, relative_error
from netpress.export.graph import OUTER, describe
from netpress.export.nodes import require_onnx_name, write_model
from netpress.export.qonnx_graph import qonnx_graph
from netpress.network import Network
from netpress.numerics.layers import quantized_layers
from netpress.program.execution import run
from netpress.program.lowering import lower_floats
from netpress.program.operations import BatchNorm, Rescale

INSTALL = 'pip install "qonnx>=1.0,<2"'
QUIET = ("qonnx", "clize", "sigtools")
"""Packages whose own warnings (of what Python will no longer have) say nothing to our users."""


@dataclass(frozen=True)
class QonnxCheck:
    """A QONNX file, executed by the package qonnx, beside the network it came from, on the same images."""

    count: int
    labelled: bool
    """Whether these are images whose classes are known; random ones have no accuracy."""
    accuracy: float | None
    qonnx_accuracy: float | None
    agreement: float
    """Share of images for which both answer the same class."""
    error: float
    """Root mean square of the logits' difference, as a share of that of the logits."""
    largest_difference: float
    """Largest difference of a logit."""


def export_qonnx(network: Network, path: Path | str) -> None:
    """Write `network` to `path` as QONNX. It takes one normalized image, float32 [1, channels, height, width].

    Raises UserError where the extra `onnx` is missing, the file would not be called .onnx, nothing is quantized, or an
    operation has no node, which it names.
    """
    path = Path(path)
    require_onnx_name(path)
    if not any(name for name, layer in quantized_layers(network.module).items() if _has_integers(layer)):
        raise UserError(
            "no layer of this network is quantized, and QONNX is for those that are: netpress apply quantize NETWORK "
            "quantizes it, netpress export onnx writes floats"
        )
    writer = qonnx_graph(network, *OUTER)
    from onnx import TensorProto  # which the writer has found

    facts = describe(network, "normalized", "1")
    kind = TensorProto.FLOAT
    write_model(writer.model((OUTER[0], kind), (OUTER[1], kind), 1, facts), path)


def _has_integers(layer: Any) -> bool:
    return layer.weight_scale is not None or layer.input_scale is not None


def zero_points(network: Network) -> int:
    """How many layers' inputs have a zero point that is not 0, which FINN and hls4ml do not read."""
    points = [layer.input_zero_point for layer in quantized_layers(network.module).values()]
    return sum(point is not None and bool(point != 0) for point in points)


def some_images(images: Images, count: int) -> Images:
    """At most `count` images, at equal distances: those of a folder stand class by class."""
    return images.take(torch.linspace(0, len(images) - 1, min(count, len(images))).round().long())


def has_executor() -> bool:
    """Whether the package qonnx is installed, so that a file can be checked."""
    return importlib.util.find_spec("qonnx") is not None


def check_qonnx(
    network: Network,
    path: Path | str,
    images: Images | None = None,
    *,
    far: float = FAR_QUANTIZED,
    batch_size: int = 64,
) -> QonnxCheck:
    """Execute the file at `path` by qonnx, and the network, on `images` and compare; without any, on random ones.

    Raises Failure where the logits are off by more than `far` (root mean square of the difference, as a share of that
    of the logits), naming the first layer whose output is; UserError where qonnx is not installed.
    """
    path = Path(path)
    seen = images if images is not None else random_images(network)
    ours = predict(network, seen, batch_size)
    execute = _executor(path)
    batches = [normalize(part, network.input.mean, network.input.std) for part in seen.images.cpu().split(batch_size)]
    theirs = torch.cat([execute(batch)[OUTER[1]] for batch in batches])
    answers, others = best_class(ours), best_class(theirs)
    same, error = float((answers == others).double().mean()), relative_error(ours, theirs)
    if error > far:
        where = first_divergence(network, batches[0], execute(batches[0]), far)
        place = f"the first layer beyond {far:g} is {where}" if where else f"no single layer is off by {far:g}"
        raise Failure(f"{path}: executed by qonnx, it gives logits that are {error:.2%} off, above {far:.2%}; {place}")
    known = images is not None
    return QonnxCheck(
        count=len(seen),
        labelled=known,
        accuracy=float((answers == seen.labels).double().mean()) if known else None,
        qonnx_accuracy=float((others == seen.labels).double().mean()) if known else None,
        agreement=same,
        error=error,
        largest_difference=float((ours - theirs).abs().max()),
    )


@torch.no_grad()
def first_divergence(network: Network, images: Tensor, found: dict[str, Tensor], far: float) -> str | None:
    """The first layer or norm whose output among `found` is off by more than `far`, or None."""
    program = lower_floats(network)
    values = {program.input: images}
    for operation in program.operations:
        values[operation.output] = run(operation, [values[name] for name in operation.inputs])
        other = found.get(operation.output.replace(" ", "_"))
        if other is None or not isinstance(operation, Rescale | BatchNorm):
            continue
        if relative_error(values[operation.output], other) > far:
            return operation.name
    return None


def _executor(path: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """What calculates every value in the file for a batch of images."""
    if not has_executor():
        raise UserError(f"checking QONNX needs its executor: {INSTALL}")
    import onnx

    with _quiet():
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.infer_shapes import InferShapes

    model = onnx.load(str(path))

    def run_batch(images: Tensor) -> dict[str, Tensor]:
        for entry in (*model.graph.input, *model.graph.output):
            entry.type.tensor_type.shape.dim[0].dim_value = len(images)
        with _quiet():
            wrapped = ModelWrapper(model, make_deepcopy=True).transform(InferShapes())
            found = execute_onnx(wrapped, {OUTER[0]: images.contiguous().numpy()}, return_full_exec_context=True)
        return {
            name: torch.from_numpy(x.copy()) for name, x in found.items() if x is not None and x.dtype == np.float32
        }

    return run_batch


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for package in QUIET:
            warnings.filterwarnings("ignore", module=package)
        yield
