"""How time and memory of the `factorize` stage's measuring grow: with the layers of a network, and with the images.

    python benchmarks/factorizing.py [--rounds 3] [--json FILE]

Measured is `measure_curvature`, both passes, on PyramidNets of one pair of widths and growing depth, then of one depth
with growing numbers of images. Every measurement has a process of its own, which warms up on two images first; the
sizes take turns, and medians count. Time is of the processor, at one thread; memory is the most that the process
used beyond what the network and torch take. `x` is the cost of a layer, or of an image, relative to the first row's:
near 1 if the cost is linear, below it where a part of it is there once. Memory does not grow with the images, of which
one batch at a time is looked at.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from netpress.compression.factorization.curvature import layers_of, measure_curvature
from netpress.compression.factorization.layers import find_candidates
from netpress.data import Images
from netpress.network import create

ALPHA = 24.0
DEPTHS = (20, 38, 74, 146)
IMAGES = (32, 64, 128)
BATCH = 16
SIDE = 16  # pixels


@dataclass(frozen=True)
class Cost:
    """Medians of what one size takes."""

    layers: int
    images: int
    seconds: float
    mebibytes: float


def measure(depth: int, images: int, connection: Connection) -> None:
    """Send the layers measured, processor seconds, and MiB beyond what was there before."""
    torch.set_num_threads(1)
    network = create("pyramidnet", {"depth": depth, "alpha": ALPHA, "image_size": SIDE}, seed=1)
    layers = layers_of(network, [one.analysed for one in find_candidates(network).candidates])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, SIDE, SIDE), generator=generator).byte()
    drawn = Images(pixels, torch.zeros(images, dtype=torch.int64))
    before = _peak_memory()
    measure_curvature(network, layers, drawn.take(torch.arange(2)), 0)
    start = time.process_time()
    measure_curvature(network, layers, drawn, 0, batch_size=BATCH)
    connection.send((len(layers), time.process_time() - start, _peak_memory() - before))


def _peak_memory() -> float:
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def in_a_process(depth: int, images: int) -> tuple[int, float, float]:
    """`measure` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=measure, args=(depth, images, there), daemon=True)
    process.start()
    there.close()
    found: tuple[int, float, float] = here.recv()
    process.join()
    return found


def alternate(sizes: list[tuple[int, int]], rounds: int) -> list[Cost]:
    """The cost of each size (depth, images), all in turn, so that what else the machine does meets all."""
    taken: dict[tuple[int, int], list[tuple[int, float, float]]] = {size: [] for size in sizes}
    for number in range(rounds):
        for size in sorted(sizes, reverse=bool(number % 2)):
            taken[size].append(in_a_process(*size))
    costs = []
    for (_, images), found in taken.items():
        layers, seconds, mebibytes = zip(*found, strict=True)
        costs.append(Cost(layers[0], images, statistics.median(seconds), statistics.median(mebibytes)))
    return costs


def describe(cost: Cost, first: Cost, more: float, each: str) -> str:
    """One line; `more` is how many times the layers or the images of `first` it has."""
    return (
        f"  {cost.layers:4} layers {cost.images:4} images  {cost.seconds:6.2f} s, {each} x "
        f"{cost.seconds / first.seconds / more:.2f}   {cost.mebibytes:5.0f} MiB, {each} x "
        f"{cost.mebibytes / first.mebibytes / more:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each size, of which the median counts")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    sizes = [(depth, IMAGES[0]) for depth in DEPTHS] + [(DEPTHS[0], images) for images in IMAGES[1:]]
    costs = alternate(sizes, arguments.rounds)
    print(f"curvature of PyramidNets, alpha {ALPHA:g}, images of {SIDE}x{SIDE} in batches of {BATCH}, one thread")
    first = costs[0]
    for cost in costs[: len(DEPTHS)]:
        print(describe(cost, first, cost.layers / first.layers, "a layer"))
    for cost in costs[len(DEPTHS) :]:
        print(describe(cost, first, cost.images / first.images, "an image"))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
