"""Policy augmentation: whole batches of netpress against Pillow, image by image, in one process each.

Both run the same policy on the same images in the same run. Pillow's side is what
loaders do with a policy: an image from its array, the drawn operations, an array again.
`python -m benchmarks.policies [POLICY]... [--cpu-time]` prints the figures of each policy:
`rand` (2 operations in a row), which is the one if none is named, `trivial` or a JSON file.
--cpu-time compares processor seconds at one thread, which other work on the machine disturbs
less. NETPRESS_NATIVE=0 leaves the compiled kernels out.
"""

import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

from netpress.data.operations import CUTOUT_COLOUR
from netpress.data.policies import Policy, PolicySet, find_policies
from netpress.native.policies import available
from netpress.process.devices import available_cores


def run_with_pillow(image: Image.Image, name: str, value: float, centre: Sequence[float] = (0.5, 0.5)) -> Image.Image:
    """One operation as Pillow does it; `centre` is where a cutout lies, as shares of width and height."""
    width, height = image.size
    affine: Mapping[str, tuple[float, ...]] = {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateX": (1, 0, value * width, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, value * height),
    }
    if name in affine:
        return image.transform(image.size, Image.Transform.AFFINE, affine[name])
    if name == "Cutout":
        return _cut_with_pillow(image, value * width, centre)
    simple: Mapping[str, Callable[[], Image.Image]] = {
        "Rotate": lambda: image.rotate(value),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Solarize": lambda: ImageOps.solarize(image, value),  # type: ignore[arg-type]
        "Posterize": lambda: ImageOps.posterize(image, int(value)),
    }
    return simple[name]() if name in simple else getattr(ImageEnhance, name)(image).enhance(value)


def _cut_with_pillow(image: Image.Image, side: float, centre: Sequence[float]) -> Image.Image:
    if side <= 0:
        return image
    width, height = image.size
    left = int(max(0, centre[0] * width - side / 2))
    top = int(max(0, centre[1] * height - side / 2))
    image = image.copy()
    box = (left, top, min(width, left + side), min(height, top + side))
    ImageDraw.Draw(image).rectangle(box, CUTOUT_COLOUR)
    return image


def run_policy_with_pillow(policy: Policy, image: np.ndarray, draw: random.Random) -> np.ndarray:
    """A drawn sub-policy on one image, uint8 [height, width, 3]."""
    changed = Image.fromarray(image)
    for step in draw.choice(policy.sub_policies):
        if draw.random() < step.probability:
            value = step.values[draw.random() < 0.5]
            changed = run_with_pillow(changed, step.operation, value, (draw.random(), draw.random()))
    return np.asarray(changed)


@dataclass(frozen=True)
class PolicySpeed:
    """Images a second: medians of the rounds, in which both sides take turns."""

    policy: str
    batch: int
    threads: int
    netpress: float
    pillow: float
    ratio: float


def measure_policies(
    policies: PolicySet,
    images: Tensor,
    batches: Sequence[int] = (128, 512, 1024, 2048),
    threads: Sequence[int] = (1,),
    rounds: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> list[PolicySpeed]:
    """How fast `policies` run on batches of these sizes taken from `images` (uint8 [n, 3, height, width], CPU)."""
    generator, draw = torch.Generator().manual_seed(0), random.Random(0)
    policy = policies.policies[0]
    arrays = list(images[:512].permute(0, 2, 3, 1).contiguous().numpy())
    cases = list(itertools.product(threads, batches))
    pillow: list[float] = []  # seconds an image
    times: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    before = torch.get_num_threads()
    try:
        for _ in range(rounds + 1):  # the first round warms up
            start = clock()
            for array in arrays:
                run_policy_with_pillow(policy, array, draw)
            pillow.append((clock() - start) / len(arrays))
            for count, batch in cases:
                torch.set_num_threads(count)
                chosen, repeats = images[torch.arange(batch) % len(images)], max(1, 1024 // batch)
                start = clock()
                for _ in range(repeats):
                    policies(chosen, generator)
                times[count, batch].append((clock() - start) / (batch * repeats))
    finally:
        torch.set_num_threads(before)
    theirs = statistics.median(pillow[1:])
    speeds = []
    for count, batch in cases:
        ours = statistics.median(times[count, batch][1:])
        speeds.append(PolicySpeed(policy.name, batch, count, 1 / ours, 1 / theirs, theirs / ours))
    return speeds


def main() -> None:
    """Print the figures of each policy, number of threads and batch size."""
    arguments = sys.argv[1:]
    busy = "--cpu-time" in arguments
    names = [argument for argument in arguments if argument != "--cpu-time"] or ["rand"]
    # Pictures of smooth random colours: their speed does not depend on what they show.
    small = torch.rand(2048, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images = (torch.nn.functional.interpolate(small, (32, 32), mode="bilinear") * 255).to(torch.uint8)
    print("compiled kernels" if available() else "torch, without compiled kernels")
    for name in names:
        policies = find_policies([name], 2, 0.3)
        if busy:
            speeds = measure_policies(policies, images, clock=time.process_time)
        else:
            speeds = measure_policies(policies, images, threads=sorted({1, available_cores()}))
        for speed in speeds:
            print(
                f"{speed.policy}: batch {speed.batch}, {speed.threads} threads: {speed.netpress:,.0f} images/s, "
                f"Pillow {speed.pillow:,.0f} images/s, ratio {speed.ratio:.1f}"
            )


if __name__ == "__main__":
    main()
