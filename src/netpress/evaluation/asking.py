"""Which classes a network sees in new pictures.

for answer in ask(network, list_pictures(["a.jpg"], console), pixel_rules(network), console):
    print(answer.image, answer.best.label, answer.best.probability)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from netpress.data import Images
from netpress.data.pictures import Picture, read_blocks
from netpress.data.pixels import PixelRules
from netpress.errors import Failure, UserError
from netpress.evaluation.accuracy import NO_ANSWER, collect_answers, place
from netpress.evaluation.exact import exact_answers, integer_layers
from netpress.evaluation.ranking import check_scale, probabilities_of, rank_classes
from netpress.network import Network
from netpress.numerics.claims import LayerSums, check_claims
from netpress.process.console import Console


@dataclass(frozen=True)
class Guess:
    """A class that a picture may be of."""

    label: str
    probability: float
    """Softmax of the network's logits, 0 to 1 over all of its classes."""


@dataclass(frozen=True)
class Answer:
    """What a network says of one picture."""

    image: str | int
    """The path of a file; of other pictures their number among all, from 0."""
    guesses: tuple[Guess, ...]
    """The likeliest classes, the first first; none of a picture that cannot be read."""
    problem: str | None = None
    """Why the picture cannot be read."""

    @property
    def best(self) -> Guess:
        """The likeliest class. Raises Failure for a picture that cannot be read."""
        if self.problem is not None:
            raise Failure(f"{self.image}: cannot be read ({self.problem})")
        return self.guesses[0]

    def as_json(self) -> dict[str, Any]:
        """A dict of plain values: `classes`, or the `problem`."""
        if self.problem is not None:
            return {"image": self.image, "problem": self.problem}
        classes = [{"class": guess.label, "probability": guess.probability} for guess in self.guesses]
        return {"image": self.image, "classes": classes}


def ask(
    network: Network,
    pictures: Sequence[Picture],
    rules: PixelRules,
    console: Console,
    *,
    top: int = 1,
    exact: bool = False,
    scale: float = 1.0,
    device: torch.device | str | None = None,
) -> Iterator[Answer]:
    """An answer to each picture, in their order, with the `top` likeliest classes, or all where there are fewer.

    A picture that cannot be read has an answer too, which says why. `exact` computes in integers, as
    `evaluate_exactly` does, and raises UserError where the network has no integer layers. `scale` multiplies the
    logits before the softmax. Raises UserError for a `top` or `scale` of 0 or less, Failure for weights and answers
    that are no numbers, and after the last answer of `exact` where some input could overflow an accumulator.
    """
    check_scale(scale)
    if top < 1:
        raise UserError(f"--top {top}: must be at least 1")
    place(network, device)
    sums = integer_layers(network) if exact else {}
    answering: AbstractContextManager[Callable[[Tensor], Tensor]]
    answering = exact_answers(network, sums) if exact else nullcontext(network.module)
    return _answer_blocks(network, pictures, rules, console, top, scale, answering, sums)


def _answer_blocks(
    network: Network,
    pictures: Sequence[Picture],
    rules: PixelRules,
    console: Console,
    top: int,
    scale: float,
    answering: AbstractContextManager[Callable[[Tensor], Tensor]],
    sums: Mapping[str, LayerSums],
) -> Iterator[Answer]:
    done = 0
    with answering as answer, console.progress("predict", len(pictures)) as bar:
        for block in read_blocks(pictures, rules, console):
            images = Images(block.pixels, torch.zeros(len(block.pixels), dtype=torch.int64))
            logits = collect_answers(answer, network, images) if len(images) else torch.empty(0, len(network.classes))
            guesses = iter(_guesses(logits, network.classes, top, scale))
            for picture, problem in zip(block.pictures, block.problems, strict=True):
                yield Answer(picture.name, () if problem is not None else next(guesses), problem)
            done += len(block.pictures)
            bar.update(done)
    check_claims(sums)


def _guesses(logits: Tensor, classes: Sequence[str], top: int, scale: float) -> list[tuple[Guess, ...]]:
    """The `top` likeliest classes of each row of the logits, [images, classes]."""
    ranks = rank_classes(logits, top)  # [images, top]
    shares = probabilities_of(logits, scale).gather(1, ranks)
    if bool(shares.isnan().any()):
        raise Failure(NO_ANSWER)
    return [
        tuple(Guess(classes[index], share) for index, share in zip(*row, strict=True))
        for row in zip(ranks.tolist(), shares.tolist(), strict=True)
    ]
