"""Foreign ONNX files, counted by the official rules.

The graph is read into a torch module that executes the same operations, and the tracer reads that like any other:
one way of counting for all. What depends on constants alone is calculated while reading, once, as runtimes do.

Numbers are as wide as the file makes them: integer weights behind a DequantizeLinear count their type's bits, inputs of
convolutions and linear layers that come from a QuantizeLinear likewise, and scales are the floats that they are. What
is calculated between products is calculated in floats, since a DequantizeLinear gives floats.

A file is untrusted: nothing is opened but itself and data in its own folder, and what it calculates has bounds.
"""

from dataclasses import replace
from pathlib import Path

from netpress.errors import Failure, UserError
from netpress.files import refuse_other_tools
from netpress.scoring.card import ScoreCard
from netpress.scoring.conventions import ScoreSettings
from netpress.scoring.memory import measure_footprint
from netpress.tracing.onnx.file import OpenSize
from netpress.tracing.onnx.graph import OnnxGraph
from netpress.tracing.operations import Shape

CIFAR, IMAGENET = 32, 224
"""Pixels along a side of the images of the tracks."""
LONGEST_MESSAGE = 390  # letters

__all__ = ["OnnxGraph", "score_onnx"]


def score_onnx(
    path: Path | str,
    settings: ScoreSettings,
    *,
    input_size: Shape | None = None,
    accuracy: float | None = None,
    dataset: str | None = None,
) -> ScoreCard:
    """What an ONNX file costs by the official rules.

    Raises UserError for what cannot be counted, Failure for a damaged file.
    """
    from netpress.scoring import score_trace

    path = Path(path)
    if path.suffix.lower() != ".onnx":
        refuse_other_tools(path)
    if settings.convention != "official":
        raise UserError(
            f"{path}: ONNX files are counted by the official convention; {settings.convention} counts torch modules"
        )
    try:
        graph, assumed = _read(path, input_size, IMAGENET if "imagenet" in (settings.track, dataset) else CIFAR)
        traced = graph.trace()
        card = score_trace(traced, settings, graph.formats, accuracy=accuracy, dataset=dataset)
        card = replace(card, footprint=measure_footprint(traced, formats=graph.formats))
    except (UserError, Failure) as error:
        text = _one_line(str(error) if str(error).startswith(str(path)) else f"{path}: {error}")
        raise (Failure if isinstance(error, Failure) else UserError)(text) from error
    except Exception as error:  # whatever a file that lies can lead to
        reason = " ".join(str(error).split())[:200]
        raise Failure(f"{path}: damaged, or not to be counted: {reason or type(error).__name__}") from error
    return replace(card, assumed=(*card.assumed, *graph.not_counted, *assumed))


def _one_line(text: str) -> str:
    """A message without what names in a file may hold: line breaks and letters without end."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 160]} ... {text[-150:]}"


def _read(path: Path, wanted: Shape | None, side: int) -> tuple[OnnxGraph, tuple[str, ...]]:
    """The graph; for a map whose size the file leaves open that of the track's images, and words that say so."""
    try:
        return OnnxGraph(path, wanted), ()
    except OpenSize as error:
        if len(error.sizes) != 3:
            raise
        channels, height, width = error.sizes
        size, refused = (channels or 3, height or side, width or side), error
    shown = "x".join(map(str, size))
    try:
        graph = OnnxGraph(path, size)
    except (UserError, Failure) as error:
        raise UserError(f"{refused}; {shown} was tried: {error}") from error
    return graph, (f"an image of {shown}: the file leaves its size open, and --input-size says another",)
