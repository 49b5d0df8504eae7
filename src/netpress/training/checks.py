"""What a training needs of its settings, its network and its data, told before the long work."""

from collections.abc import Sequence

import torch

from netpress.data import Dataset, shrink
from netpress.errors import UserError
from netpress.network import FILES, Library, Network
from netpress.training.regularizers import penalised_weights
from netpress.training.settings import TrainSettings


def check_training(network: Network, settings: TrainSettings, images: int | None = None) -> None:
    """Raise UserError for settings that do not fit the network or so many training images.

    Policy files are read, so that a wrong one is named.
    """
    if images is not None and images < 2:
        raise UserError(f"the data leaves {images} images to train on; at least 2 are needed")
    side = min(network.input.height, network.input.width)
    for place, part in settings.augment.parts.items():
        if part.crop >= side:
            raise UserError(f"augment.{place}crop: {part.crop} pixels around images of {side}: some would be blank")
        part.read_policies()
    check_sizes(network, settings.sizes)
    settings.loss.check(network)
    if settings.orthogonality is not None:
        penalised_weights(network.module, settings.orthogonality)


def check_sizes(network: Network, sizes: Sequence[int]) -> None:
    """Raise UserError where the network cannot take images of one of these sides, or they are no reduction."""
    channels, height, width = network.input.size
    shorter = min(height, width)
    module, training = network.module, network.module.training
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    for size in sorted(set(sizes)):
        if size > shorter:
            raise UserError(f"sizes: {size} pixels; the network's own images have {shorter}, and are only reduced")
        images = shrink(torch.zeros(1, channels, height, width), size).to(device)
        try:
            with torch.no_grad():
                answered = module.eval()(images).shape
        except Exception as error:  # a user's own module may raise anything
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"sizes: the network cannot take images of {size} pixels ({reason})") from error
        finally:
            module.train(training)
        if answered != (1, len(network.classes)):
            raise UserError(
                f"sizes: of images of {size} pixels the network makes {list(answered)}, not one row of logits"
            )


def check_teaching(network: Network, settings: TrainSettings, own_teacher: bool, library: Library = FILES) -> None:
    """Raise UserError, building nothing, where the loss lacks a teacher or names one that does not fit the network.

    `own_teacher` says that the stage has a teacher where the settings name none.
    """
    settings.loss.check_teachers(network, own_teacher, library)
    if settings.distillation is not None:
        settings.distillation.check_teachers(network, own_teacher, library)


def check_data(network: Network, settings: TrainSettings, data: Dataset) -> None:
    """Raise UserError where the network, the settings and the data do not fit together."""
    channels, height, width = network.input.size
    if data.train.images.shape[1:] != network.input.size:
        size = "x".join(str(length) for length in data.train.images.shape[1:])
        raise UserError(f"{data.name} has images of {size}, the network takes {channels}x{height}x{width}")
    if len(data.classes) != len(network.classes):
        raise UserError(f"{data.name} has {len(data.classes)} classes, the network {len(network.classes)}")
    check_training(network, settings, len(data.train))
