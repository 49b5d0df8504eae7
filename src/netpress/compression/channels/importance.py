"""How much a channel matters: by the magnitude of its weights, or by how much the loss would change without it.

    magnitude    the mean over the layers of a group of the sum of w**2 over the weights that go with the channel
    taylor       the same of |w * g|, g the gradient of the loss, summed over images (Molchanov et al., CVPR 2019)

Both are divided by their mean over the group, so that groups of all sizes can be ranked together. These are the
formulas of Torch-Pruning (`GroupMagnitudeImportance`, `GroupTaylorImportance` at their defaults), with what those leave
out: depthwise convolutions, norms in `taylor`, and which group of a grouped convolution reads a channel. The package
also takes the gradient as it finds it; here it is the sum over all batches.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from netpress.compression.channels.structure import Axis, ChannelGroup
from netpress.data import Images, normalize
from netpress.errors import Failure
from netpress.network import Network
from netpress.network.edits.narrowing import is_depthwise, sizes_of
from netpress.network.selection import used_weights


def magnitudes(network: Network) -> dict[str, Tensor]:
    """w**2 of every parameter, by name, in float64 on the CPU; of a cosine layer w is the directions."""
    return {name: weight.cpu().double() ** 2 for name, weight in used_weights(network.module).items()}


def taylor_terms(network: Network, images: Images, batch_size: int, device: torch.device) -> dict[str, Tensor]:
    """|w * g| of every parameter, by name, in float64 on the CPU; g: gradient of the summed cross-entropy of `images`.

    The network is in evaluation mode and is left as it was. Raises Failure where a gradient is not finite.
    """
    module = copy.deepcopy(network.module).to(device).eval()
    parameters = {name: weight.requires_grad_(True) for name, weight in module.named_parameters()}
    for pixels, labels in zip(images.images.split(batch_size), images.labels.split(batch_size), strict=True):
        logits = module(normalize(pixels.to(device), network.input.mean, network.input.std))
        functional.cross_entropy(logits.float(), labels.to(device), reduction="sum").backward()  # adds to .grad
    terms = {}
    for name, weight in parameters.items():
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        if not bool(gradient.isfinite().all()):
            raise Failure(f"{name}: the gradient of the loss is not finite, so no importance can be told")
        terms[name] = (weight.detach().cpu().double() * gradient.cpu().double()).abs()
    return terms


def rank_units(module: nn.Module, groups: Sequence[ChannelGroup], terms: Mapping[str, Tensor]) -> list[Tensor]:
    """The importance of each unit of each group, float64 [units]: the mean over its channels.

    `terms` has what each weight counts, by parameter name. 1 is the mean of a group; all are 0 where nothing counts.
    """
    ranked = []
    for group in groups:
        channels = torch.zeros(group.count, dtype=torch.float64)
        layers = 0
        for axis in group.axes:
            weight = terms.get(f"{axis.layer}.weight" if axis.layer else "weight")
            if weight is not None:
                along = _along(axis, module.get_submodule(axis.layer), weight)
                channels.index_add_(0, axis.channels, along[axis.positions])
                layers += 1
        channels /= max(1, layers)
        mean = channels.mean()
        channels = channels / mean if mean > 0 else channels
        units = torch.zeros(len(group.sizes), dtype=torch.float64).index_add_(0, group.units, channels)
        ranked.append(units / group.sizes)
    return ranked


def _along(axis: Axis, layer: nn.Module, weight: Tensor) -> Tensor:
    """What the weights of a layer count, summed for each position of one of its sides."""
    if weight.dim() == 1 or axis.side == "outputs" or is_depthwise(layer):
        return weight.reshape(len(weight), -1).sum(1)
    groups = sizes_of(layer).groups
    # [outputs, inputs / groups, ...] -> [groups, inputs / groups]: each group reads inputs of its own
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).sum((1, 3)).flatten()
