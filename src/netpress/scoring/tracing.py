"""Watching a forward pass: every operation that any module executes, functional calls included.

The module runs once, for an image that has a shape but no values (torch's meta device), so tracing
costs the same whatever the size of the layers.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from netpress.errors import UserError
from netpress.numerics.layers import plain_layers
from netpress.scoring.operations import Shape, Trace, merge_traces
from netpress.scoring.recorder import CallNames, NeedsValues, Recorder, Uncountable


def trace(
    module: nn.Module,
    input_size: Shape,
    *,
    masks: Mapping[str, Tensor] | None = None,
    examples: Tensor | None = None,
) -> Trace:
    """Every operation that `module` executes for one example of `input_size`, without the batch dimension.

    The module is put into evaluation mode meanwhile and is otherwise left as it was. `masks` maps names of
    parameters to bool tensors, True where a weight exists. A network whose flow depends on its input (early
    exits) needs `examples` [count, *input_size]: it is run on each, and every operation carries the share of
    the examples that executed it.

    Raises UserError, naming the module and the operator, for an operator whose cost nobody has stated, for a
    flow that depends on values when there are no examples, and when the forward pass itself fails.
    """
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        if examples is None:
            return _trace_shapes(module, tuple(input_size), masks or {})
        if not len(examples):
            raise UserError("score: there are no examples to run the network on")
        found: dict[tuple[Any, ...], list[Any]] = {}
        for example in examples:
            one = _run(module, example[None], masks or {}, values=True)
            signature = tuple((operation.name, operation.function, operation.output) for operation in one.operations)
            found.setdefault(signature, [one, 0])[1] += 1
        return merge_traces([(one, count) for one, count in found.values()])
    finally:
        for part, mode in training.items():
            part.training = mode


def _trace_shapes(module: nn.Module, input_size: Shape, masks: Mapping[str, Tensor]) -> Trace:
    dtype, device = _home(module)
    image = torch.empty(1, *input_size, dtype=dtype, device="meta")
    try:
        return _run(module, image, masks)
    except (Uncountable, NeedsValues):
        raise
    except UserError:
        if device.type == "meta":
            raise
    # Some forward passes insist on real tensors (numpy, .cpu()); they get zeros, and values stay out of reach.
    return _run(module, torch.zeros(1, *input_size, dtype=dtype, device=device), masks)


def _home(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return torch.float32, torch.device("cpu")


def _run(module: nn.Module, image: Tensor, masks: Mapping[str, Tensor], values: bool = False) -> Trace:
    recorder = Recorder(module, image, masks, values)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused kernels hide what they calculate
    try:
        with ExitStack() as active:
            active.enter_context(torch.no_grad())
            active.enter_context(plain_layers(module))
            active.enter_context(sdpa_kernel(SDPBackend.MATH))
            active.enter_context(recorder.watch_modules())
            active.enter_context(CallNames(recorder))
            active.enter_context(recorder)
            result = module(image)
    except UserError:
        raise
    except Exception as error:
        size = "x".join(str(length) for length in image.shape[1:])
        where = f" in {recorder.place}" if recorder.failed_in else ""
        raise UserError(
            f"{type(module).__name__}: its forward pass fails for an input of {size}{where}: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return recorder.finish(result)
