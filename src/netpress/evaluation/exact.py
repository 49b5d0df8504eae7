"""How good a quantized network is in exact integers, and whether its simulation in floats says the same."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from netpress.data import Images
from netpress.errors import UserError
from netpress.evaluation.accuracy import Evaluation, check_answers, collect_answers, evaluation_mode, place, predict
from netpress.evaluation.ranking import best_class, probabilities_of, rank_classes
from netpress.network import Network
from netpress.numerics.claims import LayerSums, layer_sums
from netpress.numerics.layers import quantized_layers
from netpress.program import exact_layers, execute, has_integer_arithmetic, lower

_APART = (
    "sums",
    "saturated",
    "count",
    "predicted",
    "labels",
    "probabilities",
    "names",
)  # what `as_json` leaves out, or gives in another form


@dataclass(frozen=True)
class ExactEvaluation(Evaluation):
    """An evaluation by the integer executor, beside the ordinary one on the same images."""

    simulated_accuracy: float
    """Share of images that the ordinary evaluation, which holds the integers in floats, gets right."""
    equal_answers: float
    """Share of images for which both give the same class."""
    largest_difference: float
    """Largest difference of a logit between both, as a share of the largest logit."""
    sums: Mapping[str, LayerSums]
    """The accumulators of every integer layer, by its name."""
    float_layers: tuple[str, ...]
    """Quantized layers whose weights or inputs are floats: they compute as always."""
    saturated: Mapping[str, int] | None = None
    """In integer arithmetic, for each operation how many values 16 bits did not hold; None where there are floats."""

    def as_json(self) -> dict[str, Any]:
        """A dict of plain values; `layers` has a row for each integer layer."""
        figures = {key: value for key, value in asdict(self).items() if key not in _APART}
        figures["images"] = self.count
        figures["layers"] = [
            {
                "name": record.name,
                "largest_sum": record.largest,
                "bits_met": record.met_width,
                "bits_needed": record.needed_width,
                "bits_claimed": record.claimed_width,
            }
            for record in self.sums.values()
        ]
        if self.saturated is not None:
            figures["saturated"] = dict(self.saturated)
        return figures


def evaluate_exactly(
    network: Network,
    images: Images,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    scale: float = 1.0,
) -> ExactEvaluation:
    """Run the images through the integer executor and, to compare, through the network's ordinary evaluation.

    `device` moves the network there first, `scale` is as for `evaluate`. Raises UserError for a network without
    integer layers, Failure for weights or answers that are not numbers.
    """
    place(network, device)
    module = network.module
    sums = integer_layers(network)
    floats = tuple(name for name, layer in quantized_layers(module).items() if not layer.formats.integer)
    saturated = Counter[str]()
    with exact_answers(network, sums, saturated) as answer:
        exact = collect_answers(answer, network, images, batch_size)  # [images, classes]
    simulated = predict(network, images, batch_size)
    answers, others = rank_classes(exact, 5), best_class(simulated)
    labels = images.labels.cpu()
    hits = answers == labels[:, None]  # [images, 5]
    measured = ExactEvaluation(
        accuracy=_share(hits[:, 0]),
        top5=_share(hits.any(1)) if exact.shape[1] > 5 else None,
        loss=float(F.cross_entropy(exact.double(), labels)),
        count=len(labels),
        predicted=answers[:, 0],
        labels=labels,
        probabilities=probabilities_of(exact, scale).gather(1, answers[:, :1])[:, 0],
        names=images.names,
        simulated_accuracy=_share(others == labels),
        equal_answers=_share(answers[:, 0] == others),
        largest_difference=float((exact - simulated).abs().max() / simulated.abs().max().clamp(min=1e-30)),
        sums=sums,
        float_layers=floats,
        saturated=saturated if has_integer_arithmetic(network) else None,
    )
    check_answers(measured)
    return measured


def integer_layers(network: Network) -> dict[str, LayerSums]:
    """The accumulators of every integer layer, by its name, before any image. Raises UserError where there is none."""
    sums = layer_sums(network.module)
    if not sums:
        raise UserError("no layer of this network computes with integers; `netpress apply quantize` makes such")
    return sums


@contextmanager
def exact_answers(
    network: Network, sums: Mapping[str, LayerSums], saturated: Counter[str] | None = None
) -> Iterator[Callable[[Tensor], Tensor]]:
    """What answers in exact integers: the network's program.

    None can be made of, say, a user's own class whose flow depends on values. There it is the module itself, each of
    whose layers computes as its part of a program would. With integers between the layers, too, only a program will do:
    raises UserError where there is none.
    """
    try:
        program = lower(network)
    except UserError:
        if has_integer_arithmetic(network):
            raise
        with evaluation_mode(network.module), exact_layers(network.module, sums):
            yield network.module
    else:
        yield partial(execute, program, sums=sums, saturated=saturated)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
