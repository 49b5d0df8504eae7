"""Which images an epoch passes over, and in which batches."""

from torch import Tensor

from netpress.data import shuffled_batches
from netpress.process.devices import generator_for
from netpress.stage import Context
from netpress.training.settings import TrainSettings


def epoch_batches(settings: TrainSettings, context: Context, drawn: tuple[int, int]) -> list[Tensor]:
    """The batches of indices of the epoch with the draws of this round and epoch.

    Numbers run over all copies of the images, as each copy has transforms of its own. A last batch of one image is left
    out: norms cannot learn from it.
    """
    generator = generator_for(context.seed, context.name, *drawn, "order")
    labels = context.data.train.labels.repeat(settings.augment.passes)
    balanced = labels if settings.sampling == "balanced" else None
    batches = shuffled_batches(len(labels), settings.batch_size, generator, balanced=balanced)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def epoch_images(settings: TrainSettings, context: Context) -> int:
    """How many images an epoch passes over."""
    count = len(context.data.train.labels) * settings.augment.passes
    last = count % settings.batch_size or settings.batch_size
    return count - 1 if last == 1 and count > settings.batch_size else count
