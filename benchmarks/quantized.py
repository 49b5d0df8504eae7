"""What quantization costs a training step: a float step of a folded network against quantization-aware ones.

    python -m benchmarks.quantized [--batch 128] [--blocks 5] [--threads 1] [--arithmetic float16] [--json FILE]

All loops train C-EfficientNet v1 with its norms folded, on the same images, without teachers: in floats; with integers
of 8 bits, learned steps of the weights (`weights`) or of weights and inputs (`weights and inputs`), each with compiled
kernels and by torch alone (NETPRESS_NATIVE=0). Loops have processes of their own and run in turns, as in
`benchmarks.training`. Speed does not depend on what the network has learned.
"""

import argparse
import functools
import json
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import OurLoop, alternate, make_network
from netpress.compression.quantization.assignment import choose_formats
from netpress.compression.quantization.post_training import calibrate
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.data import Dataset, Images
from netpress.native.library import SWITCH
from netpress.network import Network
from netpress.network.edits.folding import FoldNorms
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.devices import available_cores
from netpress.process.memory import keep_freed_memory
from netpress.process.world import World
from netpress.settings import parse
from netpress.stage import Context
from netpress.tracing.foldable import find_foldable_norms
from netpress.training import TrainSettings
from netpress.training.placement import lay_out
from netpress.training.step import TrainingStep

FLOAT = "floats"
LEARN = {"weights": ("weight_steps",), "weights and inputs": ("weight_steps", "input_steps")}
KERNELS, TORCH = "kernels", "torch alone"
LOOPS = (FLOAT, *(f"{learned}, {way}" for learned in LEARN for way in (KERNELS, TORCH)))
CALIBRATED = 256  # images
SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "optimizer": {"kind": "adam", "learning_rate": 2e-4, "weight_decay": 0.0},
    "augment": {"crop": 4, "flip": True},
    "mix": {"kind": "cutmix"},
}


def make_folded() -> Network:
    network = make_network()
    network.edit(FoldNorms(pairs=tuple(find_foldable_norms(network.module, network.input.size))))
    return network


def quantize(start: Network, images: Images, learned: str, arithmetic: str) -> Network:
    """A copy with integers of 8 bits, calibrated, with the scales that learn in training."""
    settings = parse(QuantizeSettings, {"arithmetic": arithmetic, "calibration_images": CALIBRATED})
    nothing = Images(images.images[:0], images.labels[:0])
    data = Dataset("cifar100", images, nothing, nothing, start.classes, (), (), "none")
    context = Context(Path(), World(torch.device("cpu")), 0, Console(quiet=True), data, name="bench")
    network = calibrate(start, choose_formats(start.module, settings), settings, context)
    for layer in quantized_layers(network.module).values():
        for scale, name in ((layer.weight_scale, "weight_steps"), (layer.input_scale, "input_steps")):
            if scale is not None:
                scale.requires_grad_(name in LEARN[learned])
    return network


def make_loop(arithmetic: str, name: str, images: Images, device: torch.device) -> OurLoop:
    """The loop called `name` of `LOOPS`."""
    keep_freed_memory()
    if name.endswith(TORCH):
        os.environ[SWITCH] = "0"
    network = make_folded()
    if name != FLOAT:
        network = quantize(network, images, name.rpartition(", ")[0], arithmetic)
    lay_out(network.module, device)
    network.module.train()
    return OurLoop(TrainingStep(network, parse(TrainSettings, SETTINGS), images))


def measure(batch_size: int, blocks: int, threads: int, arithmetic: str) -> dict[str, Any]:
    """Medians of each loop's step, and what they are of the float step's."""
    make = functools.partial(make_loop, arithmetic)
    times = alternate(list(LOOPS), batch_size, blocks, torch.device("cpu"), make, threads)
    alone = times[FLOAT]
    return {
        "batch_size": batch_size,
        "threads": threads,
        "arithmetic": arithmetic,
        "cores": available_cores(),
        "torch": torch.__version__,
        "step_ms": {name: 1000 * taken.wall for name, taken in times.items()},
        "step_cpu_ms": {name: 1000 * taken.cpu for name, taken in times.items()},
        "ratio": {name: taken.wall / alone.wall for name, taken in times.items()},
        "cpu_ratio": {name: taken.cpu / alone.cpu for name, taken in times.items()},
        "memory_MiB": {name: taken.memory for name, taken in times.items()},
    }


def describe(result: dict[str, Any]) -> str:
    rows = [
        f"C-EfficientNet v1, norms folded, int8, arithmetic {result['arithmetic']}, batch {result['batch_size']}, "
        f"threads: {result['threads']}, {result['cores']} cores"
    ]
    for name, ms in result["step_ms"].items():
        rows.append(
            f"  {name:<32} {ms:8.1f} ms a step ({result['ratio'][name]:.2f})  "
            f"{result['step_cpu_ms'][name]:8.1f} ms of CPU ({result['cpu_ratio'][name]:.2f})  "
            f"{1000 * result['batch_size'] / ms:6.0f} images/s  {result['memory_MiB'][name]:.0f} MiB"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="What quantization costs a training step.")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arithmetic", choices=("float16", "integer"), default="float16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.batch, options.blocks, options.threads, options.arithmetic)
    print(describe(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
