"""How long scoring takes: the largest network of the zoo, and how the cost grows with the number of layers.

    python benchmarks/scoring.py [--repeats 3] [--json FILE]

Scoring traces one forward pass on shapes and counts its operations, zeros of real weights included. The growth is
measured on chains of convolution, norm and ReLU of equal width; the last column is the time of one layer of a chain
relative to that of the shortest one, which stays near 1 if the cost is linear.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

from torch import nn

from netpress.network import create
from netpress.process.devices import available_cores
from netpress.scoring import score

NETWORKS = {
    "pyramidnet:272": ("pyramidnet", {"depth": 272, "alpha": 200.0}),
    "wide_resnet:28-10": ("wide_resnet", {}),
    "c_efficientnet:v1": ("c_efficientnet", {}),
}
LAYERS = (50, 100, 200, 400, 800)
LIMIT_SECONDS = 5.0
"""What scoring PyramidNet-272 may take on 2 cores."""


def chain(layers: int) -> nn.Module:
    """`layers` times convolution, norm, ReLU."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*parts)


def seconds(subject: Any, size: tuple[int, int, int], repeats: int) -> float:
    """The least of `repeats` timings: other work on the machine only ever adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        score(subject, size)
        times.append(time.perf_counter() - start)
    return min(times)


def measure(repeats: int) -> dict[str, Any]:
    """All figures, in seconds."""
    networks = {}
    for name, (family, settings) in NETWORKS.items():
        made = create(family, settings)
        networks[name] = {"operations": len(score(made).rows), "seconds": seconds(made, made.input.size, repeats)}
    score(chain(2), (8, 8, 8))
    growth = {layers: seconds(chain(layers), (8, 8, 8), repeats) for layers in LAYERS}
    return {"machine": platform.processor() or platform.machine(), "cores": available_cores()} | {
        "networks": networks,
        "growth": growth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="timings of which the least counts")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    found = measure(arguments.repeats)
    print(f"scoring, {found['cores']} cores")
    for name, figures in found["networks"].items():
        print(f"  {name:20} {figures['operations']:5} rows  {figures['seconds']:6.2f} s")
    slowest = found["networks"]["pyramidnet:272"]["seconds"]
    print(f"  pyramidnet:272 in under {LIMIT_SECONDS:.0f} s: {'yes' if slowest < LIMIT_SECONDS else 'NO'}")
    first = found["growth"][LAYERS[0]] / LAYERS[0]
    for layers, taken in found["growth"].items():
        print(
            f"  {layers:5} layers {taken:6.3f} s  {taken / layers * 1e3:5.2f} ms a layer"
            f"  x {taken / layers / first:.2f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
