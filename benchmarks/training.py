"""Training speed of the KAIST v1 step: netpress against a plain loop that does what the 2019 code does.

    python benchmarks/training.py [--batch 128] [--blocks 3] [--json FILE]

Both sides train C-EfficientNet v1 (450,456 weights) on the same images with random crop and flip, CutMix,
SRIP on the 68 pointwise matrices and SGD. The plain loop augments image by image with Pillow, keeps NCHW,
writes h-swish as x * relu6(x + 3) / 6 and forms each SRIP matrix by itself, at its own best thread count.
Each loop has a process of its own, with its own memory; they run alternately in blocks, so that what else the
machine does meets all. Medians are compared, by wall time and by processor time.

A second pair is EfficientNet B0 at 32x32, with compiled kernels and by torch alone (NETPRESS_NATIVE=0).

Images are CIFAR-100 where NETPRESS_DATA names its folder, and random ones otherwise: speed does not depend on them.
"""

import argparse
import functools
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from netpress.data import DataSettings, Images, augment, load_dataset, mix, normalize, shuffled_batches
from netpress.evaluation import evaluate
from netpress.native.library import SWITCH, available
from netpress.network import Network, create
from netpress.network.selection import select
from netpress.process.console import Console
from netpress.process.devices import available_cores, choose_device, generator_for
from netpress.process.memory import keep_freed_memory
from netpress.settings import parse
from netpress.training import TrainSettings
from netpress.training.accelerated import accelerate
from netpress.training.placement import lay_out
from netpress.training.step import StepRandomness, TrainingStep

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
IMAGES = 4096
SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1, "weight_decay": 1e-5},
    "loss": {"kind": "adaptive_label_smoothing"},
    "orthogonality": {"on": "pointwise", "coefficient": 0.7, "squared": True, "side": "in"},
    "augment": {"crop": 4, "fill": 128, "flip": True},
    "mix": {"kind": "cutmix"},
}


def load_images(count: int) -> Images:
    """`count` training images of CIFAR-100, or random ones without NETPRESS_DATA."""
    folder = os.environ.get("NETPRESS_DATA")
    if folder:
        settings = DataSettings(dataset="cifar100", select_on="test")
        images = load_dataset(settings, Path(folder), 0, Console(quiet=True)).train
        return Images(images.images[:count], images.labels[:count])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=generator).byte()
    return Images(pixels, torch.randint(100, (count,), generator=generator))


def make_efficientnet() -> Network:
    return create("efficientnet", {}, mean=MEAN, std=STD, seed=1)


def make_network() -> Network:
    settings = {"widths": "v1", "expansion": 3.0, "released": True}
    return create("c_efficientnet", settings, mean=MEAN, std=STD, seed=1)


def make_step(images: Images, network: Network, **changes: Any) -> TrainingStep:
    lay_out(network.module, images.images.device)
    network.module.train()
    settings = parse(TrainSettings, SETTINGS | changes)
    return TrainingStep(network, settings, images)


# --- the plain loop -------------------------------------------------------------------------------------------------


class PlainHardSwish(nn.Module):
    """h-swish as three operations."""

    def forward(self, images: Tensor) -> Tensor:
        return images * F.relu6(images + 3) / 6


def spell_out_hardswish(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Hardswish):
            setattr(module, name, PlainHardSwish())
        else:
            spell_out_hardswish(child)


class PlainLoop:
    """A training step as the 2019 code writes it: image by image, matrix by matrix."""

    def __init__(self, images: Images) -> None:
        self.module = make_network().module
        spell_out_hardswish(self.module)
        self.module.train()
        self.pixels = images.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels
        self.random = np.random.default_rng(0)
        self.mean = torch.tensor(MEAN).view(3, 1, 1)
        self.std = torch.tensor(STD).view(3, 1, 1)
        self.matrices = [layer.get_parameter("weight") for _, layer in select(self.module, "pointwise")]
        self.optimizer = torch.optim.SGD(
            self.module.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-5, foreach=False
        )

    def load(self, index: int) -> Tensor:
        image = Image.fromarray(self.pixels[index])
        padded = Image.new("RGB", (40, 40), (128, 128, 128))
        padded.paste(image, (4, 4))
        left, top = self.random.integers(0, 9, 2)
        image = padded.crop((left, top, left + 32, top + 32))
        if self.random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return (values - self.mean) / self.std

    def penalty(self) -> Tensor:
        total = torch.zeros(())
        for weight in self.matrices:
            matrix = weight.view(weight.shape[0], -1)
            gram = matrix.t() @ matrix - torch.eye(matrix.shape[1])
            start = torch.randn(matrix.shape[1], 1)
            v = F.normalize(gram.t() @ start, dim=0)
            u = F.normalize(gram @ v, dim=0)
            total = total + (u.t() @ (gram @ v)).squeeze() ** 2
        return total / len(self.matrices)

    def take(self, indices: Tensor) -> None:
        images = torch.stack([self.load(int(index)) for index in indices])
        labels = self.labels[indices]
        share = self.random.beta(1.0, 1.0)
        partner = torch.from_numpy(self.random.permutation(len(labels)))
        half = int(32 * np.sqrt(1 - share)) // 2
        x, y = self.random.integers(0, 32, 2)
        box = slice(max(0, y - half), min(32, y + half)), slice(max(0, x - half), min(32, x + half))
        images[:, :, box[0], box[1]] = images[partner][:, :, box[0], box[1]]
        self.optimizer.zero_grad()
        logits = self.module(images)
        loss = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels[partner])
        (loss + 0.7 * self.penalty()).backward()
        self.optimizer.step()
        loss.item()


# --- measuring ------------------------------------------------------------------------------------------------------


class OurLoop:
    def __init__(self, step: TrainingStep) -> None:
        self.step, self.taken = step, 0
        self.accelerated = accelerate(step.module)  # as long as this loop lives
        self.accelerated.__enter__()

    def take(self, indices: Tensor) -> None:
        self.taken += 1
        indices = indices.to(self.step.device)
        self.step.take(indices, 0.01, StepRandomness(0, ("bench", self.taken), self.step.device)).tolist()


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def make_loop(name: str, images: Images, device: torch.device) -> Any:
    """The loop called `name` of `LOOPS`; for ours, the process keeps freed memory from here on."""
    if name == "plain":
        return PlainLoop(images)
    if device.type == "cpu":
        keep_freed_memory()
    if name.endswith("torch alone"):
        os.environ[SWITCH] = "0"
    network = make_efficientnet() if name in EFFICIENTNETS else make_network()
    if name == "netpress, 60% masked":
        generator = torch.Generator().manual_seed(0)
        network.masks = {n: torch.rand(w.shape, generator=generator) > 0.6 for n, w in network.weights().items()}
    changes = {"orthogonality": None} if name in ("netpress, without SRIP", *EFFICIENTNETS) else {}
    return OurLoop(make_step(images.to(device), network, **changes))


LOOPS = ("netpress", "netpress, 60% masked", "netpress, without SRIP", "netpress, torch alone", "plain")
ON_CPU = ("netpress, torch alone", "plain")
EFFICIENTNETS = ("EfficientNet, kernels", "EfficientNet, torch alone")
EFFICIENTNET_BATCH = 64  # torch alone takes 3.4 GiB for these


def serve(connection: Connection, make: Callable[..., Any], name: str, batch_size: int, device: torch.device) -> None:
    """Take steps of one loop when told how many and with how many threads; answer with their times."""
    images = load_images(IMAGES)
    batches = shuffled_batches(len(images), batch_size, generator_for(0, "order"), drop_last=True)
    loop = make(name, images, device)
    taken = 0
    while (order := connection.recv()) is not None:
        count, threads, size = order
        torch.set_num_threads(threads)
        times = []
        for _ in range(count):
            batch = batches[taken % len(batches)][:size]
            taken += 1
            before = time.process_time()
            wall = seconds_of(functools.partial(loop.take, batch), device)
            times.append((wall, time.process_time() - before))
        connection.send(times)
    connection.send(_peak_memory(device))


@dataclass(frozen=True)
class StepTime:
    """Medians over the steps of one loop, in seconds."""

    wall: float
    cpu: float
    """Of all threads: what the step costs where other work shares the cores."""
    threads: int
    memory: float
    """The most that the loop's process used, with images, in MiB."""


def alternate(
    names: list[str],
    batch_size: int,
    blocks: int,
    device: torch.device,
    make: Callable[..., Any] = make_loop,
    threads_of_all: int | None = None,
) -> dict[str, StepTime]:
    """Time each loop's step: blocks of two steps in turn, each at its own best thread count, unless it is given.

    `make` as `make_loop`.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[str, tuple[Any, Connection]] = {}
    for name in names:
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, make, name, batch_size, device), daemon=True)
        process.start()
        workers[name] = process, here

    def ask(name: str, count: int, threads: int, size: int = batch_size) -> list[tuple[float, float]]:
        workers[name][1].send((count, threads, size))
        return workers[name][1].recv()

    counts = [threads_of_all] if threads_of_all else sorted({1, available_cores()})
    threads = {}
    for name in names:
        ask(name, 1, counts[-1])  # warms up
        threads[name] = counts[0]
        if len(counts) > 1:
            threads[name] = min((min(ask(name, 2, count))[0], count) for count in counts)[1]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for block in range(blocks):
        for name in sorted(names, reverse=bool(block % 2)):
            times[name] += ask(name, 2, threads[name])
    results = {}
    for name, (process, connection) in workers.items():
        connection.send(None)
        wall, cpu = (statistics.median(values) for values in zip(*times[name], strict=True))
        results[name] = StepTime(wall, cpu, threads[name], connection.recv())
        process.join()
    return results


KINDS = {  # what an operation belongs to, by the first of these that its name holds
    "whole blocks": ("_Inverted",),  # convolutions, norms, hard-swish and gates of an inverted residual
    "activations": ("hardswish", "sigmoid"),
    "norms": ("batch_norm",),
    "convolutions": ("convolution", "aten::mm", "aten::addmm"),
}


def share_kinds(loop: OurLoop, batch: Tensor, repeats: int) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Shares of a step's time by kind of operation, and the largest five of the rest.

    The products of matrices count as convolutions: those of the fused pointwise ones, and the classifier. What torch's
    own operations do inside a block's function counts as what it is, and the rest of that function as "whole blocks".
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(repeats):
            loop.take(batch)
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    total = sum(times.values())
    shares = dict.fromkeys([*KINDS, "rest"], 0.0)
    rest = []
    for name, spent in times.items():
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "rest")
        shares[kind] += spent / total
        if kind == "rest":
            rest.append((name, spent / total))
    return shares, sorted(rest, key=lambda item: -item[1])[:5]


def time_parts(step: TrainingStep, batch: Tensor, repeats: int) -> dict[str, float]:
    """Median milliseconds of each part of our step, one after another, and of SRIP's own forward and backward."""
    settings, device = step.settings, step.device
    times: dict[str, list[float]] = {}
    kept: dict[str, Any] = {}
    batch = batch.to(device)

    def note(name: str, work: Callable[[], Any]) -> None:
        def keep() -> None:
            kept[name] = work()

        times.setdefault(name, []).append(1000 * seconds_of(keep, device))

    for repeat in range(repeats + 1):

        def draw(purpose: str, repeat: int = repeat) -> torch.Generator:
            return generator_for(0, "parts", repeat, purpose, device=device)

        note("augment", lambda: augment(step.images.images[batch], settings.augment, draw("augment")))
        note("normalize", lambda: normalize(kept["augment"], MEAN, STD))
        note("mix", lambda: mix(kept["normalize"], step.images.labels[batch], settings.mix, draw("mix")))
        note("forward", lambda: step.forward(kept["mix"][0]))
        note("loss", lambda: step.loss(kept["forward"], kept["mix"][1], kept["mix"][0]))
        step.module.zero_grad(set_to_none=True)
        note("backward", lambda: kept["loss"].backward())
        if step.penalty is not None:
            note("srip", lambda: step.penalty(draw("srip")).backward())
        note("masks", lambda: (step.masks.mask_gradients(), step.masks.mask_weights()))
        note("optimizer", lambda: step.optimizer.move(0.01))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def measure(batch_size: int, blocks: int, device: torch.device) -> dict[str, Any]:
    names = [name for name in LOOPS if name not in ON_CPU or device.type == "cpu"]
    times = alternate(names, batch_size, blocks, device)
    ours = times["netpress"]
    torch.set_num_threads(ours.threads)
    images = load_images(IMAGES)
    loop = make_loop("netpress", images, device)
    batch = torch.arange(batch_size)
    parts = time_parts(loop.step, batch, 2 * blocks)
    masks = time_parts(make_loop("netpress, 60% masked", images, device).step, batch, blocks)["masks"]
    shares, rest = share_kinds(loop, batch, blocks) if device.type == "cpu" else ({}, [])
    network = make_network()
    lay_out(network.module, device)
    test = Images(loop.step.images.images[:2000], loop.step.images.labels[:2000])
    evaluate(network, Images(test.images[:256], test.labels[:256]))
    evaluating = seconds_of(lambda: evaluate(network, test), device)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "cores": available_cores(),
        "threads": {name: taken.threads for name, taken in times.items()},
        "batch_size": batch_size,
        "step_ms": {name: 1000 * taken.wall for name, taken in times.items()},
        "step_cpu_ms": {name: 1000 * taken.cpu for name, taken in times.items()},
        "images_per_second": {name: batch_size / taken.wall for name, taken in times.items()},
        "memory_MiB": {name: taken.memory for name, taken in times.items()},
        "parts_ms": parts,
        "srip_share": parts["srip"] / sum(parts.values()),
        "mask_share": masks / sum(parts.values()),
        "shares": shares,
        "rest": rest,
        "evaluation_images_per_second": len(test) / evaluating,
    }
    if device.type == "cpu":
        pair = alternate(list(EFFICIENTNETS), EFFICIENTNET_BATCH, blocks, device)
        result["efficientnet_ms"] = {name: 1000 * taken.wall for name, taken in pair.items()}
        result["efficientnet_threads"] = {name: taken.threads for name, taken in pair.items()}
        kernels, alone = (pair[name].wall for name in EFFICIENTNETS)
        result["efficientnet_ratio"] = alone / kernels
    if "plain" in times:
        result["ratio"] = times["plain"].wall / ours.wall
        result["cpu_ratio"] = times["plain"].cpu / ours.cpu
    return result


def _peak_memory(device: torch.device) -> float:
    """Most memory used: of the device, or of this whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def describe(result: dict[str, Any]) -> str:
    rows = [f"C-EfficientNet v1, batch {result['batch_size']}, {result['device']}, {result['cores']} cores"]
    for name, ms in result["step_ms"].items():
        rate, threads = result["images_per_second"][name], result["threads"][name]
        cpu, memory = result["step_cpu_ms"][name], result["memory_MiB"][name]
        rows.append(
            f"  {name:<24} {ms:8.1f} ms a step ({cpu:.0f} ms of CPU)  {rate:6.0f} images/s  "
            f"threads: {threads}  {memory:.0f} MiB"
        )
    if "ratio" in result:
        rows.append(f"  netpress is {result['ratio']:.2f} times as fast as the plain loop")
        rows.append(f"  and takes 1/{result['cpu_ratio']:.2f} of its CPU time")
    rows.append("  parts, ms: " + ", ".join(f"{name} {ms:.1f}" for name, ms in result["parts_ms"].items()))
    rows.append(f"  SRIP {result['srip_share']:.1%} of a step, masks {result['mask_share']:.1%}")
    rows.append(f"  evaluation {result['evaluation_images_per_second']:.0f} images/s")
    if result["shares"]:
        rows.append(f"  compiled kernels: {'used' if available() else 'not there'}")
        rows.append("  of a step: " + ", ".join(f"{kind} {share:.0%}" for kind, share in result["shares"].items()))
        rows.append("  most of the rest: " + ", ".join(f"{name} {share:.1%}" for name, share in result["rest"]))
    if "efficientnet_ratio" in result:
        rows.append(f"EfficientNet B0 at 32x32, batch {EFFICIENTNET_BATCH}")
        for name, ms in result["efficientnet_ms"].items():
            rows.append(f"  {name:<25} {ms:8.1f} ms a step  threads: {result['efficientnet_threads'][name]}")
        rows.append(f"  kernels are {result['efficientnet_ratio']:.2f} times as fast as torch alone")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed of the KAIST v1 step.")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.batch, options.blocks, choose_device(options.device))
    print(describe(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
