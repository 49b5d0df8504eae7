"""The embedded data set: 1,797 handwritten digits of 8 x 8 pixels.

Source: UCI Machine Learning Repository, Optical Recognition of Handwritten Digits
(E. Alpaydin, C. Kaynak, 1998), the part that scikit-learn distributes; see digits.txt
beside digits.npz for licence and format.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from netpress.data.division import divide, divide_source
from netpress.data.images import Divided, Images, Source, draw_stratified
from netpress.data.settings import DATASETS, DEFAULT_SIZE, DatasetReader, DataSettings, Survey
from netpress.errors import Failure
from netpress.process.console import Console

TEST_IMAGES = 300
SMALLEST = 4  # pixels: what a survey reads them at
_BLOCK = 128  # images whose 64-bit values are held at a time
_SPLIT_SEED = 0  # fixed: the test set is the same for every run


def read_digits(size: int) -> Source:
    """The digits, enlarged to `size` pixels, as 3 equal channels; 1,497 for training and 300 for the test.

    Three channels, since every family of models and every augmentation takes colour
    images by default, and 1,797 of them cost 5 MB.
    """
    try:
        with (
            files("netpress.data").joinpath("digits.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as data,
        ):
            small, classes = data["images"], data["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"the embedded digits cannot be read ({error}); install netpress again") from error
    gray = torch.from_numpy(enlarge(small, size))  # [n, size, size]
    labels = torch.from_numpy(classes.astype(np.int64))
    whole = Images(gray[:, None].expand(-1, 3, -1, -1), labels)
    test, train = draw_stratified(labels, TEST_IMAGES, _SPLIT_SEED, "digits")
    return Source(whole.take(train), whole.take(test), tuple(str(digit) for digit in range(10)))


def enlarge(small: np.ndarray, size: int) -> np.ndarray:
    """Bilinear interpolation of uint8 images [n, 8, 8] with values 0..16 to uint8 [n, size, size] of 0..255.

    In integers, so that every machine gets the same bits: a pixel's centre lies at a
    multiple of 1 / (2 size) of the small image's pixels.
    """
    side = small.shape[1]
    unit = 2 * size
    centre = np.clip((2 * np.arange(size) + 1) * side - size, 0, (side - 1) * unit)
    low = np.minimum(centre // unit, side - 2)
    weights = np.zeros((size, side), np.int64)
    weights[np.arange(size), low + 1] = centre - low * unit
    weights[np.arange(size), low] = unit - (centre - low * unit)
    enlarged = np.empty((len(small), size, size), np.uint8)
    for start in range(0, len(small), _BLOCK):
        block = small[start : start + _BLOCK].astype(np.int64)
        scaled = weights @ block @ weights.T * 255  # [block, size, size], in units of 1 / (16 unit^2)
        enlarged[start : start + _BLOCK] = (2 * scaled + 16 * unit**2) // (32 * unit**2)
    return enlarged


def _read(settings: DataSettings, folder: Path | None, seed: int, console: Console) -> Divided:
    return divide_source(read_digits(settings.image_size or DEFAULT_SIZE), settings, seed)


def _survey(settings: DataSettings, folder: Path | None, seed: int) -> Survey:
    source = read_digits(SMALLEST)
    train, _ = divide(settings, source.train.labels, seed)
    side = settings.image_size or DEFAULT_SIZE
    return Survey(settings.dataset, len(train), 3, side, len(source.classes), source.classes)


DATASETS.add(
    "digits",
    DatasetReader("1,797 handwritten digits that come with netpress, 10 classes", _read, _survey, embedded=True),
)
