"""The weights that KAIST's team released in 2019, as networks.

    netpress import kaist FILE.t7 --out NETWORK

Their repository is Kthyeon/micronet_neurips_challenge (MIT).
A `.t7` file is one dict of tensors by name, in torch's pickle format of before 2020. First a check looks for what the
file could call or allocate. Then torch's restricted unpickler reads it, which builds tensors and plain containers only.
Pruned weights are zeros; the file has masks too, which say the same once more.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netpress.data.pickle_programs import CONTAINERS, read_program
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
from netpress.models.registry import choose_model
from netpress.network import Network

FAMILY = "c_efficientnet"
PRESETS = ("released-v1", "released-v2")
# How their code normalizes CIFAR-100.
MEAN = (0.5071, 0.4865, 0.4409)
STD = (0.2673, 0.2564, 0.2762)
# Their names of a block's layers, and ours.
_STEM = {"conv1": "stem.conv", "bn1": "stem.norm", "linear": "classifier"}
_BLOCK = {
    "conv1": "expand.conv",
    "bn1": "expand.norm",
    "conv2": "depthwise.conv",
    "bn2": "depthwise.norm",
    "conv3": "project.conv",
    "bn3": "project.norm",
    "shortcut.0": "shortcut.conv",
    "shortcut.1": "shortcut.norm",
    "fc1": "squeeze_excite.reduce",
    "fc2": "squeeze_excite.expand",
}


def import_kaist(path: Path | str) -> Network:
    """The network in one of KAIST's released `.t7` files, ready to evaluate, score, prune on or save.

    Its stride-2 blocks keep the gates that are computed and not applied, as released; its masks are its
    non-zero weights. Raises UserError or Failure as `read_released` does.
    """
    return read_released(path).as_network(path)


def read_released(path: Path | str) -> ReleasedWeights:
    """Read one of KAIST's released `.t7` files.

    Raises UserError if it is not one (missing, another format, other layers), Failure if it is damaged.
    """
    path = Path(path)
    tensors = _read_tensors(path)
    masks = {name.removesuffix(".mask"): tensors.pop(name) for name in list(tensors) if name.endswith(".mask")}
    state = {_rename(path, name): tensor for name, tensor in tensors.items()}
    if len(state) != len(tensors):
        raise UserError(f"{path}: two tensors of this file would have the same name")
    settings = _settings_that_fit(path, state)
    for name, mask in masks.items():
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.shape != mask.shape or bool((weight[mask == 0] != 0).any()):
            raise Failure(f"{path}: damaged: the mask of {name} does not agree with its weights")
    nonzeros = {name: tensor != 0 for name, tensor in state.items() if tensor.dim() > 1}
    return ReleasedWeights(FAMILY, settings, state, nonzeros, MEAN, STD, CIFAR100_CLASSES, "cifar100")


_PERSISTENT = CONTAINERS | {"BINPERSID"}  # how tensors name their storages
_NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
_STORAGES = {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "Long", "Int", "Short", "Byte", "Bool")}
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.serialization.MAGIC_NUMBER, pickled: how it begins
_MOST_BYTES = 1 << 30  # that the storages may come to; the released files' 4 million, counted as here, are 105 million


def check_archive(data: bytes) -> None:
    """Raise ValueError unless `data` is an archive of torch's old format that cannot take much of time or memory.

    It is five pickles (a magic number, a version, the writer's machine, the tensors, the storages' names) and then the
    storages' bytes. Storages are allocated as large as the fourth says, before their bytes are looked at.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("no archive of torch's format of before 2020")
    place = len(_MAGIC)
    for part in ("version", "machine", "tensors", "storages"):
        tensors = part == "tensors"
        program = read_program(data, place, _PERSISTENT if tensors else CONTAINERS)
        place = program.end
        if unknown := program.names - (_NAMES | _STORAGES if tensors else set()):
            raise ValueError(f"it names {min(unknown)}, which is no tensor")
        if tensors and 8 * program.largest * program.counts.get("BINPERSID", 0) > _MOST_BYTES:
            raise ValueError("its tensors may be larger than any of a released network")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    data = read_file(path, LARGEST_FILE)
    try:
        check_archive(data)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises many kinds for damaged bytes
        reason = str(error).strip().split("\n")[0]
        raise Failure(f"{path}: not one of KAIST's released .t7 files, or a damaged one ({reason})") from error
    if not isinstance(loaded, Mapping) or not loaded:
        raise UserError(f"{path}: it holds no named tensors, so it is not one of KAIST's released .t7 files")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{path}: {name!r} is not a tensor, so it is not one of KAIST's released .t7 files")
    check_values(path, loaded)
    return {name: tensor.detach().contiguous() for name, tensor in loaded.items()}


def _rename(path: Path, name: str) -> str:
    """`layers.3.bn2.running_mean` -> `blocks.3.depthwise.norm.running_mean`."""
    layer, _, tensor = name.rpartition(".")
    first, _, rest = layer.partition(".")
    index, _, part = rest.partition(".")
    if first == "layers" and index.isdigit() and part in _BLOCK:
        return f"blocks.{index}.{_BLOCK[part]}.{tensor}"
    if layer in _STEM:
        return f"{_STEM[layer]}.{tensor}"
    raise UserError(f"{path}: {name} is no tensor of KAIST's released networks")


def _settings_that_fit(path: Path, state: Mapping[str, Tensor]) -> dict[str, Any]:
    found = kinds_of(state)
    differences = []
    for preset in PRESETS:
        choice = choose_model(FAMILY, [preset], {"classes": 100})
        expected = kinds_in(choice)
        name = first_difference(expected, found)
        if name is None:
            return choice.settings.model_dump(mode="json")
        differences.append(f"{preset} has {expected.get(name, 'no')} {name}, the file {found.get(name, 'none')}")
    raise UserError(f"{path}: not one of KAIST's released networks: {'; '.join(differences)}")


_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(_CIFAR100_NAMES.split())
