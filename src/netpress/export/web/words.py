"""What a page says of its network, in words and figures. Each figure was measured or counted."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from netpress.data import Dataset
from netpress.data.pixels import PixelRules
from netpress.evaluation import best_class
from netpress.export.web.examples import Examples, answer
from netpress.network import Network
from netpress.network.data import dataset_of
from netpress.numerics.layers import quantized_layers
from netpress.program import Program


@dataclass(frozen=True)
class Figure:
    """A figure with its name and a line about it; where a page measures it itself, `id` says where it goes."""

    name: str
    value: str
    note: str
    id: str = ""


@dataclass(frozen=True)
class Accuracy:
    """How many of which images are answered right."""

    share: float
    images: int | None
    dataset: str | None


def count_right(network: Network, program: Program, dataset: Dataset | None) -> Accuracy | None:
    """What the network's file says of its accuracy; else what it reaches on the data set's test images."""
    share, images = network.facts.get("accuracy"), network.facts.get("images")
    if share is not None:
        return Accuracy(float(share), int(images) if images else None, dataset_of(network))
    if dataset is None or not len(dataset.test):
        return None
    found = best_class(answer(network, program, dataset.test.images))
    return Accuracy(float((found == dataset.test.labels).double().mean()), len(dataset.test), dataset.name)


def list_figures(network: Network, flash: int, memory: int, accuracy: Accuracy | None) -> list[Figure]:
    """The figures below the answer."""
    figures = []
    if accuracy is not None:
        which = f"{accuracy.images:,} test images" if accuracy.images else "test images"
        which += f" of {_title(accuracy.dataset)}" if accuracy.dataset else ""
        figures.append(Figure("Accuracy", f"{accuracy.share:.1%}", f"of {which} are named right"))
    return [
        *figures,
        Figure("Network", _kilobytes(flash), "weights, masks, factors and biases"),
        Figure("Memory", _kilobytes(memory), "while it runs, the network included"),
        Figure("Latency", "\u2013", "measured with the first image", "latency"),
    ]


def describe(network: Network, rules: PixelRules) -> dict[str, Any]:
    """The sentence below the title, and the paragraphs about the network and the page."""
    count = len(network.classes)
    data = dataset_of(network)
    learned = f", trained on {_title(data)}" if data else ""
    weights = network.weights().values()
    total, left = sum(weight.numel() for weight in weights), sum(int(weight.count_nonzero()) for weight in weights)
    zero = f", {1 - left / total:.0%} of which are zero" if left < 0.95 * total else ""
    how = {
        "squash": "stretched to",
        "crop": "cut to the square in its middle, and shrunk to",
        "pad": "put between bars, and shrunk to",
    }[rules.resize]
    grey = " in grey" if rules.channels == 1 else ""
    return {
        "lead": f"Tells {count:,} classes apart, in your browser. Your images stay on this device.",
        "about": [
            f"A network of the family {network.architecture.family}{learned}. It has {_count(total)} weights of "
            f"{_bits(network)}{zero}, and calculates in integers throughout.",
            Markup(
                f"An image is {how} {rules.size} \u00d7 {rules.size} pixels{grey}, by the very filter of the training. "
                "The network runs as C, compiled to WebAssembly; its logits are those of "
                "<code>netpress evaluate --exact</code>, bit for bit. The percentages are their softmax."
            ),
            "All of this is one file without a single request: what you show it goes nowhere.",
        ],
    }


def describe_examples(examples: Examples) -> str:
    """Which images these are."""
    text = "Test images, which it was not trained on: of each class the first that the network answers right."
    if examples.missed:
        text += (
            f" Of {examples.missed:,} {'class' if examples.missed == 1 else 'classes'} it got none of the first right."
        )
    return text + (" They are stored with some loss, to keep the page small." if examples.lossy else "") + " Click one."


def _title(dataset: str | None) -> str:
    known = {
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "folder": "a folder of images",
        "digits": "handwritten digits",
    }
    return known.get(dataset or "", dataset or "")


def _bits(network: Network) -> str:
    widths = sorted({layer.formats.weight.bits for layer in quantized_layers(network.module).values()})
    *others, last = map(str, widths)
    return f"{', '.join(others)} and {last} bits" if others else f"{last} {'bit' if last == '1' else 'bits'}"


def _count(number: int) -> str:
    return f"{number:,}" if number < 10_000_000 else f"{number / 1e6:,.1f} million"


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.0f} KB" if count >= 10_000 else f"{count / 1000:.1f} KB"
