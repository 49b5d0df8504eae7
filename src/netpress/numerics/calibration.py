"""From the values of a tensor or an activation to a range, and from a range to a grid.

    scale, zero_point = calibrate_tensor(weight, Integer(bits=8), MinMax())

There are four methods: the extreme values; percentiles; the range with the least mean squared rounding error; and
SigmaMax of the Wave team (MicroNet Challenge 2019), which is |mean| + lambda standard deviations.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from netpress.errors import Failure
from netpress.numerics.formats import Binary, Fixed, GridFormat, Integer, Ternary, integer_range
from netpress.numerics.grid import round_scales
from netpress.numerics.rounding import dequantize, quantize
from netpress.settings import Fraction, Positive, Settings, between

SAMPLES = 1 << 15  # values of an activation that percentiles and errors are measured on
MEASURED = 1 << 13  # values of a row that squared errors are measured on
SHRINKS = 24  # ranges tried by the least squared error, from the extremes down to a fifth of them


class MinMax(Settings):
    """The extreme values."""

    kind: Literal["minmax"] = "minmax"


class Percentile(Settings):
    """All but a share of the values at each end."""

    kind: Literal["percentile"] = "percentile"
    percent: Annotated[float, between(50, 100)] = 99.99
    """Percentage of the values below the upper end; as many are above the lower one."""


class SquaredError(Settings):
    """The range whose grid has the least mean squared error."""

    kind: Literal["mse"] = "mse"


class Sigma(Settings):
    """|mean| + `deviations` standard deviations (Wave's SigmaMax)."""

    kind: Literal["sigma"] = "sigma"
    deviations: Positive = 18.0
    """Standard deviations (lambda): Wave used 18 for activations and 10 for weights."""
    momentum: Fraction = 0.01
    """Share of each batch in the running mean and deviation of an activation."""


Calibration = Annotated[MinMax | Percentile | SquaredError | Sigma, Field(discriminator="kind")]
AnyCalibration = MinMax | Percentile | SquaredError | Sigma


def sigma_range(mean: Tensor, deviation: Tensor, deviations: float) -> Tensor:
    """The largest magnitude that SigmaMax lets in: |mean| + deviations * standard deviation."""
    return mean.abs() + deviations * deviation


def bit_point(largest: Tensor, bits: int) -> Tensor:
    """Fractional bits of a signed fixed-point format of `bits` bits for magnitudes up to `largest`.

    bits - 1 - ceil(log2(largest + 1e-12)), the formula of Wave's code (its docstring says floor + 1).
    """
    return bits - 1 - torch.ceil(torch.log2(largest + 1e-12))


def grid_of_range(low: Tensor, high: Tensor, format: GridFormat) -> tuple[Tensor, Tensor | None]:
    """(scale, zero point) of the grid on which a range fits; zero is always on it. Elementwise over channels.

    Signed formats without a zero point take the larger magnitude; scales are as the format stores them.
    """
    smallest, largest = integer_range(format)
    low, high = low.clamp(max=0), high.clamp(min=0)
    magnitude = torch.maximum(-low, high)
    if isinstance(format, Fixed):
        point = bit_point(magnitude, format.bits).clamp(-127, 126)
        return torch.exp2(-point.double()).float(), None
    if isinstance(format, Integer) and format.zero_point:
        scale = round_scales((high - low) / (largest - smallest), format)
        zero_point = (smallest - low / scale).round().clamp(smallest, largest)
        return scale, zero_point
    if smallest == 0:
        magnitude = high
    return round_scales(magnitude / largest, format), None


def calibrate_tensor(tensor: Tensor, format: GridFormat, method: AnyCalibration) -> tuple[Tensor, Tensor | None]:
    """The grid of a tensor whose values are all at hand: weights. One scale, or one an output channel.

    Zeros are not counted by the statistics of binary and ternary formats: they are masked weights.
    Raises Failure for values that are not finite.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise Failure("values are not finite (NaN or infinity): the network is damaged or has diverged")
    values = tensor.detach().float()
    rows = values.flatten(1) if format.scale == "channel" and values.dim() > 1 else values.reshape(1, -1)
    if isinstance(format, Binary):
        present = (rows != 0).sum(1).clamp(min=1)
        scale = round_scales(rows.abs().sum(1) / present, format)  # least squared error
        return (scale if format.scale == "channel" else scale[0]), None
    if isinstance(format, Ternary):
        method = SquaredError()
    low, high = _row_ranges(rows, format, method)
    scale, zero_point = grid_of_range(low, high, format)
    if format.scale == "channel":
        return scale, zero_point
    return scale[0], None if zero_point is None else zero_point[0]


def _row_ranges(rows: Tensor, format: GridFormat, method: AnyCalibration) -> tuple[Tensor, Tensor]:
    """[rows, values] -> the ends of each row's range."""
    match method:
        case MinMax():
            return rows.amin(1), rows.amax(1)
        case Percentile(percent=percent):
            return _quantile(rows, 1 - percent / 100), _quantile(rows, percent / 100)
        case Sigma(deviations=deviations):
            std = rows.std(1, correction=0)
            largest = sigma_range(rows.mean(1), std, deviations)
            return -largest, largest
        case SquaredError():
            return _least_error(rows, format)


def _quantile(rows: Tensor, share: float) -> Tensor:
    """The value at rank share * (n - 1) of each row, the rank rounded outward."""
    last = rows.shape[1] - 1
    rank = math.ceil(share * last) if share > 0.5 else math.floor(share * last)
    return rows.kthvalue(rank + 1, dim=1).values


def _least_error(rows: Tensor, format: GridFormat) -> tuple[Tensor, Tensor]:
    """For each row the range, both ends shrunk on their own where both matter, with the least squared error."""
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    # [rows, values], evenly drawn; the extremes count through `low` and `high`
    rows = rows.sort(dim=1).values[:, :: -(-rows.shape[1] // MEASURED)] if rows.shape[1] > MEASURED else rows
    match format:
        case Fixed():
            shrinks = [2.0**-power for power in range(6)]
        case Ternary():
            shrinks = torch.linspace(1.0, 0.05, 40).tolist()
        case _:
            shrinks = torch.linspace(1.0, 0.2, SHRINKS).tolist()
    ones = torch.ones(len(rows))
    together = _try(rows, format, [(low * shrink, high * shrink, ones * shrink) for shrink in shrinks])
    if not (isinstance(format, Integer) and format.zero_point and bool((low < 0).any())):
        return low * together, high * together
    # With a zero point the ends are free of each other: the lower one, then the upper one again.
    lower = _try(rows, format, [(low * shrink, high * together, ones * shrink) for shrink in shrinks])
    upper = _try(rows, format, [(low * lower, high * shrink, ones * shrink) for shrink in shrinks])
    return low * lower, high * upper


def _try(rows: Tensor, format: GridFormat, ranges: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Of (low, high, shrink), each [rows], for every row the shrink whose grid has the least squared error."""
    rowwise = format if isinstance(format, Fixed) else format.model_copy(update={"scale": "channel"})
    least, best = torch.full((len(rows),), torch.inf), torch.ones(len(rows))
    for low, high, shrink in ranges:
        grid = grid_of_range(low, high, rowwise)
        error = (dequantize(quantize(rows, rowwise, *grid), *grid) - rows).square_().sum(1)
        best = torch.where(error < least, shrink, best)
        least = torch.minimum(error, least)
    return best


class Observer:
    """Watches the values of one activation, batch after batch, and says which grid suits them.

    `generator` draws the samples that percentiles and squared errors look at: `SAMPLES` of all that passed.
    """

    def __init__(self, method: AnyCalibration, batches: int, generator: torch.Generator) -> None:
        self.method = method
        self.share = -(-SAMPLES // max(1, batches))
        self.generator = generator
        self.low, self.high = torch.tensor(torch.inf), torch.tensor(-torch.inf)
        self.mean: Tensor | None = None
        self.deviation: Tensor | None = None
        self.samples: list[Tensor] = []

    def watch(self, values: Tensor) -> None:
        """Take in one batch. Raises Failure for values that are not finite."""
        flat = values.detach().float().reshape(-1)
        low, high = flat.aminmax()
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise Failure("values are not finite (NaN or infinity)")
        self.low, self.high = torch.minimum(self.low, low.cpu()), torch.maximum(self.high, high.cpu())
        if isinstance(self.method, Sigma):
            deviation, mean = torch.std_mean(flat, correction=0)
            mean, deviation = mean.cpu(), deviation.cpu()
            if self.mean is None or self.deviation is None:
                self.mean, self.deviation = mean, deviation
            else:
                self.mean = torch.lerp(self.mean, mean, self.method.momentum)
                self.deviation = torch.lerp(self.deviation, deviation, self.method.momentum)
        elif not isinstance(self.method, MinMax):
            places = torch.randint(len(flat), (min(self.share, len(flat)),), generator=self.generator)
            self.samples.append(flat[places.to(flat.device)].cpu())

    def grid(self, format: GridFormat) -> tuple[Tensor, Tensor | None]:
        """(scale [], zero point []) for what passed. Raises Failure where nothing did."""
        if not math.isfinite(float(self.low)):
            raise Failure("no values passed during calibration: the layer did not run")
        match self.method:
            case MinMax():
                return grid_of_range(self.low, self.high, format)
            case Sigma(deviations=deviations):
                assert self.mean is not None and self.deviation is not None
                largest = sigma_range(self.mean, self.deviation, deviations)
                low = -largest
                if not isinstance(format, Fixed):  # a grid need not reach beyond what was met
                    low, largest = torch.maximum(low, self.low), torch.minimum(largest, self.high)
                return grid_of_range(low, largest, format)
            case method:
                # The extremes are put among the samples, so that every range tried starts from them.
                rows = torch.cat([*self.samples, self.low.reshape(1), self.high.reshape(1)]).reshape(1, -1)
                low, high = _row_ranges(rows, format, method)
                return grid_of_range(low[0], high[0], format)
