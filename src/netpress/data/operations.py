"""The fifteen operations of AutoAugment's family, on batches of uint8 images, with Pillow's results.

Each operation gives the bits that Pillow's function gives for one image. Geometric operations take the nearest pixel in
Pillow's 16.16 fixed point, and fill with black. Blends are computed in float32 and truncated, as ImagingBlend does.
(A Pillow whose compiler fuses multiply and add may differ by 1 of 255 in a blend; the wheels for x86-64 do not fuse.)
Cutout fills with the grey of Fast AutoAugment (Lim et al. 2019), as ImageDraw.rectangle draws it.

A step is an operation with a value. A batch runs its steps group by group, whatever their values: all geometric steps
are one gather, all blends one expression. A CPU with compiled kernels (`netpress.native`) does the same image by image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from netpress.native.policies import Steps, Work, available, run_policies


@dataclass(frozen=True)
class Operation:
    """An operation and the values that levels 0 and 1 stand for in Fast AutoAugment's policies.

    group: the operations that are computed together.
    mirrored: half of the images get the value with its sign changed.
    """

    group: int
    low: float
    high: float
    mirrored: bool = False

    def value_at(self, level: float) -> float:
        """The value at `level`, 0 to 1."""
        return self.low + level * (self.high - self.low)


GEOMETRY, LOOK_UP, BLEND, CUTOUT = range(4)
OPERATIONS = {  # in the order in which they are computed
    "ShearX": Operation(GEOMETRY, -0.3, 0.3, mirrored=True),  # pixels per pixel
    "ShearY": Operation(GEOMETRY, -0.3, 0.3, mirrored=True),
    "TranslateX": Operation(GEOMETRY, -0.45, 0.45, mirrored=True),  # share of the width
    "TranslateY": Operation(GEOMETRY, -0.45, 0.45, mirrored=True),
    "Rotate": Operation(GEOMETRY, -30, 30, mirrored=True),  # degrees
    "Invert": Operation(LOOK_UP, 0, 1),  # no value
    "Solarize": Operation(LOOK_UP, 0, 256),  # inverts from this value on
    "Posterize": Operation(LOOK_UP, 4, 8),  # bits kept, rounded down
    "Brightness": Operation(LOOK_UP, 0.1, 1.9),  # 1 changes nothing
    "Contrast": Operation(LOOK_UP, 0.1, 1.9),
    "AutoContrast": Operation(LOOK_UP, 0, 1),  # no value
    "Equalize": Operation(LOOK_UP, 0, 1),  # no value
    "Color": Operation(BLEND, 0.1, 1.9),
    "Sharpness": Operation(BLEND, 0.1, 1.9),
    "Cutout": Operation(CUTOUT, 0, 0.2),  # share of the width
}
KINDS = {name: kind for kind, name in enumerate(OPERATIONS)}
GROUP_OF_KIND = np.array([operation.group for operation in OPERATIONS.values()])
CUTOUT_COLOUR = (125, 123, 114)
_COLOURS = {3: np.array(CUTOUT_COLOUR, np.uint8), 1: np.array([round(sum(CUTOUT_COLOUR) / 3)], np.uint8)}
LUMA = (19595, 38470, 7471)  # Pillow's weights of red, green and blue, in 1/65536
_WORK = {  # of the compiled kernel
    **dict.fromkeys(["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"], Work.MOVE),
    **dict.fromkeys(["Invert", "Solarize", "Posterize", "Brightness"], Work.LOOK_UP),
    "Contrast": Work.CONTRAST,
    "AutoContrast": Work.STRETCH,
    "Equalize": Work.EQUALIZE,
    "Color": Work.COLOUR,
    "Sharpness": Work.SHARPEN,
    "Cutout": Work.FILL,
}
_WORK_OF_KIND = np.array([_WORK[name] for name in OPERATIONS], np.int64)
_FIXED = 65536
_PLACES_LIMIT = 64 << 20  # bytes of precomputed places kept for a table
_PIECE_BYTES = 192 << 10  # of images that a CPU changes at a time, so that their floats stay in its cache


class StepTable:
    """The steps that a set of policies can take, prepared for images of one size on one device."""

    def __init__(self, steps: Sequence[tuple[str, float]], height: int, width: int, device: torch.device) -> None:
        self.kinds = np.array([KINDS[name] for name, _ in steps], np.int64)
        self.height, self.width = height, width
        values = np.array([value for _, value in steps], np.float64)
        geometric = np.flatnonzero(GROUP_OF_KIND[self.kinds] == GEOMETRY)
        numbers = np.where(self.kinds == KINDS["Cutout"], values * width, values)
        self.sides = numbers  # float64 [steps], of cutouts in pixels, on the CPU where the squares are drawn
        self.numbers = torch.from_numpy(numbers.astype(np.float32)).to(device)  # float32 [steps]
        fixed = np.flatnonzero((self.kinds >= KINDS["Invert"]) & (self.kinds <= KINDS["Brightness"]))
        self.fixed = _fixed_tables(self.kinds[fixed], values[fixed]).to(device)  # uint8 [fixed steps, 256]
        self.rows = np.zeros(len(steps), np.int64)  # of a geometric step in coefficients and places, a fixed in fixed
        self.rows[fixed] = np.arange(len(fixed))
        self.rows[geometric] = np.arange(len(geometric))
        coefficients = [_affine(*steps[index], height, width) for index in geometric.tolist()]
        self.coefficients = torch.tensor(coefficients, dtype=torch.int32).view(-1, 6).to(device)

    @cached_property
    def places(self) -> tuple[Tensor, Tensor] | None:
        """What `_places` says of all geometric steps; None where that would be too much to keep."""
        small = len(self.coefficients) * self.height * self.width * 9 <= _PLACES_LIMIT
        return _places(self.coefficients, self.height, self.width) if small else None

    def places_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What `_places` says of these geometric steps."""
        if self.places is None:
            return _places(self.coefficients[rows], self.height, self.width)
        return self.places[0].index_select(0, rows), self.places[1].index_select(0, rows)

    @cached_property
    def compiled(self) -> Steps:
        """The same for the compiled kernel; of a table on the CPU."""
        return Steps(
            works=_WORK_OF_KIND[self.kinds],
            rows=self.rows,
            factors=self.numbers.numpy(),
            sides=self.sides,
            coefficients=self.coefficients.numpy(),
            tables=self.fixed.numpy(),
        )


def _fixed_tables(kinds: np.ndarray, values: np.ndarray) -> Tensor:
    """What the steps that need no look at the image make of each value: uint8 [steps, 256]."""
    levels = np.arange(256)
    solarized = np.where(levels < values[:, None], levels, 255 - levels)  # [steps, 256]
    lost = np.where(kinds == KINDS["Posterize"], 8 - values.astype(np.int64), 0)[:, None]
    factors = torch.from_numpy(values.astype(np.float32)).view(-1, 1)
    brighter = torch.arange(256, dtype=torch.float32).mul(factors).clamp_(0, 255).to(torch.uint8).numpy()
    tables = np.select(
        [(kinds == KINDS[name])[:, None] for name in ("Invert", "Solarize", "Posterize")],
        [255 - levels, solarized, levels >> lost << lost],
        brighter,
    )
    return torch.from_numpy(tables.astype(np.uint8))


def _affine(name: str, value: float, height: int, width: int) -> tuple[int, ...]:
    """Pillow's fixed-point coefficients: source x = (c0 x + c1 y + c2) / 65536 rounded down, y with c3, c4, c5."""
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    if name == "ShearX":
        b = value
    elif name == "ShearY":
        d = value
    elif name == "TranslateX":  # Pillow has exact code for pure shifts
        return (_FIXED, 0, math.floor(value * width + 0.5) * _FIXED, 0, _FIXED, 0)
    elif name == "TranslateY":
        return (_FIXED, 0, 0, 0, _FIXED, math.floor(value * height + 0.5) * _FIXED)
    else:
        angle = -math.radians(value % 360.0)
        a = e = round(math.cos(angle), 15)
        b, d = round(math.sin(angle), 15), round(-math.sin(angle), 15)
        c = a * (-width / 2) + b * (-height / 2) + width / 2
        f = d * (-width / 2) + e * (-height / 2) + height / 2
    # Pillow samples at the pixels' centres.
    exact = (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)
    return tuple(math.floor(number * _FIXED + 0.5) for number in exact)


def _places(coefficients: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from, for int32 coefficients [steps, 6].

    Two tensors [steps, height * width]: int64, the index of the source pixel; uint8, 255
    where that lies inside the image and 0 where not (the index is then any).
    """
    x = torch.arange(width, dtype=torch.int32, device=coefficients.device)
    y = torch.arange(height, dtype=torch.int32, device=coefficients.device)[:, None]
    c = coefficients[:, :, None, None]
    columns = (c[:, 0] * x + c[:, 1] * y + c[:, 2]) >> 16  # [steps, height, width]
    rows = (c[:, 3] * x + c[:, 4] * y + c[:, 5]) >> 16
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    places = rows.clamp_(0, height - 1).mul_(width).add_(columns.clamp_(0, width - 1))
    return places.flatten(1).long(), inside.to(torch.uint8).neg_().flatten(1)


def run_steps(images: Tensor, table: StepTable, taken: np.ndarray, steps: np.ndarray, centres: np.ndarray) -> None:
    """Change images in place: image `taken[i]` by step `steps[i]` of the table, in the order of `i` for each image.

    images: uint8 [batch, 1 or 3 channels, height, width], contiguous. taken, steps: int64
    [entries]; centres: float [entries, 2], where a cutout lies (x, y as shares of the
    image's sides). Entries of different images may be in any order.
    """
    if images.shape[1] not in _COLOURS:
        raise ValueError(f"images with {images.shape[1]} channels: the operations are for 1 or 3")
    if images.device.type == "cpu" and available():
        run_policies(images, table.compiled, taken, steps, centres, _COLOURS[images.shape[1]])
    else:
        _run_groups(images, table, taken, steps, centres)


def _run_groups(images: Tensor, table: StepTable, taken: np.ndarray, steps: np.ndarray, centres: np.ndarray) -> None:
    """`run_steps` by torch, on any device."""
    kinds = table.kinds[steps]
    order, bounds = _arrange(taken, kinds)
    # One transfer for everything that the device needs to know.
    orders = np.stack([taken[order], steps[order], table.rows[steps[order]]])
    orders_there = torch.from_numpy(orders).to(images.device)
    whole = _as_words(images)
    at_a_time = max(1, _PIECE_BYTES // max(1, images[0].numel())) if images.device.type == "cpu" else len(images)
    for begin, end, group in bounds:
        for start in range(begin, end, at_a_time):
            stop = min(end, start + at_a_time)
            where, step, row = orders_there[:, start:stop]
            piece = whole.index_select(0, where).view(torch.uint8).view(-1, *images.shape[1:])
            counts = np.bincount(kinds[order[start:stop]], minlength=len(OPERATIONS))
            if group == GEOMETRY:
                changed = _move(piece, *table.places_of(row))
            elif group == LOOK_UP:
                changed = _look_up(piece, table.fixed, row, table.numbers[step], counts)
            elif group == BLEND:
                changed = _blend(piece, table.numbers[step], int(counts[KINDS["Color"]]))
            else:
                drawn = order[start:stop]
                changed = _fill(piece, _corners(centres[drawn], table.sides[steps[drawn]], images.shape))
            whole[where] = _as_words(changed)


def _as_words(images: Tensor) -> Tensor:
    """The same bytes as [batch, words], of 8 bytes where that divides an image: 8 times less to index."""
    flat = images.flatten(1)
    return flat.view(torch.int64) if flat.shape[1] % 8 == 0 else flat


def _arrange(taken: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Sort entries so that as few groups as possible run: the order, and (start, stop, group) of each run.

    The groups are run in sweeps, each in the order of their numbers. An image's next
    step belongs to the same sweep if its group comes later than that of the last one.
    """
    groups = GROUP_OF_KIND[kinds]
    by_image = np.argsort(taken, kind="stable")
    same_image = np.diff(taken[by_image], prepend=-1) == 0
    back = same_image & (np.diff(groups[by_image], prepend=-1) <= 0)
    total = np.cumsum(back)
    first = np.maximum.accumulate(np.where(same_image, 0, np.arange(len(taken))))
    sweeps = np.empty_like(taken)
    sweeps[by_image] = total - total[first]
    key = sweeps * len(OPERATIONS) + kinds
    order = np.argsort(key, kind="stable")
    run = (sweeps * len(OPERATIONS) + groups)[order]
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    stops = np.append(starts[1:], len(run))
    return order, list(zip(starts.tolist(), stops.tolist(), groups[order[starts]].tolist(), strict=True))


def _move(images: Tensor, places: Tensor, inside: Tensor) -> Tensor:
    """Take every pixel from its place, black where that lies outside (`StepTable.places_of`)."""
    flat = images.flatten(2)
    moved = flat.gather(2, places[:, None].expand(flat.shape))
    return moved.bitwise_and_(inside[:, None]).view(images.shape)


def _look_up(images: Tensor, fixed: Tensor, rows: Tensor, factors: Tensor, counts: np.ndarray) -> Tensor:
    """Operations that make the same of every pixel of the same value: a table of 256 values for each plane.

    `counts` [operations] images of each operation, in the order of `OPERATIONS`; fixed: tables that need no look at
    the image, and rows [batch] which of them; factors: [batch].
    """
    batch, channels = images.shape[:2]
    values = images.flatten(2).long()  # [batch, channels, pixels]
    tables = torch.empty(batch, channels, 256, dtype=torch.uint8, device=images.device)
    ends = np.cumsum(counts)
    ready, contrast, stretched, last = (
        int(ends[KINDS[n]]) for n in ("Brightness", "Contrast", "AutoContrast", "Equalize")
    )
    if ready:
        tables[:ready] = fixed.index_select(0, rows[:ready])[:, None]
    if ready < contrast:
        tables[ready:contrast] = _contrast(images[ready:contrast], factors[ready:contrast])[:, None]
    if contrast < last:
        planes = images[contrast:].flatten(2).flatten(0, 1)
        low, high = planes.amin(1, keepdim=True), planes.amax(1, keepdim=True)  # faster than aminmax
        split = (stretched - contrast) * channels
        if split:
            tables[contrast:stretched] = _stretch(low[:split].double(), high[:split].double()).view(-1, channels, 256)
        if stretched < last:
            equal = _equalize(values[stretched:].flatten(0, 1), high[split:].long())
            tables[stretched:] = equal.view(-1, channels, 256)
    return tables.gather(2, values).view(images.shape)


def _contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Tables uint8 [batch, 256]: mean + factor * (value - mean), where the mean is that of the grey image, rounded."""
    mean = luma(images.float()).mean((1, 2, 3), dtype=torch.float64).add_(0.5).floor_().float()[:, None]
    levels = torch.arange(256, dtype=torch.float32, device=images.device)
    return (levels - mean).mul_(factors[:, None]).add_(mean).clamp_(0, 255).to(torch.uint8)


def _stretch(low: Tensor, high: Tensor) -> Tensor:
    """Tables uint8 [planes, 256] by which `low` [planes, 1] becomes 0 and `high` 255; in float64 as Pillow's."""
    spread = high - low
    plain = spread == 0
    # Not 255.0 / spread, which torch computes as 255.0 * (1 / spread).
    scale = torch.full_like(spread, 255.0).div_(spread).masked_fill_(plain, 1.0)
    offset = (-low * scale).masked_fill_(plain, 0.0)
    values = torch.arange(256, dtype=torch.float64, device=low.device)
    return (values * scale).add_(offset).clamp_(0, 255).to(torch.uint8)


def _equalize(planes: Tensor, high: Tensor) -> Tensor:
    """Tables uint8 [planes, 256] that spread the histogram evenly over 0..255, in integers as Pillow's."""
    histogram = torch.zeros(planes.shape[0], 256, dtype=torch.int32, device=planes.device)
    histogram.scatter_add_(1, planes, torch.ones(planes.shape, dtype=torch.int32, device=planes.device))
    last = histogram.gather(1, high)  # how many have the largest value
    step = (planes.shape[1] - last) // 255  # [planes, 1]
    before = histogram.cumsum(1, dtype=torch.int32).sub_(histogram).add_(step // 2)
    # Whole numbers below 2^22 in float32: the quotient, cut off, is that of whole numbers.
    tables = before.float().div_(step.clamp(min=1)).clamp_(max=255).to(torch.int16)
    return torch.where(step == 0, torch.arange(256, dtype=torch.int16, device=planes.device), tables).to(torch.uint8)


def _blend(images: Tensor, factors: Tensor, coloured: int) -> Tensor:
    """other + factor * (image - other), truncated.

    The other image is the grey one for the first `coloured` images (Color), the smoothed one for the rest (Sharpness).
    """
    values = images.float()
    other = torch.empty_like(values)
    if coloured:
        other[:coloured] = luma(values[:coloured])
    if coloured < len(images):
        _smooth(images[coloured:], other[coloured:])
    values.sub_(other).mul_(factors.view(-1, 1, 1, 1)).add_(other)
    return values.to(torch.int16).clamp_(0, 255).to(torch.uint8)  # by way of int16: three times faster


def luma(values: Tensor) -> Tensor:
    """Pillow's grey of float images with whole values: [n, channels, height, width] -> [n, 1, height, width]."""
    if values.shape[1] == 1:
        return values
    # Whole numbers below 2^24 throughout, so float32 is exact.
    total = values[:, 0] * LUMA[0] + values[:, 1] * LUMA[1] + values[:, 2] * LUMA[2]
    return total.add_(_FIXED // 2).mul_(1 / _FIXED).floor_()[:, None]


def _smooth(images: Tensor, out: Tensor) -> None:
    """Pillow's SMOOTH filter, rounded: a 3 x 3 mean in which the centre counts 5 of 13; the border stays.

    images: uint8 [n, channels, height, width]; out: float32 of the same shape.
    """
    # Sums over the whole tensor as one line of values, which run on from row to row and from
    # image to image: what they make of the borders is replaced.
    width = images.shape[3]
    line = images.to(torch.int16).flatten()
    columns = line[: -2 * width] + line[width:-width] + line[2 * width :]
    total = columns[:-2] + columns[1:-1] + columns[2:]
    total.add_(line[width + 1 : -width - 1], alpha=4)
    inner = out.view(-1)[width + 1 : -width - 1]
    inner.copy_(total).mul_(1 / 13).add_(0.5).floor_()
    for dim in (2, 3):
        out.select(dim, 0).copy_(images.select(dim, 0))
        out.select(dim, -1).copy_(images.select(dim, -1))


def _corners(centres: np.ndarray, side: np.ndarray, shape: torch.Size) -> Tensor:
    """First and last column, first and last row of each square: int64 [n, 4]; last < first where there is none."""
    height, width = shape[2:]
    x0 = np.maximum(0, centres[:, 0] * width - side / 2).astype(np.int64)
    y0 = np.maximum(0, centres[:, 1] * height - side / 2).astype(np.int64)
    x1 = np.minimum(width, x0 + side).astype(np.int64)  # ImageDraw fills to the last one, inclusive
    y1 = np.minimum(height, y0 + side).astype(np.int64)
    return torch.from_numpy(np.stack([x0, np.where(side > 0, x1, -1), y0, y1], 1))


def _fill(images: Tensor, corners: Tensor) -> Tensor:
    corners = corners.to(images.device)[:, :, None]
    x = torch.arange(images.shape[3], device=images.device)
    y = torch.arange(images.shape[2], device=images.device)
    columns = ((x >= corners[:, 0]) & (x <= corners[:, 1])).to(torch.uint8).neg_()  # [n, width], 255 inside
    rows = ((y >= corners[:, 2]) & (y <= corners[:, 3])).to(torch.uint8).neg_()
    square = (rows[:, :, None] & columns[:, None, :])[:, None]  # [n, 1, height, width]
    fill = torch.from_numpy(_COLOURS[images.shape[1]]).to(images.device).view(1, -1, 1, 1)
    return images.bitwise_xor(fill).bitwise_and_(square).bitwise_xor_(images)
