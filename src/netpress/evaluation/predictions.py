"""The class that a network gives to each test image, kept in a small file beside the true one.

    save_predictions(predictions_of(measured, data.test, data.classes, data.name), run.predictions)
    read_predictions(run.predictions).by_class()

From these follow the accuracy of each class, and which images two networks answer differently: that alone says
whether one is better by more than chance. CIFAR's 10,000 test images take 21 kB.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from netpress.data import Images
from netpress.data.stored import Pixels, byte_blocks
from netpress.errors import Failure
from netpress.evaluation.accuracy import Evaluation, count_by_class
from netpress.files import atomic_write, require_file

KEY = "predictions"
_SMALLEST = ((1 << 8, torch.uint8), (1 << 15, torch.int16), (1 << 31, torch.int32))  # classes, the type that holds them


@dataclass(frozen=True)
class Predictions:
    """What a network says of the test images, in their order."""

    dataset: str
    classes: tuple[str, ...]
    images: str
    """SHA-256 of the images' pixels: two networks that have it in common answered the same images."""
    predicted: Tensor
    """The most likely class of each image: int64 [images]."""
    labels: Tensor
    """The class that it is of: int64 [images]."""

    @property
    def accuracy(self) -> float:
        """The share of images whose most likely class is right."""
        return int((self.predicted == self.labels).sum()) / max(1, len(self.labels))

    def by_class(self) -> tuple[Tensor, Tensor]:
        """Images right and images of each class: int64 [classes] both."""
        return count_by_class(self.predicted, self.labels, len(self.classes))


def predictions_of(measured: Evaluation, images: Images, classes: tuple[str, ...], dataset: str) -> Predictions:
    """The predictions of an evaluation on these `images`, whose labels are in the order of `classes`."""
    return Predictions(dataset, classes, _sha256(images.images), measured.predicted.cpu(), measured.labels.cpu())


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Write a safetensors file of two tensors, as narrow as the number of classes allows; the rest is its metadata."""
    count = len(predictions.classes)
    dtype = next(dtype for limit, dtype in _SMALLEST if count <= limit)
    tensors = {name: getattr(predictions, name).to(dtype).contiguous() for name in ("predicted", "labels")}
    values = {"dataset": predictions.dataset, "classes": predictions.classes, "images": predictions.images}
    atomic_write(path, safetensors.torch.save(tensors, {KEY: json.dumps(values)}))


def read_predictions(path: Path) -> Predictions:
    """The predictions in a file that `save_predictions` wrote. Raises Failure where it is damaged."""
    require_file(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})[KEY])
            predicted, labels = (file.get_tensor(name).long() for name in ("predicted", "labels"))
        classes = tuple(map(str, values["classes"]))
        if predicted.ndim != 1 or predicted.shape != labels.shape:
            raise ValueError("it has not one label an image")
        for tensor in (predicted, labels):
            if len(tensor) and not 0 <= int(tensor.min()) <= int(tensor.max()) < len(classes):
                raise ValueError("it names classes that are not there")
        return Predictions(str(values["dataset"]), classes, str(values["images"]), predicted, labels)
    except (safetensors.SafetensorError, LookupError, ValueError, TypeError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Failure(
            f"{path}: damaged ({reason}); delete it, and `netpress run` on its folder writes it anew"
        ) from None


def _sha256(pixels: Pixels) -> str:
    """Of uint8 [count, channels, height, width], the shape with it."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    for block in byte_blocks(pixels):
        digest.update(block)
    return digest.hexdigest()
