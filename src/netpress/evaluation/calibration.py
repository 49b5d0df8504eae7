"""Whether a network is right as often as it says: of all images that it is 80% sure of, 80% should be right."""

from dataclasses import dataclass

import torch

from netpress.evaluation.accuracy import Evaluation

BINS = 15


@dataclass(frozen=True)
class Bin:
    """The images whose most likely class has a probability above `above`, up to `up_to`; the first bin holds 0 too."""

    above: float
    up_to: float
    images: int
    probability: float | None
    """Mean of these images; None of none."""
    accuracy: float | None
    """Share of them that is right."""


@dataclass(frozen=True)
class Calibration:
    """How probabilities and accuracy agree, bin by bin."""

    error: float
    """The expected calibration error, 0 to 1: mean over the images of the difference in their bin."""
    bins: tuple[Bin, ...]


def calibrate(measured: Evaluation, bins: int = BINS) -> Calibration:
    """The expected calibration error in bins of equal width (Guo et al., ICML 2017, equation 3, with their 15 bins)."""
    sure = measured.probabilities
    right = (measured.predicted == measured.labels.to(measured.predicted.device)).double()
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    place = torch.bucketize(sure, edges)  # the bin m of each image: edges[m - 1] < probability <= edges[m]
    images = torch.bincount(place, minlength=bins)
    sums, hits = (torch.bincount(place, weights=values, minlength=bins) for values in (sure, right))
    error = float((sums - hits).abs().sum() / max(1, len(sure)))
    rows = zip(images.tolist(), sums.tolist(), hits.tolist(), strict=True)
    return Calibration(
        error,
        tuple(
            Bin(
                index / bins,
                (index + 1) / bins,
                count,
                total / count if count else None,
                good / count if count else None,
            )
            for index, (count, total, good) in enumerate(rows)
        ),
    )
