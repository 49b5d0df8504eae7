"""Keep pruned weights at zero while the others train."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from netpress.errors import Failure
from netpress.network import Network
from netpress.training.part import Part


class MaskHolder(Part):
    """Multiplies the gradients and the weights of masked parameters by their masks, all tensors in one call.

    With the gradient masked, neither momentum nor a regularizer gathers anything at a masked weight. With the weight
    masked too, decay and rounding cannot revive it.
    """

    def __init__(self, network: Network) -> None:
        parameters = dict(network.module.named_parameters())
        unknown = sorted(network.masks.keys() - parameters.keys())
        if unknown:
            raise Failure(f"the network has masks for parameters that it does not have: {', '.join(unknown[:3])}")
        self.names = list(network.masks)
        self.parameters: list[nn.Parameter] = [parameters[name] for name in self.names]
        # Floats in the parameter's own layout: bool masks and strange strides take the slow path of _foreach.
        self.factors: list[Tensor] = [
            torch.empty_like(parameters[name]).detach().copy_(mask) for name, mask in network.masks.items()
        ]

    def after_backward(self) -> None:
        self.mask_gradients()

    def after_move(self) -> None:
        self.mask_weights()

    @torch.no_grad()
    def mask_weights(self) -> None:
        if self.parameters:
            torch._foreach_mul_([parameter.data for parameter in self.parameters], self.factors)

    @torch.no_grad()
    def mask_copies(self, tensors: Mapping[str, Tensor]) -> None:
        """Set to zero what the masks remove of other tensors, by the parameters' names: of averaged weights."""
        if self.names:
            torch._foreach_mul_([tensors[name] for name in self.names], self.factors)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        held = [(p.grad, f) for p, f in zip(self.parameters, self.factors, strict=True) if p.grad is not None]
        if held:
            torch._foreach_mul_([gradient for gradient, _ in held], [factor for _, factor in held])
