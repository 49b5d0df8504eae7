"""The weights that IMT Atlantique's course released in 2022, as networks.

    netpress import imt nano.safetensors --out NETWORK

Their repository is mm0806son/ai-optim: kuangliu's DenseNet in four sizes, trained on CIFAR-10 by distillation.
The file has the tensors of one of their checkpoints, under the names that they have there, as safetensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from netpress.errors import Failure, UserError
from netpress.files import read_file
from netpress.imports.released import (
    LARGEST_FILE,
    ReleasedWeights,
    check_values,
    first_difference,
    kinds_in,
    kinds_of,
)
from netpress.models.densenet import PRESETS, Place
from netpress.models.registry import choose_model
from netpress.network import Network

FAMILY = "densenet"
SIZES = ("cifar", "small", "tiny", "nano")
BLOCKS = (6, 12, 24, 16)  # bottlenecks in each of their dense blocks
# How their code normalizes CIFAR-10.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# A first convolution at each place; its inputs, as a multiple of the growth, tell its groups (the stem's: 3 colours).
_PLACES: dict[str, tuple[Place, int]] = {
    "dense1.0.conv1.weight": ("bottleneck1", 2),
    "dense1.0.conv2.weight": ("bottleneck2", 4),
    "trans1.conv.weight": ("transition", 2 + BLOCKS[0]),
}
_BOTTLENECK = {"bn1": "norm1", "conv1": "conv1", "bn2": "norm2", "conv2": "conv2"}
_TRANSITION = {"bn": "norm", "conv": "conv"}


def import_imt(path: Path | str) -> Network:
    """The network in a safetensors file of IMT's tensors, ready to evaluate, score, prune or save.

    Weights that have zeros get masks: the others. They chose their checkpoints on the test images.
    Raises UserError or Failure as `read_released` does.
    """
    return read_released(path).as_network(path)


def read_released(path: Path | str) -> ReleasedWeights:
    """Read a safetensors file of IMT's tensors, of any of the four sizes, with grouped convolutions or without.

    Raises UserError if it is not one (missing, other tensors, other shapes), Failure if it is damaged.
    """
    path = Path(path)
    tensors = _read_tensors(path)
    names = _our_names()
    if unknown := sorted(name for name in tensors if name.rpartition(".")[0] not in names):
        raise UserError(f"{path}: {unknown[0]} is no tensor of IMT's released networks")
    settings = _settings_that_fit(path, tensors, {ours: theirs for theirs, ours in names.items()})
    check_values(path, tensors)
    state = {_rename(name, names): tensor for name, tensor in tensors.items()}
    masks = {name: tensor != 0 for name, tensor in state.items() if tensor.dim() > 1 and bool((tensor == 0).any())}
    return ReleasedWeights(FAMILY, settings, state, masks, MEAN, STD, CIFAR10_CLASSES, "cifar10")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    data = read_file(path, LARGEST_FILE)
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the reader raises many kinds for damaged bytes
        reason = " ".join(str(error).split())
        raise Failure(f"{path}: not a safetensors file, or a damaged one ({reason})") from error
    if not tensors:
        raise UserError(f"{path}: it holds no tensors, so it is not one of IMT's released networks")
    return tensors


def _our_names() -> dict[str, str]:
    """Their name of every layer, and ours: `dense2.0.bn1` is `blocks.7.norm1`."""
    names = {"conv1": "stem", "bn": "norm", "linear": "classifier"}
    place = 0
    for dense, count in enumerate(BLOCKS):
        if dense:
            names |= {f"trans{dense}.{theirs}": f"blocks.{place}.{ours}" for theirs, ours in _TRANSITION.items()}
            place += 1
        for index in range(count):
            prefix = f"dense{dense + 1}.{index}"
            names |= {f"{prefix}.{theirs}": f"blocks.{place}.{ours}" for theirs, ours in _BOTTLENECK.items()}
            place += 1
    return names


def _rename(name: str, layers: Mapping[str, str]) -> str:
    layer, _, tensor = name.rpartition(".")
    return f"{layers[layer]}.{tensor}"


def _settings_that_fit(path: Path, tensors: Mapping[str, Tensor], their_names: Mapping[str, str]) -> dict[str, Any]:
    """Settings of the network with these shapes: its first convolution tells the size, others the groups."""
    stem = list(tensors["conv1.weight"].shape) if "conv1.weight" in tensors else []
    size = next((name for name in SIZES if stem[:1] == [2 * PRESETS[name]["growth"]]), None)
    if size is None:
        raise UserError(
            f"{path}: not one of IMT's released networks: its conv1.weight is {stem or 'missing'}, "
            f"and the first dimension tells the size ({', '.join(str(2 * PRESETS[name]['growth']) for name in SIZES)})"
        )
    choice = choose_model(FAMILY, [size], _grouping(path, tensors, PRESETS[size]["growth"]))
    try:
        expected = {_rename(name, their_names): kind for name, kind in kinds_in(choice).items()}
    except UserError as error:  # groups that do not divide the channels
        raise UserError(f"{path}: not one of IMT's released networks: {error}") from None
    found = kinds_of(tensors)
    name = first_difference(expected, found)
    if name is not None:
        raise UserError(
            f"{path}: not one of IMT's released networks: {size} has {expected.get(name, 'no')} {name}, "
            f"the file {found.get(name, 'none')}"
        )
    return choice.settings.model_dump(mode="json")


def _grouping(path: Path, tensors: Mapping[str, Tensor], growth: int) -> dict[str, Any]:
    """The settings `groups` and `grouped`, as the inputs of the first convolution at each place tell them."""
    inputs: dict[str, tuple[Place, int]] = {"conv1.weight": ("stem", 3)}
    inputs |= {name: (place, multiple * growth) for name, (place, multiple) in _PLACES.items()}
    groups: dict[str, int] = {}
    for name, (place, channels) in inputs.items():
        shape = tensors[name].shape if name in tensors else ()
        if len(shape) == 4 and 0 < shape[1] < channels and channels % shape[1] == 0:
            groups[place] = channels // shape[1]
    if len(set(groups.values())) > 1:
        places = ", ".join(f"{count} at the {place}" for place, count in groups.items())
        raise UserError(f"{path}: its convolutions have different numbers of groups ({places}); densenet has one")
    return {"groups": next(iter(groups.values())), "grouped": list(groups)} if groups else {}
