"""The leaderboard of the MicroNet Challenge 2019, track CIFAR-100: the page sets a run beside it.

The ten best entries and the baseline, as the challenge's own site lists them
(github micronet-challenge/micronet-challenge.github.io, leaderboard.md at b487872,
2019-12-06): the scores are the organisers' after their review, the accuracies what the
teams stated. An entry counted from 80% top-1 on the test images.
"""

import math
from dataclasses import dataclass

from netpress.report.facts import RunFacts, number

GATE = 0.8
BASELINE_SCORE = 2.0  # WideResNet-28-10 by definition: params / params + operations / operations


@dataclass(frozen=True)
class Entry:
    """One row: an entry of 2019, the baseline, or this run."""

    name: str
    score: float
    accuracy: float | None
    technique: str
    this_run: bool = False

    @property
    def place(self) -> float:
        """Where its dot stands on the logarithmic axis from .001 to 2, as a fraction of the axis."""
        low, high = math.log10(AXIS[0]), math.log10(AXIS[1])
        return max(0.0, min(1.0, (math.log10(max(self.score, AXIS[0])) - low) / (high - low)))


AXIS = (0.001, BASELINE_SCORE)

ENTRIES = (
    Entry("RIAIR", 0.0044, 0.8017, "DenseNet, 75% sparse, 4-bit weights and activations, adder tree"),
    Entry("KAIST AI, v1", 0.0054, 0.8007, "C-EfficientNet, 60% sparse, 16 bit"),
    Entry("KAIST AI, v2", 0.0056, 0.8004, "C-EfficientNet, other widths, 60% sparse, 16 bit"),
    Entry("OSI AI", 0.0058, 0.8004, "small EfficientNet, 64% sparse, early exit"),
    Entry("MSUNet v3", 0.0108, 0.8013, "mixed depthwise kernels, ternary convolutions"),
    Entry("MSUNet v2", 0.0125, 0.8030, "the same, less compressed"),
    Entry("MSUNet v1", 0.0171, 0.8047, "the same, less compressed"),
    Entry("Woody, prune4", 0.0188, 0.8006, "MobileNetV2, 75% sparse, 6 to 9 bit"),
    Entry("Woody, pruning3", 0.0193, 0.8018, "MobileNetV2, sparse, 8 bit"),
    Entry("HHI-MAL", 0.0242, 0.8013, "ResNet-44, ternary, 90.5% sparse"),
    Entry("WideResNet-28-10", BASELINE_SCORE, None, "the baseline, by definition"),
)


def compare(run: RunFacts) -> list[Entry]:
    """The board with this run in its place; [] where the run is not of this track or has no score."""
    if run.score is None or run.dataset != "cifar100" or run.score.get("track", "cifar100") != "cifar100":
        return []
    score = number(run.score.get("score"))
    if score is None or score <= 0:
        return []
    mine = Entry("this run", score, number(run.score.get("accuracy")), run.name, this_run=True)
    return sorted((*ENTRIES, mine), key=lambda entry: entry.score)
