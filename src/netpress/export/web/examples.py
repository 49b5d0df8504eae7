"""An example of each class, small enough for a page: test images, stored so that the network still knows them.

examples = choose_examples(network, program, dataset.test)
examples.tiles[0].file      # of a small PNG or WebP
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from netpress.data import Images, normalize
from netpress.data.pixels import PixelRules, read_images
from netpress.data.stored import Pixels
from netpress.evaluation import best_class
from netpress.network import Network
from netpress.program import Program, execute

ROOM = 12_000, 48_000
"""Bytes that all tiles together may take, at least and at most."""
QUALITIES = (95, 90, 85, 80, 70, 60, 50, 45, 40, 35, 30)  # of WebP, of the network's own size
SMALLER = (64, 48, 32, 24)  # pixels, of which tiles are where that does not suffice
TRIES = 20  # images of a class that are looked at
_BATCH = 50  # images that the reference computes at once


@dataclass(frozen=True)
class Form:
    """How a tile is stored: a PNG of the network's own pixels, or a WebP that loses some, of a side in pixels."""

    side: int
    quality: int | None
    """Of WebP, 0 to 100; None for PNG."""

    @property
    def kind(self) -> str:
        return "png" if self.quality is None else "webp"


@dataclass(frozen=True)
class Tile:
    """One example."""

    place: int
    """Of its class."""
    file: bytes
    """PNG or WebP."""


@dataclass(frozen=True)
class Examples:
    """What a page shows of the classes."""

    tiles: Sequence[Tile]
    missed: int
    """Classes of whose first images the network answers none right; the first stands there."""
    form: Form
    lossy: bool
    """Whether the tiles are not the test images' very pixels."""


def choose_examples(network: Network, program: Program, test: Images, rules: PixelRules, room: int) -> Examples:
    """The first test image of each class that the network answers right, as it is stored; else its first test image.

    rules: how the network's images are read; a tile that is smaller than they are is resized as any other image.
    room: bytes that the tiles may take together, within the bounds of ROOM.
    """
    room = min(max(room, ROOM[0]), ROOM[1])
    places = [(test.labels == place).nonzero().flatten()[:TRIES].tolist() for place in range(len(network.classes))]
    left = [place for place, images in enumerate(places) if images]
    form = _choose_form(test.images[[places[place][0] for place in left]], room)
    first: dict[int, bytes] = {}
    right: dict[int, bytes] = {}
    for attempt in range(TRIES):
        left = [place for place in left if place not in right and attempt < len(places[place])]
        if not left:
            break
        files = [_store(test.images[places[place][attempt]], form) for place in left]
        answers = best_class(answer(network, program, _read(files, rules))).tolist()
        for place, file, found in zip(left, files, answers, strict=True):
            first.setdefault(place, file)
            if found == place:
                right[place] = file
    tiles = [Tile(place, right.get(place, file)) for place, file in sorted(first.items())]
    return Examples(tiles, len(first) - len(right), form, form != Form(rules.size, None))


def answer(network: Network, program: Program, images: Pixels) -> Tensor:
    """The logits of uint8 images [count, channels, height, width], by the reference: [count, classes]."""
    spec = network.input
    with torch.inference_mode():
        batches = [execute(program, normalize(batch, spec.mean, spec.std)) for batch in images.split(_BATCH)]
    return torch.cat(batches)


def _choose_form(images: Tensor, room: int) -> Form:
    """The best form in which these take no more bytes than `room`; the smallest one where none does."""
    side = images.shape[-1]
    forms = [Form(side, None), *(Form(side, quality) for quality in QUALITIES)]
    forms += [Form(small, quality) for small in SMALLER if small < side for quality in (80, 50, 30)]
    for form in forms:
        if sum(len(_store(image, form)) for image in images) <= room:
            return form
    return forms[-1]


def _store(image: Tensor, form: Form) -> bytes:
    """The file of one image, uint8 [channels, height, width]."""
    values = image[0] if len(image) == 1 or bool((image == image[:1]).all()) else image.permute(1, 2, 0)
    picture = Image.fromarray(values.contiguous().numpy())
    if picture.width != form.side:
        picture = picture.resize((form.side, form.side), Image.Resampling.BOX)
    file = BytesIO()
    if form.quality is None:
        picture.save(file, "png", optimize=True)
    else:
        picture.convert("RGB").save(file, "webp", quality=form.quality, method=6)
    return file.getvalue()


def _read(files: Sequence[bytes], rules: PixelRules) -> Tensor:
    """What enters the network of these files: uint8 [count, channels, size, size]."""
    values = np.empty((len(files), rules.channels, rules.size, rules.size), np.uint8)
    problems = [
        fact
        for fact in read_images(files, list(values), replace(rules, reduced_decoding=False))
        if isinstance(fact, str)
    ]
    assert not problems, problems
    return torch.from_numpy(values)
