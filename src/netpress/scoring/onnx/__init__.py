"""Foreign ONNX files, counted by the official rules.

The graph is read into a torch module that executes the same operations, and the tracer reads that like any other:
one way of counting for all. What depends on constants alone is calculated while reading, once, as runtimes do.

Numbers are as wide as the file makes them: integer weights behind a DequantizeLinear count their type's bits, inputs of
convolutions and linear layers that come from a QuantizeLinear likewise, and scales are the floats that they are. What
is calculated between products is calculated in floats, since a DequantizeLinear gives floats.

A file is untrusted: nothing outside it is opened, and constants cannot become much larger than it is.
"""

from pathlib import Path

from netpress.errors import UserError
from netpress.scoring.card import ScoreCard
from netpress.scoring.onnx.graph import OnnxGraph
from netpress.scoring.operations import Shape
from netpress.scoring.settings import ScoreSettings

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

    if settings.convention != "official":
        raise UserError(
            f"{path}: ONNX files are counted by the official convention; {settings.convention} counts torch modules"
        )
    graph = OnnxGraph(path, input_size)
    return score_trace(graph.trace(), settings, graph.formats, accuracy=accuracy, dataset=dataset)
