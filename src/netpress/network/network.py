"""A network: a module with what is needed to build it again, feed it, count it and ship it.

    network = create("c_efficientnet", {"widths": "tiny", "classes": 10}, seed=1)
    network.edit(FoldNorms(pairs=(("stem.conv", "stem.norm"),)))     its structure changes by edits
    network.masks["stem.conv.weight"]                                which weights exist
    network.formats["stem.conv.weight"]                              how they are stored

`netpress.network.file` writes it to a file and reads it.
"""

import copy as copying
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netpress.data import DataRecord
from netpress.errors import Failure, UserError
from netpress.models.bounds import bounded_building
from netpress.models.registry import FAMILIES, IMPORTED
from netpress.network.edits import EDITS, Edit, replay
from netpress.network.formats import layer_formats
from netpress.numerics.block_masks import Pattern, is_whole
from netpress.process.devices import generator_for, seed_for
from netpress.settings import parse


@dataclass(frozen=True)
class InputSpec:
    """What the network eats: `channels` x `height` x `width`, as (pixel / 255 - mean) / std per channel."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


@dataclass
class Architecture:
    """How to build the module again: a family with its settings, then structural edits in order."""

    family: str
    settings: dict[str, Any]
    edits: list[dict[str, Any]] = field(default_factory=list)

    def add(self, edit: Edit) -> None:
        """Write down that `edit` comes after the others; two edits that one can say are one."""
        previous = self.edits[-1] if self.edits else None
        if previous is not None and previous.get("kind") in EDITS:
            joined = edit.joined(parse(EDITS[str(previous["kind"])], previous, "edits"))
            if joined is not None:
                self.edits[-1] = joined.model_dump(mode="json")
                return
        self.edits.append(edit.model_dump(mode="json"))


@dataclass
class Network:
    """A module with what is needed to rebuild, feed, count and ship it.

    `masks` maps a parameter's name to a bool tensor of its shape, True where the weight exists.
    `patterns` says of masks that were made in blocks how large these are (`netpress.numerics.block_masks`). It holds as
    long as the mask is made of whole blocks: see `whole_patterns`.
    `other_formats` maps tensors that no quantized layer owns to their number formats (absent: float32); `*` stands for
    all values that are computed in between.
    `facts` are figures measured on it, such as `accuracy` (a fraction) and `dataset`.
    `data` says which images it was made with and how they were divided; None where nobody knows.
    """

    module: nn.Module
    architecture: Architecture
    input: InputSpec
    classes: tuple[str, ...]
    masks: dict[str, Tensor] = field(default_factory=dict)
    patterns: dict[str, Pattern] = field(default_factory=dict)
    other_formats: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    data: DataRecord | None = None

    @property
    def formats(self) -> dict[str, dict[str, Any]]:
        """Every number format by name: those of the quantized layers (see `netpress.network.formats`), and others."""
        return layer_formats(self.module) | self.other_formats

    def whole_patterns(self) -> dict[str, Pattern]:
        """The blocks of the masks that cost one bit a block: those whose blocks are each wholly there or absent.

        A mask that lost its blocks, because weights in them or channels went, costs one bit a weight.
        """
        known = {name: pattern for name, pattern in self.patterns.items() if name in self.masks}
        return {name: pattern for name, pattern in known.items() if is_whole(self.masks[name], pattern)}

    def weights(self) -> dict[str, nn.Parameter]:
        """Parameters of more than one dimension: what pruning may touch and a mask may describe."""
        return {name: weight for name, weight in self.module.named_parameters() if weight.dim() > 1}

    def edit(self, edit: Edit) -> dict[str, int]:
        """Change the structure, in place, and record how: the module, its masks and its formats stay consistent.

        A mask follows its parameter, also to another name, and ends with it; so does a format. Returns the masks that
        ended: for each name, how many weights it had removed. Works on shapes as on values. Raises what `edit.apply`
        raises where it does not fit, and Failure, before anything changes, for a mask that fits no parameter.
        """
        check_masks(self)
        parameters, tensors = dict(self.module.named_parameters()), _tensors(self.module)
        edit.apply(self.module)
        self.architecture.add(edit)
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        masks, self.masks = self.masks, {}
        patterns, self.patterns = self.patterns, {}
        ended: dict[str, int] = {}
        for name, mask in masks.items():
            parameter = parameters[name]
            if id(parameter) in names and parameter.shape == mask.shape:
                self.masks[names[id(parameter)]] = mask
                if name in patterns:
                    self.patterns[names[id(parameter)]] = patterns[name]
            else:
                ended[name] = int((~mask).sum())
        self.other_formats = _moved_formats(self.other_formats, tensors, self.module)
        return ended


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _moved_formats(
    formats: dict[str, dict[str, Any]], before: dict[str, Tensor], module: nn.Module
) -> dict[str, dict[str, Any]]:
    """`formats` under the names that the tensors of `before` have now, without those that are gone or in a layer's."""
    names = {id(tensor): name for name, tensor in _tensors(module).items()}
    moved = {names.get(id(before[name])) if name in before else name: format for name, format in formats.items()}
    owned = layer_formats(module)
    return {name: format for name, format in moved.items() if name is not None and name not in owned}


def check_masks(network: Network) -> None:
    """Raise Failure, naming it, for a mask that belongs to no parameter of the network, or is not of its shape."""
    parameters = dict(network.module.named_parameters())
    for name, mask in network.masks.items():
        if name not in parameters:
            raise Failure(f"there is a mask for {name}, but the network has no such parameter")
        if parameters[name].shape != mask.shape:
            there, shape = tuple(parameters[name].shape), tuple(mask.shape)
            raise Failure(f"the mask for {name} is of shape {shape}, but the parameter of {there}")


def create(
    family: str,
    settings: dict[str, Any],
    *,
    classes: tuple[str, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    seed: int = 0,
    shapes: bool = False,
) -> Network:
    """A new network, in evaluation mode, with initial weights that depend on `seed` alone.

    With `shapes`, a built-in family's has shapes only. Raises SettingsError for settings that are not the family's,
    UserError for a network that would be too large and for names of classes that are not as many as the settings say.
    """
    entry = FAMILIES[family]
    parsed = parse(entry.settings, settings, "model")
    if family == IMPORTED or not shapes:
        if family != IMPORTED:
            entry.build_shapes(parsed)  # what is too large is found out before it is allocated
        with torch.random.fork_rng(devices=[]), bounded_building():
            torch.manual_seed(seed_for(seed, "build"))  # modules' own constructors draw from the global generator
            module = entry.build(parsed)
        entry.initialize(module, parsed, generator_for(seed, "initialize"))
    else:
        module = entry.build_shapes(parsed)
    channels = parsed.channels
    spec = InputSpec(
        channels, parsed.image_size, parsed.image_size, mean or (0.5,) * channels, std or (0.25,) * channels
    )
    names = classes or tuple(str(index) for index in range(parsed.classes))
    if len(names) != parsed.classes:
        raise UserError(f"model.classes: {parsed.classes}, but there are {len(names)} names of classes")
    return Network(module.eval(), Architecture(family, parsed.model_dump(mode="json")), spec, names)


def build(architecture: Architecture) -> nn.Module:
    """The module of an architecture, edits replayed, without weights (on the meta device where it can be)."""
    entry = FAMILIES[architecture.family]
    settings = parse(entry.settings, architecture.settings, "model")
    device = "cpu" if architecture.family == "import" else "meta"  # others' constructors may compute with values
    with torch.device(device):
        module = entry.build(settings)
        replay(module, architecture.edits)
    return module


def copy(network: Network) -> Network:
    """An independent copy: changing one leaves the other as it was."""
    return copying.deepcopy(network)


def check_finite(network: Network) -> None:
    """Raise Failure, naming the tensor, where weights or buffers are not finite numbers.

    Buffers of a user's own class may be infinite, as masks of an attention are, but not NaN.
    """
    buffers = dict(network.module.named_buffers())
    free = buffers if network.architecture.family == "import" else {}
    tensors: Iterable[tuple[str, Tensor]] = [*network.module.named_parameters(), *buffers.items()]
    for name, tensor in tensors:
        if tensor.is_floating_point() and not tensor.is_meta:
            wrong = tensor.detach().isnan() if name in free else ~tensor.detach().isfinite()
            if bool(wrong.any()):
                count = int(wrong.sum())
                raise Failure(f"{name}: {count:,} of its {tensor.numel():,} values are NaN or infinite")
