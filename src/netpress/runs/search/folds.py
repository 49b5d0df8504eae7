"""The folds of a policy search: which images each sets apart, and the network that never saw them.

Only training images come here. Of a run's validation and test images nothing is known in this file: the images that a
fold sets apart are training images.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from netpress.data import AugmentSettings, Dataset, Images
from netpress.data.dataset import channel_statistics
from netpress.data.images import draw_stratified
from netpress.errors import UserError
from netpress.evaluation import Evaluation, evaluate
from netpress.folders.policy_search import PolicySearchFolder
from netpress.network import Library, Network, copy
from netpress.process.console import Console
from netpress.process.devices import seed_for
from netpress.process.world import World
from netpress.recipe.policy_schema import PolicySearch
from netpress.recipe.schema import Recipe
from netpress.runs.beginning import create_for
from netpress.runs.pipeline import run_stage
from netpress.settings import Settings
from netpress.stage import Context, stage_name
from netpress.training.settings import TrainSettings


@dataclass(frozen=True)
class Fold:
    """A trained network and images that it has not learned from."""

    number: int
    network: Network
    judged: Images
    """Those of the fold's images that judge candidates, on the device."""
    plain: Evaluation
    """What the network makes of them as they are."""


@dataclass(frozen=True)
class FoldWork:
    """What the folds of one search have in common."""

    recipe: Recipe
    search: PolicySearch
    images: Images
    """The training images of the recipe's run."""
    classes: tuple[str, ...]
    name: str
    """Of the data set."""
    folder: PolicySearchFolder
    library: Library
    device: torch.device
    console: Console
    save_every_seconds: float

    def make(self, number: int) -> Fold:
        """Train the network of fold `number`, from 0, or read it where it was trained before."""
        held = split_folds(self.images.labels, self.search.folds, self.recipe.seed)
        rest = torch.cat([part for other, part in enumerate(held) if other != number]).sort().values
        learned, apart = self.images.take(rest), self.images.take(held[number])
        mean, std = channel_statistics(learned.images)
        # The fold's own images stand for all that a training may look at; there are no others.
        data = Dataset(self.name, learned, apart, apart.take(torch.arange(0)), self.classes, mean, std, checksum="")
        network = initial = create_for(data, self.recipe.model_table, seed=self.recipe.seed)
        for place, stage in enumerate(fold_stages(self.recipe)):
            name = stage_name(place, stage)
            context = Context(
                folder=self.folder.stage(number, name).path,
                world=World(self.device),
                seed=seed_for(self.recipe.seed, "policy", "fold", number, place),
                console=self.console,
                dataset=data,
                initial=initial,
                save_every_seconds=self.save_every_seconds,
                name=f"fold {number + 1}/{name}",
                library=self.library,
            )
            network = run_stage(copy(network), stage, context)
        judged = self._choose(apart, number).to(self.device)
        return Fold(number, network, judged, evaluate(network, judged, device=self.device))

    def _choose(self, apart: Images, number: int) -> Images:
        count = self.search.images
        if count is None or count >= len(apart):
            return apart
        drawn, _ = draw_stratified(apart.labels, count, seed_for(self.recipe.seed, "policy", "judges"), str(number))
        return apart.take(drawn)


def split_folds(labels: Tensor, folds: int, seed: int) -> list[Tensor]:
    """Indices of the images of each fold: every image in one of them, every class with its share in each.

    labels: int64 [images]. Raises UserError where there are fewer images than folds.
    """
    if len(labels) < folds:
        raise UserError(f"policy_search.folds: {folds} folds of {len(labels)} images")
    left, parts = torch.arange(len(labels)), []
    for fold in range(folds):
        count = len(left) // (folds - fold)
        drawn, rest = draw_stratified(labels[left], count, seed, f"fold {fold}")
        parts.append(left[drawn])
        left = left[rest]
    return parts


def fold_stages(recipe: Recipe) -> list[Settings]:
    """The stages of `recipe` up to its first training, which learns without a policy and keeps its last weights.

    Raises UserError for a recipe without one, and for one whose network has learned from these images before.
    """
    if recipe.networks:
        raise UserError(f"{recipe.name}: a policy is looked for with one network, and this is a chain of several")
    if recipe.model_table.network is not None:
        raise UserError(
            f"{recipe.name}: begins with a network that may have learned from all the images; a policy is looked for "
            "with one that has not seen a fold: name a family in [model]"
        )
    for place, stage in enumerate(recipe.stages):
        if isinstance(stage, TrainSettings):
            # Choosing the best epoch would choose by the images that judge.
            changes: dict[str, Any] = {
                "augment": _without_policy(stage.augment),
                "keep": "last",
                "early_stopping": None,
                "evaluate_every": stage.epochs,
            }
            return [*recipe.stages[:place], stage.model_copy(update=changes)]
    raise UserError(f"{recipe.name}: no stage trains; a policy is looked for with a network that a `train` stage makes")


def _without_policy(settings: AugmentSettings) -> AugmentSettings:
    if settings.copies is not None:
        return settings.model_copy(update={"copies": tuple(_without_policy(part) for part in settings.copies)})
    return settings.model_copy(update={"policy": "none", "combine": "mixed"})
