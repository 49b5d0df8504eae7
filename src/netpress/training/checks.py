"""What a training needs of its settings, its network and its data, told before the long work."""

from netpress.data import Dataset
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
    settings.loss.check(network)
    if settings.orthogonality is not None:
        penalised_weights(network.module, settings.orthogonality)


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
