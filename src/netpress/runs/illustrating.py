"""Pictures of what a run learns from, for its page: images of each class, as the network sees them and as augmented.

They are drawn once, when the run begins, from the training images alone. They change nothing of the run: what is drawn
at random is drawn for them alone.
"""

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from netpress.data import AugmentSettings, Dataset, augment
from netpress.data.sheets import choose_size, draw_sheet
from netpress.errors import UserError
from netpress.files import atomic_write
from netpress.folders.run import RunFolder
from netpress.process.devices import generator_for
from netpress.recipe.schema import Recipe
from netpress.settings import Settings
from netpress.stage import stage_name
from netpress.training import TrainSettings

BUDGET = 300_000  # bytes of a sheet; a page holds two, and those of mistakes
MOST_CLASSES = 120


def illustrate(run: RunFolder, recipe: Recipe, dataset: Dataset) -> None:
    """Draw the sheets of examples into the run's folder, unless they are there.

    A row a class, the first MOST_CLASSES of them; `examples.json`, which is written last, says what they show.
    """
    if run.examples.exists() or not len(dataset.train):
        return
    chosen, side, columns = _choose(dataset)
    places = torch.cat([_fill(one, columns) for one in chosen])
    images = dataset.train.images[places]
    facts = {
        "classes": list(dataset.classes[: len(chosen)]),
        "shown": [len(one) for one in chosen],
        "of": dataset.count,
        "side": side,
        "size": list(images.shape[1:]),
    }
    atomic_write(run.picture("examples"), draw_sheet(images, columns, side))
    found = first_training(recipe.stages)
    if found is not None:
        changed = _augmented(images, found[1].augment, recipe.seed)
        if changed is not None:
            atomic_write(run.picture("augmented"), draw_sheet(changed, columns, side))
            facts["augmented_in"] = found[0]
    atomic_write(run.examples, json.dumps(facts, indent=1))


def first_training(stages: Sequence[Settings]) -> tuple[str, TrainSettings] | None:
    """The first training of a run, by the name of its stage: a stage of its own, or one that a stage trains with."""
    for index, stage in enumerate(stages):
        for settings in (stage, *(getattr(stage, name) for name in type(stage).model_fields)):
            if isinstance(settings, TrainSettings):
                return stage_name(index, stage), settings
    return None


def _choose(dataset: Dataset) -> tuple[list[Tensor], int, int]:
    """Places of training images to show of each class, evenly spaced in it; and the sheet's side and images a row."""
    labels, images = dataset.train.labels, dataset.train.images
    members = [(labels == number).nonzero()[:, 0] for number in range(min(dataset.count, MOST_CLASSES))]
    sample = torch.cat([one[:1] for one in members])
    side, columns = choose_size(images[sample if len(sample) else slice(1)], len(members), BUDGET)
    return [_spread(one, columns) for one in members], side, columns


def _spread(members: Tensor, most: int) -> Tensor:
    count = min(most, len(members))
    return members[torch.arange(count) * len(members) // max(1, count)]


def _fill(places: Tensor, columns: int) -> Tensor:
    """So many places as a row has; what is too much is not shown."""
    if not len(places):
        return torch.zeros(columns, dtype=torch.int64)
    return places[torch.arange(columns).clamp(max=len(places) - 1)]


def _augmented(images: Tensor, settings: AugmentSettings, seed: int) -> Tensor | None:
    """The images as a training may see them; None where a policy's file is not there any more."""
    copies = torch.arange(len(images)) % settings.passes if settings.passes > 1 else None
    try:
        return augment(images, settings, generator_for(seed, "pictures"), copies)
    except UserError:  # of a run that was begun by an earlier version: what trains has been refused before
        return None
