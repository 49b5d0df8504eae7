"""Networks as ONNX files, checked by running them (extra `onnx`).

    export_onnx(network, "network.onnx")
    check_onnx(network, "network.onnx").agreement   # share of images with the same answer

A quantized layer becomes QDQ: its input passes QuantizeLinear and DequantizeLinear with the layer's own scale and zero
point, and its weights are 8-bit integers in front of a DequantizeLinear. Runtimes compute with no narrower integers, so
a format of fewer bits takes 8, clipped to its own range. Both are unsigned, signed ones moved up by 128: on processors
without VNNI, ONNX Runtime adds pairs of products of an unsigned and a signed number in 16 bits, which overflow. All
else is float32, even where the network itself computes in float16.
"""

import copy
import logging
import statistics
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from netpress.data import Images, normalize
from netpress.errors import Failure, UserError
from netpress.evaluation import best_class, predict
from netpress.export.comparing import (
    AGREEMENT,
    AGREEMENT_QUANTIZED,
    FAR,
    FAR_QUANTIZED,
    random_images,
    relative_error,
)
from netpress.export.graph import OUTER, Takes, describe, finish, takes_of
from netpress.export.integer_graph import integer_graph
from netpress.export.nodes import require_onnx_name, write_model
from netpress.files import atomic_path
from netpress.models.factorized import Factorized
from netpress.network import Network, save
from netpress.network.edits import replace_module
from netpress.network.selection import layers_with_weights
from netpress.numerics.formats import Fixed, Integer, integer_range
from netpress.numerics.layers import QuantizedLayer, quantized_layers
from netpress.program import execute, lower

OPSET = 20
TIMED = 5  # runs of one batch, of which the median is reported
OFFSET = 128  # between signed and unsigned 8-bit integers


@dataclass(frozen=True)
class OnnxCheck:
    """An ONNX file beside the network it came from, on the same images."""

    count: int
    labelled: bool
    """Whether these are images whose classes are known; random ones have no accuracy."""
    accuracy: float | None
    onnx_accuracy: float | None
    agreement: float
    """Share of images for which both answer the same class."""
    error: float
    """Root mean square of the logits' difference, as a share of that of the logits."""
    largest_difference: float
    """Largest difference of a logit."""
    onnx_bytes: int
    seconds: float
    """Median seconds of a batch in netpress."""
    onnx_seconds: float
    """Median seconds of a batch in ONNX Runtime."""
    single: float
    """Median seconds of an image alone in netpress."""
    onnx_single: float
    """Median seconds of an image alone in ONNX Runtime."""
    batch_size: int


def export_exactly(network: Network, path: Path | str) -> None:
    """Write a network of integer arithmetic to `path` as ONNX that gives its logits bit for bit, of uint8 pixels.

    The nodes are those of `netpress.export.integer_graph`, which says what raises UserError.
    """
    path = Path(path)
    require_onnx_name(path)
    writer = integer_graph(network, *OUTER)
    from onnx import TensorProto  # which the writer has found

    ends = (OUTER[0], TensorProto.UINT8), (OUTER[1], TensorProto.FLOAT)
    write_model(writer.model(*ends, "batch", describe(network, "pixels")), path)


def export_onnx(network: Network, path: Path | str, takes: Takes = "pixels") -> None:
    """Write `network` to `path` as ONNX: float, or QDQ where its formats have up to 8 bits; any batch size.

    It takes pixels, uint8 of 0 to 255, and normalizes them itself; or, where it `takes` "normalized" images, float32.
    The file says of itself what `describe` gives, and nothing of the machine that made it. Raises UserError where the
    extra is missing, a format has more than 8 bits, or the file would not be called .onnx; Failure where torch cannot
    export the network.
    """
    path = Path(path)
    require_onnx_name(path)
    _write(_exportable(network), network, path, takes)


def check_onnx(
    network: Network,
    path: Path | str,
    images: Images | None = None,
    *,
    agreement: float | None = None,
    far: float | None = None,
    batch_size: int = 128,
    exact: bool = False,
) -> OnnxCheck:
    """Run the file at `path` and the network on `images` and compare; without any, on random ones.

    Raises Failure, naming the first layer whose output is off by more than `far` (see `first_divergence`), where
    fewer than `agreement` of the answers are the same. Answers to random images are often a matter of chance; there
    it is the logits that may be off by no more than `far`. Where `exact`, as of `export_exactly`, the logits must be
    those of the network's exact integers in every bit.
    """
    path = Path(path)
    quantized = bool(quantized_layers(network.module))
    if far is None:
        far = FAR_QUANTIZED if quantized else FAR
    if agreement is None:
        agreement = AGREEMENT_QUANTIZED if quantized else AGREEMENT
    session = open_session(path)
    seen = images if images is not None else random_images(network)
    batches = _batches(network, seen, batch_size)
    ours = _exact_logits(network, batches) if exact else predict(network, seen, batch_size)
    fed = list(seen.images.cpu().split(batch_size)) if takes_of(path) == "pixels" else batches
    theirs = torch.cat([session(batch) for batch in fed])
    answers, others = best_class(ours), best_class(theirs)
    same = float((answers == others).double().mean())
    error = relative_error(ours, theirs)
    if exact and not torch.equal(ours, theirs):
        other = int((ours != theirs).any(1).sum())
        raise Failure(f"{path}: ONNX Runtime gives other integers for {other:,} of {len(seen):,} images")
    if (same < agreement) if images is not None else (error > far):
        where = first_divergence(network, batches[0], far)
        symptom = f"agrees on {same:.2%} of {len(seen):,} answers, below {agreement:.2%}"
        if images is None:
            symptom = f"gives logits that are {error:.2%} off on random images, above {far:.2%}"
        place = f"the first layer beyond {far:g} is {where}" if where else f"no single layer is off by {far:g}"
        raise Failure(f"{path}: ONNX Runtime {symptom}; {place}")
    first, module = batches[0], network.module.eval()
    here, there = _seconds(module, first), _seconds(session, fed[0])
    return OnnxCheck(
        count=len(seen),
        labelled=images is not None,
        accuracy=float((answers == seen.labels).double().mean()) if images is not None else None,
        onnx_accuracy=float((others == seen.labels).double().mean()) if images is not None else None,
        agreement=same,
        error=error,
        largest_difference=float((ours - theirs).abs().max()),
        onnx_bytes=path.stat().st_size,
        seconds=here[0],
        onnx_seconds=there[0],
        single=here[1],
        onnx_single=there[1],
        batch_size=len(first),
    )


def _exact_logits(network: Network, batches: list[Tensor]) -> Tensor:
    program = lower(network)
    with torch.inference_mode():
        return torch.cat([execute(program, batch) for batch in batches])


def _seconds(run: Callable[[Tensor], Tensor], batch: Tensor) -> tuple[float, float]:
    """Median seconds of the batch, and of its first image alone."""
    with torch.inference_mode():
        return _median_seconds(lambda: run(batch)), _median_seconds(lambda: run(batch[:1]))


def stored_bytes(network: Network) -> int:
    """Size of the network's own file in bytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.netpress"
        save(network, path)
        return path.stat().st_size


def first_divergence(network: Network, images: Tensor, far: float = FAR) -> str | None:
    """The first layer whose outputs in ONNX Runtime differ from the network's own by more than `far`, or None.

    far: root mean square of the difference, as a share of that of the output. images: normalised, [batch, ...].
    """
    names = [name for name, _ in layers_with_weights(network.module)]
    exported = _Watched(_exportable(network), names)
    own = _Watched(copy.deepcopy(network.module).cpu().eval(), names)
    with TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "watched.onnx"
        _write(exported, network, path)
        theirs = _session_of_all(path)(images)[1:]
        ours = own(images)[1:]
    for name, one, other in zip(own.ran, ours, theirs, strict=True):
        if relative_error(one, other) > far:
            return name
    return None


class _QdqLayer(nn.Module):
    """A quantized layer in the terms of ONNX."""

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.layer = layer
        number_format = layer.formats.input
        if isinstance(number_format, Fixed | Integer):
            low, high = integer_range(number_format)
            moved = 0 if low == 0 else OFFSET
            assert layer.input_scale is not None
            zero = layer.input_zero_point if layer.input_zero_point is not None else torch.zeros(())
            self.ends = tuple(float((end - zero) * layer.input_scale.detach()) for end in (low, high))
            self.register_buffer("scale", layer.input_scale.detach().clone())
            self.register_buffer("zero_point", (zero + moved).to(torch.uint8))
            # QuantizeLinear clips to its 8 bits by itself.
            self.clips = high - low < 255
        self.rounds = isinstance(number_format, Fixed | Integer)
        if layer.weight_scale is not None:
            self.register_buffer("weight", (layer.integers() + OFFSET).to(torch.uint8))
            self.register_buffer("weight_scale", layer.weight_scale.detach().clone())
            self.register_buffer("weight_zero", torch.full_like(layer.weight_scale, OFFSET).to(torch.uint8))
        else:
            self.register_buffer("weight", layer.weight.detach().clone())
            self.weight_scale = None

    def forward(self, x: Tensor) -> Tensor:
        if self.rounds:
            operands = (self.get_buffer("scale"), self.get_buffer("zero_point"))
            clipped = x.clamp(*self.ends) if self.clips else x
            whole = _node("QuantizeLinear", (clipped, *operands), torch.uint8, x.shape)
            x = _node("DequantizeLinear", (whole, *operands), torch.float32, x.shape)
        weight = self.get_buffer("weight")
        if self.weight_scale is not None:
            scales = (self.weight_scale, self.get_buffer("weight_zero"))
            weight = _node("DequantizeLinear", (weight, *scales), torch.float32, weight.shape, axis=0)
        return self.layer.sum(x, weight, self.layer.bias)


def _node(kind: str, operands: tuple[Tensor, ...], dtype: torch.dtype, shape: Any, **attributes: int) -> Tensor:
    symbolic = torch.onnx.ops.symbolic
    output: Tensor = symbolic(kind, operands, dict(attributes), dtype=dtype, shape=shape)
    return output


class _Watched(nn.Module):
    """A module that returns the outputs of the named layers too, in the order in which they run."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module = module
        self.outputs: list[Tensor] = []
        self.ran: list[str] = []
        for name in names:
            module.get_submodule(name).register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            self.ran.append(name)
            self.outputs.append(output.float())

        return hook

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.outputs, self.ran = [], []
        answer = self.module(x)
        return answer, *self.outputs


def _exportable(network: Network) -> nn.Module:
    """A float32 copy of the module with its quantized layers in the terms of ONNX."""
    module = copy.deepcopy(network.module).cpu().eval()
    for name, layer in quantized_layers(module).items():
        for what, number_format in (("weights", layer.formats.weight), ("inputs", layer.formats.input)):
            if isinstance(number_format, Fixed | Integer) and number_format.bits > 8:
                raise UserError(
                    f"{name}: {what} of {number_format.bits} bits; ONNX export takes formats of up to 8 bits"
                )
        replace_module(module, name, _QdqLayer(layer))
    for name, part in list(module.named_modules()):
        if isinstance(part, Factorized):  # it describes itself by its layers' sizes, which the exporter asks for
            replace_module(module, name, nn.Sequential(OrderedDict(part.named_children())))
    return module


def _write(module: nn.Module, network: Network, path: Path, takes: Takes = "normalized") -> None:
    _require()
    example = torch.zeros(2, *network.input.size)
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)  # they tell of torchvision's absence
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), atomic_path(path) as temporary:
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example,),
                str(temporary),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=[OUTER[0]],
                output_names=None if isinstance(module, _Watched) else [OUTER[1]],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
            finish(temporary, network, takes)
    except (UserError, Failure):
        raise
    except Exception as error:  # the exporter wraps whatever it met
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().split("\n")[0]
        raise Failure(f"{path}: torch cannot export this network to ONNX: {reason}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f'ONNX needs the extra: pip install "netpress[onnx]" ({error})') from None


def _session_of_all(path: Path) -> Callable[[Tensor], list[Tensor]]:
    _require()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: [
        torch.from_numpy(output) for output in session.run(None, {name: images.contiguous().numpy()})
    ]


def open_session(path: Path) -> Callable[[Tensor], Tensor]:
    """A file that answers with logits, in ONNX Runtime with as many threads as torch has now."""
    run = _session_of_all(path)
    return lambda images: run(images)[0]


def _batches(network: Network, images: Images, size: int) -> list[Tensor]:
    return [normalize(batch, network.input.mean, network.input.std) for batch in images.images.cpu().split(size)]


def _median_seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(TIMED + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
