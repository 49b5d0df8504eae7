"""Which classes a network sees in new pictures.

for answer in ask(network, list_pictures(["a.jpg"], console), pixel_rules(network), console):
    print(answer.image, answer.best.label, answer.best.probability)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from netpress.data import Images
from netpress.data.pictures import Block, Picture, read_blocks
from netpress.data.pixels import PictureFacts, PixelRules
from netpress.errors import Failure, UserError
from netpress.evaluation.accuracy import NO_ANSWER, collect_answers, place
from netpress.evaluation.exact import exact_answers, integer_layers
from netpress.evaluation.ranking import check_scale, probabilities_of, rank_classes
from netpress.network import Network
from netpress.numerics.claims import LayerSums, check_claims
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.program import has_integer_arithmetic


@dataclass(frozen=True)
class Executor:
    """What answers in torch's place, bit for bit as its exact integers."""

    name: str
    """Of what computes, for people."""
    answer: Callable[[Tensor], Tensor]
    """uint8 [batch, channels, height, width] -> logits, float32 [batch, classes]."""


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
    computed_by: str | None = None
    """What computed it: "C, avx2", or torch and how; None of a picture that cannot be read."""
    resized: bool = False
    """Whether the picture had another size or mode than the network takes, and was made one as in training."""

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
        told = {"image": self.image, "classes": classes, "resized": self.resized}
        return told if self.computed_by is None else {**told, "computed_by": self.computed_by}


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
    executor: Executor | None = None,
) -> Iterator[Answer]:
    """An answer to each picture, in their order, with the `top` likeliest classes, or all where there are fewer.

    A picture that cannot be read has an answer too, which says why. `exact` computes in integers, as
    `evaluate_exactly` does, and raises UserError where the network has no integer layers; a network of integer
    arithmetic is always asked so, by the `executor` where there is one, so that its answers do not depend on what
    computes. `scale` multiplies the logits before the softmax. Raises UserError for a `top` or `scale` of 0 or less,
    Failure for weights and answers that are no numbers, and after the last answer of `exact` where some input could
    overflow an accumulator.
    """
    check_scale(scale)
    if top < 1:
        raise UserError(f"--top {top}: must be at least 1")
    place(network, device)
    claims = integer_layers(network) if exact else {}
    asked = _asked(_by_torch(network, exact) if executor is None else nullcontext(executor), network, top, scale)
    return _answer_blocks(pictures, rules, console, asked, claims)


@contextmanager
def _by_torch(network: Network, exact: bool) -> Iterator[Executor]:
    """The network's module, or its exact integers where these are asked for or all that there is."""
    whole = has_integer_arithmetic(network)
    answering: AbstractContextManager[Callable[[Tensor], Tensor]] = nullcontext(network.module)
    name = "torch, simulated integers" if quantized_layers(network.module) else "torch, floats"
    if exact or whole:
        answering, name = exact_answers(network, integer_layers(network)), "torch, exact integers"
    with answering as answer:

        def logits(pixels: Tensor) -> Tensor:
            return collect_answers(answer, network, Images(pixels, torch.zeros(len(pixels), dtype=torch.int64)))

        yield Executor(name, logits)


@contextmanager
def _asked(
    answering: AbstractContextManager[Executor], network: Network, top: int, scale: float
) -> Iterator[Callable[[Block], list[Answer]]]:
    """What answers a block of pictures."""
    channels, height, width = network.input.size
    taken = PictureFacts((width, height), {1: "L", 3: "RGB"}.get(channels, ""), several=False)

    with answering as executor:

        def answers(block: Block) -> list[Answer]:
            logits = executor.answer(block.pixels) if len(block.pixels) else torch.empty(0, len(network.classes))
            guesses = iter(_guesses(logits, network.classes, top, scale))
            return [
                Answer(picture.name, (), problem)
                if facts is None
                else Answer(picture.name, next(guesses), None, executor.name, replace(facts, several=False) != taken)
                for picture, problem, facts in zip(block.pictures, block.problems, block.facts, strict=True)
            ]

        yield answers


def _answer_blocks(
    pictures: Sequence[Picture],
    rules: PixelRules,
    console: Console,
    asked: AbstractContextManager[Callable[[Block], list[Answer]]],
    claims: Mapping[str, LayerSums],
) -> Iterator[Answer]:
    done = 0
    with asked as answers, console.progress("predict", len(pictures)) as bar:
        for block in read_blocks(pictures, rules, console):
            yield from answers(block)
            done += len(block.pictures)
            bar.update(done)
    check_claims(claims)


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
