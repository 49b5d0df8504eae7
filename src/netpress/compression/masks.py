"""Masks: making them, joining them, and counting the weights that they leave.

A mask is a bool tensor of its parameter's shape, True where the weight exists. A network has its masks by parameter
name (`Network.masks`). `netpress.training.masking` keeps removed weights at zero in training;
`netpress.network.tensors` writes masks to the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from netpress.compression.magnitude import NO_PATTERNS
from netpress.errors import Failure, UserError
from netpress.network import Network
from netpress.network.selection import select, used_weights
from netpress.numerics.block_masks import BlockSize, Pattern, takes_blocks
from netpress.training.masking import MaskHolder

ALL = "all"


@dataclass(frozen=True)
class Density:
    """How full one tensor is: `nonzero` of its `weights` are not zero."""

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzero: int

    @property
    def sparsity(self) -> float:
        """Share of the weights that are zero."""
        return 1 - self.nonzero / self.weights if self.weights else 0.0


def select_weights(
    network: Network, layers: str | Sequence[str] = ALL, path: str = "layers"
) -> dict[str, nn.Parameter]:
    """The weight tensors that `layers` means (see `netpress.network.selection`), by parameter name, in order.

    "all" is every parameter of more than one dimension, whatever its layer calls it; a kind or a
    pattern takes the layers' own `weight`. Raises UserError where something matches nothing.
    """
    if layers == ALL or list(layers) == [ALL]:
        return network.weights()
    names = {f"{name}.weight" if name else "weight" for name, _ in select(network.module, layers, path)}
    return {name: weight for name, weight in network.weights().items() if name in names}


def select_ranked(network: Network, layers: str | Sequence[str] = ALL) -> dict[str, Tensor]:
    """What the magnitudes of the weights that `layers` means are ranked by: as `select_weights`, but of a cosine layer
    the directions (see `used_weights`). Zeros are in the same places.
    """
    used = used_weights(network.module)
    return {name: used[name] for name in select_weights(network, layers)}


def select_patterns(
    network: Network, layers: str | Sequence[str] = ALL, pattern: BlockSize | None = None
) -> dict[str, Pattern]:
    """The blocks of the selected weights, where `pattern` gives blocks of [outputs, inputs], as their tensors lie.

    Others are pruned one weight at a time: those narrower than a block, and those of one input an output, such as
    depthwise kernels. Raises UserError where a layer pattern matches nothing, or leaves no weight with blocks.
    """
    weights = select_weights(network, layers)
    if pattern is None:
        return {}
    turned = {
        f"{name}.weight" if name else "weight"
        for name, part in network.module.named_modules(remove_duplicate=False)
        if isinstance(part, _ConvTransposeNd)  # whose tensor has its inputs first
    }
    patterns = {}
    for name, weight in weights.items():
        outputs, inputs = pattern
        own = (inputs, outputs) if name in turned else (outputs, inputs)
        if takes_blocks(weight.shape, own):
            patterns[name] = own
    if not patterns:
        raise UserError(
            f"pattern = {list(pattern)}: every selected weight is narrower than such a block, or has one input an "
            "output, as depthwise kernels have"
        )
    return patterns


def merge_masks(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A weight exists where both say so; a tensor that only one of them knows follows that one."""
    both = dict(first)
    for name, mask in second.items():
        both[name] = both[name].to(mask.device) & mask if name in both else mask
    return both


def add_masks(
    network: Network, masks: Mapping[str, Tensor], patterns: Mapping[str, Pattern] = NO_PATTERNS
) -> list[str]:
    """Merge `masks` into the network's own and set the weights that they remove to zero, in place.

    `patterns` are the blocks that they were made in. Returns the tensors whose masks have none all the same, because
    weights inside the blocks were removed before. Masks live on the CPU. Raises Failure for a mask whose name or shape
    no parameter has.
    """
    parameters = network.weights()
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            shape = tuple(parameters[name].shape) if name in parameters else "no such weight"
            raise Failure(f"a mask for {name} of shape {tuple(mask.shape)}, but the network has {shape}")
    network.masks = merge_masks(network.masks, {name: mask.cpu() for name, mask in masks.items()})
    network.patterns |= patterns
    apply_masks(network)
    return sorted(patterns.keys() - network.whole_patterns().keys())


def apply_masks(network: Network) -> None:
    """Set every weight that the network's masks remove to zero, in place."""
    MaskHolder(network).mask_weights()


def masks_from_zeros(network: Network) -> dict[str, Tensor]:
    """Masks that make a network's zeros permanent, for one pruned elsewhere: tensors without zeros have none."""
    masks = {name: (weight.detach() != 0).cpu() for name, weight in network.weights().items()}
    return {name: mask for name, mask in masks.items() if not bool(mask.all())}


def densities(network: Network, layers: str | Sequence[str] = ALL) -> list[Density]:
    """One row for each selected weight tensor, in order, counted from the weights as they are."""
    weights = select_weights(network, layers)
    return [
        Density(name, tuple(weight.shape), weight.numel(), _count_nonzero(weight, network.masks.get(name)))
        for name, weight in weights.items()
    ]


def _count_nonzero(weight: Tensor, mask: Tensor | None) -> int:
    if weight.is_meta:  # shapes only: what no mask removes is there
        return weight.numel() if mask is None else int(mask.sum())
    return int(weight.detach().count_nonzero())


def total_density(rows: Sequence[Density]) -> Density:
    """All rows taken together."""
    return Density("total", (), sum(row.weights for row in rows), sum(row.nonzero for row in rows))
