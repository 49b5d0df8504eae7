"""Accuracy on small folders of images: the recipe `photos` against plain PyTorch, in equal processor seconds.

    python -m benchmarks.photos [--seconds 15] [--seeds 1] [--sets cifar10 ...] [--sides photos ...] [--data DIR ...]

Each side reads the same folders of PNGs and trains for the same processor seconds on one thread, reading included,
imports left out. `benchmarks.plain_photos` is the other side: a ResNet and a MobileNetV2 of 25,000 weights. Ours is the
recipe as it is shipped (trained, pruned, in 8-bit integers) and its first stage alone with all of the time. Both have
fewer multiply-adds than the other side's ResNet; --width makes ours as wide as you like. --minutes chooses the epochs,
told to count processor time.

Images are 5 classes of CIFAR-10 with 200 images each, 10 of CIFAR-100 with 150 (where NETPRESS_DATA names their
folder), and the digits. --data adds folders of your own, with train/ and test/.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import netpress
from benchmarks import plain_photos
from netpress.data import DataSettings, load_dataset
from netpress.process.console import Console
from netpress.recipe.reading import read_values

SIDE = 32
SETS: dict[str, tuple[str, list[int], int, int]] = {
    "cifar10": ("cifar10", [1, 3, 5, 7, 8], 200, 400),
    "cifar100": ("cifar100", list(range(4, 100, 10)), 150, 100),
    "digits": ("digits", list(range(10)), 120, 100),
}
"""Name -> data set, its classes, and so many images of each to learn from and to test on."""
UNMIRRORED = ("digits",)
DENSE, SHIPPED = "photos, trained", "photos"
SIDES = (*plain_photos.NETWORKS, DENSE, SHIPPED)


@dataclass(frozen=True)
class Result:
    """One training of one side. `accuracy` is in percent."""

    accuracy: float
    seconds: float
    weights: int
    products: float
    flash: float


def write_folder(name: str, place: Path) -> Path:
    """The data set as a folder of PNGs, train/ and test/."""
    dataset, classes, count, tested = SETS[name]
    source = None if dataset == "digits" else Path(os.environ["NETPRESS_DATA"])
    data = load_dataset(DataSettings(dataset=dataset, select_on="test"), source, 0, Console(quiet=True))
    generator = torch.Generator().manual_seed(len(classes))
    for part, images, wanted in (("train", data.train, count), ("test", data.test, tested)):
        for number in classes:
            own = (images.labels == number).nonzero()[:, 0]
            folder = place / name / part / data.classes[number]
            folder.mkdir(parents=True)
            for index in own[torch.randperm(len(own), generator=generator)[:wanted]].tolist():
                Image.fromarray(images.images[index].permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return place / name


def read_plainly(folder: Path, side: int) -> tuple[Tensor, Tensor]:
    """Images [count, 3, side, side], 0 to 1, and labels, as a script reads them."""
    pixels, labels = [], []
    for label, place in enumerate(sorted(folder.iterdir())):
        for path in sorted(place.iterdir()):
            image = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
            pixels.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
            labels.append(label)
    return torch.stack(pixels) / 255, torch.tensor(labels)


def run_plain(name: str, folder: Path, side: int, seconds: float, seed: int) -> Result:
    started = time.process_time()
    images, labels = read_plainly(folder / "train", side)
    tested, truth = read_plainly(folder / "test", side)
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    torch.manual_seed(seed)
    module = plain_photos.NETWORKS[name](int(labels.max()) + 1)
    left = seconds - (time.process_time() - started)
    plain_photos.train(module, (images - mean) / std, labels, left, seed)
    accuracy = plain_photos.accuracy(module, (tested - mean) / std, truth)
    taken = time.process_time() - started
    weights = sum(parameter.numel() for parameter in module.parameters())
    return Result(100 * accuracy, taken, weights, count_products(module, side), 4 * weights)


def count_products(module: nn.Module, side: int) -> float:
    """Multiply-adds of one image in convolutions and linear layers."""
    counted = []

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        weight = layer.get_parameter("weight")
        counted.append(weight[0].numel() * output[0].numel())

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        module.eval()(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return float(sum(counted))


def run_ours(kind: str, folder: Path, side: int, seconds: float, seed: int, width: int | None) -> Result:
    changes = [f"data.image_size={side}"] + ([f"model.width={width}"] if width else [])
    values, _ = read_values("photos", changes, seed)
    if kind != SHIPPED:
        values["stages"] = values["stages"][:1]
        values["fit"] = {path: choices for path, choices in values["fit"].items() if path.startswith("model.")}
    if folder.name in UNMIRRORED:
        values["stages"] = json.loads(json.dumps(values["stages"]).replace('"flip": true', '"flip": false'))
    with tempfile.TemporaryDirectory() as place, patch("time.monotonic", time.process_time):
        started = time.process_time()
        result = netpress.run(values, data=folder, out=Path(place) / "run", minutes=seconds / 60, threads=1)
        taken = time.process_time() - started
    weights = sum(parameter.numel() for parameter in result.network.module.parameters())
    footprint = result.footprint
    return Result(100 * result.accuracy, taken, weights, footprint.multiply_adds, footprint.flash_bytes)


def describe(name: str, results: list[Result]) -> str:
    accuracies = [result.accuracy for result in results]
    spread = f" ({min(accuracies):.1f} to {max(accuracies):.1f})" if len(results) > 1 else ""
    last = results[-1]
    return (
        f"  {name:32} {statistics.mean(accuracies):5.1f}%{spread}, {last.products / 1e6:5.1f} M products, "
        f"{last.flash / 1024:6.1f} KiB, {statistics.mean(result.seconds for result in results):5.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15, help="processor time of each training")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sets", nargs="*", default=None)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels of the images that are trained on")
    parser.add_argument("--width", type=int, help="of our network; by default the recipe's")
    parser.add_argument("--sides", nargs="*", default=SIDES, help="by default all: " + ", ".join(SIDES))
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = [name for name in SETS if name == "digits" or "NETPRESS_DATA" in os.environ]
    chosen = known if options.sets is None else options.sets
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for folder in [*(write_folder(name, Path(place)) for name in chosen), *options.data]:
            print(
                f"{folder.name}, {options.side} pixels, {options.seconds:g} s, seeds 1 to {options.seeds}", flush=True
            )
            for name in options.sides:
                asked = (name, folder, options.side, options.seconds)
                seeds = range(1, options.seeds + 1)
                if name in plain_photos.NETWORKS:
                    results = [run_plain(*asked, seed) for seed in seeds]
                else:
                    results = [run_ours(*asked, seed, options.width) for seed in seeds]
                print(describe(name, results), flush=True)
                found.setdefault(folder.name, {})[name] = [vars(result) for result in results]
                if options.json:
                    options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
