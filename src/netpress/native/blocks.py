"""Passes of an inverted residual in training, on pointers to tensors: those of blocks.h, with arguments checked."""

import ctypes
import math
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from netpress.native.library import library

LANES = 16
"""Channels that are padded come in multiples of this; see `pad`."""

LARGEST_KERNEL = 7

ACTIVATIONS = ("hard_swish", "swish", "relu")
"""By their numbers in blocks.h."""

_WORTH_A_THREAD = 1 << 22
"""Multiplications in a block, for which waking one more thread is worth it; on a busy machine it may come late."""

_SIZES = """
images height width inputs inputs_padded inside outputs outputs_padded
kernel stride padding padding_more activation out_height out_width threads
"""
_POINTERS = """
x mean widen widen_start widen_turned depthwise centre factor offset by_value constant narrow narrow_turned
image_factor image_offset image_gate image_pooled by_row shortcut
gradient middle middle_gradient narrowed out products sums image_sums
"""


class _Block(ctypes.Structure):
    """`struct block` of blocks.h."""

    _fields_ = [(name, ctypes.c_long) for name in _SIZES.split()] + [
        (name, ctypes.c_void_p) for name in _POINTERS.split()
    ]


_INPUT, _RESULT = "images height width inputs", "images out_height out_width outputs"
_MIDDLE, _NARROWED = "images out_height out_width inside", "images out_height out_width outputs_padded"
# The passes in their order, each with the sizes of its arrays.
_PASSES = {
    "moments": {"x": _INPUT, "sums": "inputs_and_one inputs_padded"},
    "widen": {
        "x": _INPUT,
        "mean": "inputs_padded",
        "widen": "inputs inside",
        "widen_start": "inside",
        "depthwise": "taps inside",
        "middle": _MIDDLE,
        "sums": "two inside",
    },
    "squeeze": {"middle": _MIDDLE, "factor": "inside", "offset": "inside", "image_sums": "images inside"},
    "narrow": {
        "middle": _MIDDLE,
        "factor": "inside",
        "offset": "inside",
        "image_gate": "images inside",
        "narrow": "inside outputs_padded",
        "narrowed": _NARROWED,
        "sums": "two outputs_padded",
        "image_sums": "images outputs_padded",
    },
    "finish": {
        "narrowed": _NARROWED,
        "image_factor": "images outputs_padded",
        "image_offset": "images outputs_padded",
        "shortcut": _RESULT,
        "out": _RESULT,
    },
    "finish_backward": {
        "gradient": _RESULT,
        "narrowed": _NARROWED,
        "centre": "outputs_padded",
        "image_sums": "two images outputs_padded",
    },
    "gate_backward": {
        "gradient": _RESULT,
        "narrowed": _NARROWED,
        "image_factor": "images outputs_padded",
        "image_offset": "images outputs_padded",
        "by_value": "outputs_padded",
        "narrow_turned": "outputs inside",
        "middle": _MIDDLE,
        "factor": "inside",
        "offset": "inside",
        "image_gate": "images inside",
        "products": "outputs inside",
        "image_sums": "images inside",
    },
    "narrow_backward": {
        "gradient": _RESULT,
        "narrowed": _NARROWED,
        "image_factor": "images outputs_padded",
        "image_offset": "images outputs_padded",
        "by_value": "outputs_padded",
        "narrow_turned": "outputs inside",
        "middle": _MIDDLE,
        "factor": "inside",
        "offset": "inside",
        "centre": "inside",
        "image_gate": "images inside",
        "image_pooled": "images inside",
        "middle_gradient": _MIDDLE,
        "products": "outputs inside",
        "sums": "two inside",
    },
    "widen_backward": {
        "middle": _MIDDLE,
        "middle_gradient": _MIDDLE,
        "factor": "inside",
        "by_value": "inside",
        "constant": "inside",
        "x": _INPUT,
        "mean": "inputs_padded",
        "widen": "inputs inside",
        "widen_start": "inside",
        "widen_turned": "inside inputs_padded",
        "depthwise": "taps inside",
        "out": _INPUT,
        "products": "taps_and_inputs inside",
        "sums": "inside",
    },
    "input_backward": {
        "x": _INPUT,
        "by_row": "inputs inputs_padded",
        "constant": "inputs_padded",
        "shortcut": _INPUT,
        "out": _INPUT,
    },
}

_NUMBERS = {name: number for number, name in enumerate(_PASSES)}


def padded(channels: int) -> int:
    """`channels` rounded up to whole vectors."""
    return -(-channels // LANES) * LANES


def pad(values: Tensor) -> Tensor:
    """[..., channels] -> [..., padded(channels)], zeros at the end, dense."""
    missing = padded(values.shape[-1]) - values.shape[-1]
    return torch.nn.functional.pad(values, (0, missing)) if missing else values.contiguous()


@dataclass(frozen=True)
class InvertedResidual:
    """Sizes of one inverted residual and its images; each method is a pass over them, on all threads if it is large.

    All tensors are on the CPU and dense, images as [images, height, width, channels], and float32 but for sums, which
    are float64. `inside` is a multiple of LANES, as are inputs_padded and outputs_padded (see `pad`).
    There is `padding` on all sides, and below and right `padding_more` beyond it. `activation` is a number of
    ACTIVATIONS: hard-swish, x * sigmoid(x) or ReLU.
    Raises ValueError for a tensor of another size, MemoryError where none is left.
    """

    images: int
    height: int
    width: int
    inputs: int
    inside: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    padding_more: int = 0
    activation: int = 0

    def __post_init__(self) -> None:
        if self.kernel > LARGEST_KERNEL or self.padding + self.padding_more >= self.kernel or self.inside % LANES:
            raise ValueError(f"{self} has a kernel, a padding or a width that there are no passes for")

    @property
    def out_height(self) -> int:
        return (self.height + 2 * self.padding + self.padding_more - self.kernel) // self.stride + 1

    @property
    def out_width(self) -> int:
        return (self.width + 2 * self.padding + self.padding_more - self.kernel) // self.stride + 1

    def _threads(self) -> int:
        pixels = self.images * self.height * self.width
        multiplications = pixels * self.inside * (self.inputs + self.kernel**2) // self.stride
        return max(1, min(torch.get_num_threads(), self.images, multiplications // _WORTH_A_THREAD))

    def moments(self, x: Tensor) -> Tensor:
        """Sums [1 + inputs, inputs_padded] over all pixels, of their channels and of the products of these."""
        return self._run("moments", x=x)["sums"]

    def widen(self, x: Tensor, mean: Tensor, widen: Tensor, start: Tensor, depthwise: Tensor) -> tuple[Tensor, Tensor]:
        """Depthwise convolution of activation((x - mean) @ widen + start), and the sums of it and of its squares.

        mean: [inputs_padded], of x; widen: [inputs, inside]; start: [inside]; depthwise: [kernel * kernel, inside].
        Gives [images, out_height, out_width, inside] and [2, inside].
        """
        done = self._run("widen", x=x, mean=mean, widen=widen, widen_start=start, depthwise=depthwise)
        return done["middle"], done["sums"]

    def squeeze(self, middle: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
        """Each image's sums of activation(middle * factor + offset): [images, inside]; factor, offset: [inside]."""
        return self._run("squeeze", middle=middle, factor=factor, offset=offset)["image_sums"]

    def narrow(
        self, middle: Tensor, factor: Tensor, offset: Tensor, narrow: Tensor, gate: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(activation(middle * factor + offset) * gate) @ narrow; its sums for each image; over all, its sums and its
        squares'.

        factor, offset: [inside]; narrow: [inside, outputs_padded]; gate: [images, inside].
        Gives [images, out_height, out_width, outputs_padded], [images, outputs_padded] and [2, outputs_padded].
        """
        done = self._run("narrow", middle=middle, factor=factor, offset=offset, narrow=narrow, image_gate=gate)
        return done["narrowed"], done["image_sums"], done["sums"]

    def finish(self, narrowed: Tensor, factor: Tensor, offset: Tensor, shortcut: Tensor | None) -> Tensor:
        """narrowed * factor + offset + shortcut: [images, out_height, out_width, outputs].

        factor, offset: [images, outputs_padded]; shortcut: as the result.
        """
        return self._run("finish", narrowed=narrowed, image_factor=factor, image_offset=offset, shortcut=shortcut)[
            "out"
        ]

    def finish_backward(self, gradient: Tensor, narrowed: Tensor, mean: Tensor) -> Tensor:
        """Each image's sums of the gradient and of gradient * (narrowed - mean): [2, images, outputs_padded]."""
        return self._run("finish_backward", gradient=gradient, narrowed=narrowed, centre=mean)["image_sums"]

    def gate_backward(
        self,
        gradient: Tensor,
        narrowed: Tensor,
        parts: tuple[Tensor, Tensor, Tensor],
        turned: Tensor,
        middle: Tensor,
        norm: tuple[Tensor, Tensor, Tensor],
        gate: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of `narrow` for the gate [images, inside], float64, and for `turned` [outputs, inside].

        Arguments are those of `narrow_backward`.
        """
        done = self._run(
            "gate_backward",
            gradient=gradient,
            narrowed=narrowed,
            image_factor=parts[0],
            by_value=parts[1],
            image_offset=parts[2],
            narrow_turned=turned,
            middle=middle,
            factor=norm[0],
            offset=norm[1],
            image_gate=gate,
        )
        return done["image_sums"], done["products"]

    def narrow_backward(
        self,
        gradient: Tensor,
        narrowed: Tensor,
        parts: tuple[Tensor, Tensor, Tensor],
        turned: Tensor,
        middle: Tensor,
        norm: tuple[Tensor, Tensor, Tensor],
        gate: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Backward pass of `narrow`, as far as the normalized values before the activation.

        The gradient for what `narrow` gave is gradient * parts[0] + narrowed * parts[1] + parts[2], with parts
        [images, outputs_padded], [outputs_padded] and [images, outputs_padded]. turned: [outputs, inside], the
        transpose of its matrix; norm: factor, offset and mean, [inside]. Gives a gradient as `middle`, the one for
        `turned`, and sums [2, inside] of the first and of it times (middle - mean).
        gate: what `narrow` multiplied with, and what is added to the activated values' gradient, [images, inside] each;
        then there is nothing for `turned`, which `gate_backward` has.
        """
        gating: dict[str, Tensor | None] = {"image_gate": None, "image_pooled": None}
        if gate is not None:
            gating = {"image_gate": gate[0], "image_pooled": gate[1], "products": None}
        done = self._run(
            "narrow_backward",
            gradient=gradient,
            narrowed=narrowed,
            image_factor=parts[0],
            by_value=parts[1],
            image_offset=parts[2],
            narrow_turned=turned,
            middle=middle,
            factor=norm[0],
            offset=norm[1],
            centre=norm[2],
            **gating,
        )
        return done["middle_gradient"], done.get("products"), done["sums"]

    def widen_backward(
        self,
        back: Tensor,
        middle: Tensor,
        parts: tuple[Tensor, Tensor, Tensor],
        x: Tensor,
        mean: Tensor,
        widen: Tensor,
        start: Tensor,
        depthwise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Backward pass of `widen`, as far as the normalized values before the activation.

        The gradient for what `widen` gave is back * parts[0] + middle * parts[1] + parts[2], each [inside]. Gives,
        for the gradient of the normalized values: it @ widen.T (as x), (x - mean).T @ it [inputs, inside] and its
        sum [inside]; and the depthwise weights' gradient [kernel * kernel, inside].
        """
        done = self._run(
            "widen_backward",
            middle_gradient=back,
            middle=middle,
            factor=parts[0],
            by_value=parts[1],
            constant=parts[2],
            x=x,
            mean=mean,
            widen=widen,
            widen_start=start,
            widen_turned=pad(widen.t()),
            depthwise=depthwise,
        )
        taps = self.kernel * self.kernel
        return done["out"], done["products"][taps:], done["sums"], done["products"][:taps]

    def input_backward(self, out: Tensor, x: Tensor, by_row: Tensor, constant: Tensor, shortcut: Tensor | None) -> None:
        """out += x @ by_row + constant + shortcut, in place: [images, height, width, inputs].

        by_row: [inputs, inputs_padded]; constant: [inputs_padded].
        """
        self._run("input_backward", out=out, x=x, by_row=by_row, constant=constant, shortcut=shortcut)

    def _run(self, name: str, **given: Tensor | None) -> dict[str, Tensor]:
        """Run a pass on `given` arrays; those of its others that are not given are made, and all come back."""
        loaded, lanes = _kernels()
        sizes, expected = _plan(self, name)
        block = _Block(*sizes, self._threads())
        arrays: dict[str, Tensor] = {}
        for array, shape, elements, dtype in expected:
            tensor = given.pop(array) if array in given else torch.empty(shape, dtype=dtype)
            if tensor is None:
                continue
            if tensor.numel() != elements or tensor.dtype != dtype or not tensor.is_contiguous():
                raise ValueError(f"{name}: {array} must be dense {dtype} {shape}, not {tensor.dtype} {[*tensor.shape]}")
            arrays[array] = tensor
            setattr(block, array, tensor.data_ptr())
        if given:
            raise ValueError(f"{name} takes no {', '.join(given)}")
        if loaded.netpress_inverted_residual(_NUMBERS[name], lanes, ctypes.byref(block)):
            raise MemoryError("no memory for the scratch space of an inverted residual")
        return arrays


_Array = tuple[str, list[int], int, torch.dtype]


@lru_cache(maxsize=4096)
def _plan(block: InvertedResidual, name: str) -> tuple[list[int], list[_Array]]:
    """The block's sizes in the order of `_SIZES` but threads, and each array of a pass: name, shape, elements, type."""
    sizes = {size: getattr(block, size) for size in _SIZES.split() if hasattr(block, size)}
    sizes |= {"inputs_padded": padded(block.inputs), "outputs_padded": padded(block.outputs)}
    in_order = [sizes[size] for size in _SIZES.split()[:-1]]
    taps = block.kernel * block.kernel
    sizes |= {"two": 2, "taps": taps, "taps_and_inputs": taps + block.inputs, "inputs_and_one": block.inputs + 1}
    arrays: list[_Array] = []
    for array, dimensions in _PASSES[name].items():
        shape = [sizes[size] for size in dimensions.split()]
        dtype = torch.float64 if array in ("sums", "image_sums") else torch.float32
        arrays.append((array, shape, math.prod(shape), dtype))
    return in_order, arrays


@cache
def _kernels() -> tuple[ctypes.CDLL, int]:
    loaded = library()
    assert loaded is not None, "asked for where there are no kernels"
    loaded.netpress_inverted_residual.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Block)]
    return loaded, loaded.netpress_lanes()
