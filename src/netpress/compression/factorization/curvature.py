"""The curvature of the loss as EigenDamage needs it: Kronecker factors, and the diagonal in their eigenbasis.

Wang et al., "EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis" (ICML 2019, arXiv 1905.05934). For a
layer with weights W [rows, columns, height, width], inputs a and gradients g of its outputs, of one image:

    A = mean over images of sum over windows and their places of a a^T          [columns, columns]
    G = mean over images of mean over positions of g g^T                         [rows, rows]
    s = mean over images of (Q_G^T (dloss/dW) Q_A)^2, an element at a time       as W

A has one row a channel, not a channel and place, so that a k x k kernel turns as a whole (their `use_patch`). Labels
are sampled from what the network says, so that A x G and s are of the Fisher information and not of the data's errors.
The network is in evaluation mode: every image is by itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from netpress.data import Images, normalize
from netpress.errors import Failure
from netpress.evaluation.accuracy import evaluation_mode
from netpress.network import Network
from netpress.process.devices import generator_for

MOST_VALUES = 2**25  # of gradients of single images that are there at once: 128 MB


@dataclass(frozen=True)
class Curvature:
    """Of one layer: the Kronecker factors, their eigenvectors (in columns) and eigenvalues, and the diagonal.

    inputs [columns, columns], outputs [rows, rows], in float64; `diagonal` is of the weights' shape, in float32.
    """

    inputs: Tensor
    outputs: Tensor
    input_basis: Tensor
    output_basis: Tensor
    diagonal: Tensor

    def rotate(self, weight: Tensor) -> Tensor:
        """The weights in the eigenbasis, at each place of a kernel: Q_G^T W Q_A, float64."""
        return rotate(weight.double(), self.output_basis, self.input_basis)

    def importance(self, weight: Tensor) -> Tensor:
        """What the loss would grow by without each row and column's meeting, twice: [rows, columns], float64."""
        squared = self.diagonal.double() * self.rotate(weight).square()
        return squared.flatten(2).sum(2) if weight.dim() > 2 else squared


def measure_curvature(
    network: Network,
    layers: Mapping[str, nn.Conv2d | nn.Linear],
    images: Images,
    seed: int,
    *,
    frames: Mapping[str, Tensor] | None = None,
    batch_size: int = 64,
    device: torch.device | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> dict[str, Curvature]:
    """The curvature at each of `layers`, which are modules of the network, over all `images`, in two passes.

    Each layer is used once an image. Labels are drawn by `seed`. A layer with a frame F [outputs, rows], of orthonormal
    columns, is measured within it: at the weights w [rows, columns] of which the layer's own are F w. `tell` is told
    how many batches are done, each in both passes.
    Raises Failure where a gradient is not finite. Memory: besides activations of a batch, two values a weight and
    four matrices a layer.
    """
    device = device or next(network.module.parameters()).device
    network.module.to(device)
    batches = list(images.images.split(batch_size))

    def passes(number: int) -> Iterator[Tensor]:
        for index, batch in enumerate(batches):
            tell(number * len(batches) + index)
            yield normalize(batch.to(device), network.input.mean, network.input.std)

    with evaluation_mode(network.module):
        framed = frames or {}
        factors = {name: _Factors(layer, framed.get(name)) for name, layer in layers.items()}
        _watch(network.module, layers, factors, passes(0), generator_for(seed, "fisher", "factors"))
        diagonals = {name: _Diagonal(name, factors.pop(name), len(images)) for name in list(factors)}
        _watch(network.module, layers, diagonals, passes(1), generator_for(seed, "fisher", "diagonal"))
    tell(2 * len(batches))
    return {name: diagonal.result(len(images)) for name, diagonal in diagonals.items()}


class _Watcher:
    """What looks at a layer's inputs, then at the gradient of its outputs.

    `parts` is how many of its inputs make one image: more than 1 where a network cuts images into windows, say, and
    puts those of one image after another into the batch.
    """

    parts = 1

    def __init__(self, layer: nn.Conv2d | nn.Linear, frame: Tensor | None) -> None:
        self.layer = layer
        self.frame = None if frame is None else frame.to(layer.weight)

    def within(self, gradient: Tensor) -> Tensor:
        """The gradient of what the frame turns into the layer's outputs; where there is no frame, of these."""
        if self.frame is None:
            return gradient
        return _turn(gradient, self.frame) if isinstance(self.layer, nn.Conv2d) else gradient @ self.frame

    def see_inputs(self, x: Tensor) -> None:
        """x: [batch, ...]."""

    def see_gradient(self, gradient: Tensor) -> None:
        """Of each image's own loss: [batch, ...]."""


def _watch(
    module: nn.Module,
    layers: Mapping[str, nn.Module],
    watchers: Mapping[str, Any],
    batches: Iterator[Tensor],
    generator: torch.Generator,
) -> None:
    """Show every watcher its layer in a forward and backward pass over each batch, with sampled labels."""
    size = [0]
    with _hooks(layers, watchers, size):
        for pixels in batches:
            size[0] = len(pixels)
            pixels.requires_grad_(True)  # so that gradients flow whatever the network trains
            logits = module(pixels)
            labels = torch.multinomial(logits.detach().float().softmax(1).cpu(), 1, generator=generator)[:, 0]
            loss = functional.cross_entropy(logits.float(), labels.to(logits.device), reduction="sum")
            torch.autograd.grad(loss, pixels)  # of the pixels alone: weights' own gradients would be for nothing


@contextmanager
def _hooks(layers: Mapping[str, nn.Module], watchers: Mapping[str, Any], size: list[int]) -> Iterator[None]:
    """`size` holds the number of images in the batch that is on its way."""

    def hook_for(name: str, watcher: _Watcher) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            watcher.parts, left = divmod(len(inputs[0]), size[0])
            if left or not watcher.parts:
                raise Failure(f"{name}: {len(inputs[0])} inputs for {size[0]} images: whose they are cannot be told")
            watcher.see_inputs(inputs[0].detach())
            # A hook of the tensor, not of the module: it is right where an activation works in place.
            output.register_hook(watcher.see_gradient)

        return hook

    handles = [layer.register_forward_hook(hook_for(name, watchers[name])) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Factors(_Watcher):
    """Gathers the sums that A and G are the means of."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, frame: Tensor | None) -> None:
        super().__init__(layer, frame)
        rows, columns = layer.weight.shape[:2]
        rows = rows if frame is None else frame.shape[1]
        self.inputs = torch.zeros(columns, columns, dtype=torch.float64, device=layer.weight.device)
        self.outputs = torch.zeros(rows, rows, dtype=torch.float64, device=layer.weight.device)

    def see_inputs(self, x: Tensor) -> None:
        if isinstance(self.layer, nn.Conv2d):
            x = padded(self.layer, x)
            x = x * window_counts(self.layer, x).sqrt()
            x = x.movedim(1, -1)
        x = x.reshape(-1, x.shape[-1])
        self.inputs += (x.T @ x).double()

    def see_gradient(self, gradient: Tensor) -> None:
        gradient = self.within(gradient)
        positions = self.parts * gradient[0].numel() // self.outputs.shape[0]
        g = gradient.movedim(1, -1) if isinstance(self.layer, nn.Conv2d) else gradient
        g = g.reshape(-1, g.shape[-1])
        self.outputs += (g.T @ g).double() / positions


class _Diagonal(_Watcher):
    """Gathers squares of single images' gradients in the eigenbasis of A and G."""

    def __init__(self, name: str, sums: _Factors, images: int) -> None:
        super().__init__(sums.layer, sums.frame)
        layer = sums.layer
        self.inputs, self.outputs = sums.inputs / images, sums.outputs / images
        if not bool(torch.isfinite(self.inputs).all() & torch.isfinite(self.outputs).all()):
            raise Failure(f"{name}: its inputs or gradients are not finite, so that no curvature can be measured")
        self.input_basis = torch.linalg.eigh(self.inputs)[1]
        self.output_basis = torch.linalg.eigh(self.outputs)[1]
        self.bases = self.output_basis.to(layer.weight.dtype), self.input_basis.to(layer.weight.dtype)
        shape = (len(self.outputs), *layer.weight.shape[1:])
        self.squares = layer.weight.detach().new_zeros(shape)

    def see_inputs(self, x: Tensor) -> None:
        self.seen = x

    def see_gradient(self, gradient: Tensor) -> None:
        seen, gradient = self.seen, self.within(gradient)
        del self.seen
        of_rows, of_columns = self.bases
        per_image = self.parts * self.squares.numel()
        at_once = self.parts * max(1, MOST_VALUES // per_image)
        for x, g in zip(*(t.split(at_once) for t in (seen, gradient)), strict=True):
            if isinstance(self.layer, nn.Conv2d):
                # [batch, columns * places, positions] and [batch, rows, positions]
                x = _turn(padded(self.layer, x), of_columns)
                x, g = _unfold(self.layer, x), _turn(g, of_rows).flatten(2)
            else:
                x, g = ((t @ basis).flatten(1, -2) for t, basis in ((x[:, None], of_columns), (g[:, None], of_rows)))
                x, g = x.mT, g.mT  # [batch, columns, positions] and [batch, rows, positions]
            gradients = torch.bmm(g, x.mT)  # [batch, rows, columns * places]
            if self.parts > 1:
                gradients = gradients.unflatten(0, (-1, self.parts)).sum(1)
            self.squares += gradients.square_().sum(0).view(self.squares.shape)

    def result(self, images: int) -> Curvature:
        diagonal = self.squares.detach() / images
        return Curvature(self.inputs, self.outputs, self.input_basis, self.output_basis, diagonal)


def rotate(weight: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    """of_rows^T W of_columns at each place of a kernel; W is [rows, columns, ...]."""
    return torch.einsum("oi...,or,ic->rc...", weight, of_rows, of_columns)


def _turn(x: Tensor, basis: Tensor) -> Tensor:
    """The channels of x [batch, channels, height, width] in another basis."""
    return functional.conv2d(x, basis.T[:, :, None, None])


def padded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution's input with its padding around it, of whatever kind."""
    sides = list(layer._reversed_padding_repeated_twice)
    if not any(sides):
        return x
    return functional.pad(x, sides, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def window_counts(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """In how many windows each pixel of the padded input x stands: [1, 1, height, width]."""
    kernel = torch.ones(1, 1, *layer.kernel_size, dtype=x.dtype, device=x.device)
    with torch.enable_grad():
        ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device, requires_grad=True)
        windows = functional.conv2d(ones, kernel, stride=layer.stride, dilation=layer.dilation)
        (counts,) = torch.autograd.grad(windows.sum(), ones)
    return counts


def _unfold(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The windows of a padded input: [batch, columns * places, positions]."""
    if layer.kernel_size == (1, 1):
        return x[:, :, :: layer.stride[0], :: layer.stride[1]].flatten(2)
    return functional.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)


def layers_of(network: Network, names: Sequence[str]) -> dict[str, nn.Conv2d | nn.Linear]:
    """The modules of these names."""
    found: dict[str, nn.Conv2d | nn.Linear] = {}
    for name in names:
        layer = network.module.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        found[name] = layer
    return found
