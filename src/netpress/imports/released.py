"""What every import does: released tensors are compared with a family's, and become a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netpress.errors import Failure
from netpress.models.registry import ModelChoice, choose_model
from netpress.network import Architecture, InputSpec, Network

LARGEST_FILE = 1 << 28  # bytes; the released ones have 0.6 to 8 million


@dataclass(frozen=True)
class ReleasedWeights:
    """A released network in our names: `choose_model(family, values=settings)` builds it, `state` fits it.

    `masks` has bool tensors for pruned weights, True where they are not zero.
    Images go in as (pixel / 255 - mean) / std; `classes` are those of `dataset`, in the order of its labels.
    """

    family: str
    settings: dict[str, Any]
    state: dict[str, Tensor]
    masks: dict[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    dataset: str

    def as_network(self, path: Path | str) -> Network:
        """The network, ready to evaluate, score, prune or save; it remembers the name of the file at `path`."""
        choice = choose_model(self.family, values=self.settings)
        with torch.device("meta"):
            module = choice.build()
        module.load_state_dict(self.state, assign=True)
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        settings = choice.settings
        spec = InputSpec(settings.channels, settings.image_size, settings.image_size, self.mean, self.std)
        architecture = Architecture(self.family, self.settings)
        facts = {"imported_from": Path(path).name, "dataset": self.dataset}
        return Network(module.eval(), architecture, spec, self.classes, masks=self.masks, facts=facts)


def kinds_of(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Shape and type of every tensor, as text: `float32 [8, 3, 3, 3]`."""
    return {name: f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for name, tensor in state.items()}


def kinds_in(choice: ModelChoice) -> dict[str, str]:
    """Shape and type of every tensor of a model, without building its values."""
    with torch.device("meta"):
        return kinds_of(choice.build().state_dict())


def first_difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """The first name, by the alphabet, whose kind is not as expected; None where all are."""
    names = sorted(expected.keys() | found.keys())
    return next((name for name in names if expected.get(name) != found.get(name)), None)


def check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise Failure for a tensor with NaN or infinite values, or with variances below zero."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise Failure(f"{path}: damaged: {name} has values that are not finite")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise Failure(f"{path}: damaged: {name} has variances below zero")
