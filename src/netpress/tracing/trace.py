"""`trace(module, (3, 32, 32))` runs a module once and returns every operation that it executes.

Functional calls are included. The image has a shape but no values (torch's meta device), so tracing costs the same
whatever the size of the layers.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from netpress.errors import UserError
from netpress.numerics.block_masks import Pattern
from netpress.numerics.layers import plain_layers
from netpress.tracing.constants import Store
from netpress.tracing.factors import layers_in_factors
from netpress.tracing.foreign import check_module, foreign_notes, widen_tensors
from netpress.tracing.leaving import CallNames
from netpress.tracing.operations import Shape, Trace, merge_traces
from netpress.tracing.recorder import NeedsValues, Recorder, Uncountable
from netpress.tracing.untouched import Keeper, untouched


def trace(
    module: nn.Module,
    input_size: Shape,
    *,
    masks: Mapping[str, Tensor] | None = None,
    patterns: Mapping[str, Pattern] | None = None,
    examples: Tensor | None = None,
) -> Trace:
    """Every operation that `module` executes for one example of `input_size`, without the batch dimension.

    The module is put into evaluation mode meanwhile and is otherwise left as it was. `masks` maps names of
    parameters to bool tensors, True where a weight exists; `patterns` has the blocks of masks by block. A network whose
    flow depends on its input (early exits) needs `examples` [count, *input_size]: it is run on each, and every
    operation carries the share of the examples that executed it.

    Raises UserError, naming the module and the operator, for an operator whose cost nobody has stated, for a
    flow that depends on values when there are no examples, and when the forward pass itself fails.
    """
    check_module(module)
    with untouched(module) as keeper, _without_fast_paths(module):
        notes = foreign_notes(module) + widen_tensors(module)
        with keeper:
            _evaluation_mode(module)
        traced = _trace(module, tuple(input_size), masks or {}, examples, keeper)
    stored = dict(traced.stored)
    for name in stored.keys() & (patterns or {}).keys():
        stored[name] = replace(stored[name], pattern=(patterns or {})[name])
    return replace(traced, stored=stored, notes=notes, in_factors=layers_in_factors(module))


def _trace(
    module: nn.Module, size: Shape, masks: Mapping[str, Tensor], examples: Tensor | None, keeper: Keeper
) -> Trace:
    if examples is None:
        return _trace_shapes(module, size, masks, keeper)
    if not len(examples):
        raise UserError("score: there are no examples to run the network on")
    paths: dict[tuple[Any, ...], list[Any]] = {}
    store = Store()  # one for all, so that what several paths make of the same tensors is stored once
    for example in examples:
        one = _run(module, example[None].clone(), masks, keeper, store)
        signature = tuple((operation.name, operation.function, operation.output) for operation in one.operations)
        paths.setdefault(signature, [one, 0])[1] += 1
    return merge_traces([(one, count) for one, count in paths.values()])


def _evaluation_mode(module: nn.Module) -> None:
    try:
        module.eval()
    except NotImplementedError:  # an exported program's module has no modes
        for part in module.modules():
            part.training = False


def _trace_shapes(module: nn.Module, size: Shape, masks: Mapping[str, Tensor], keeper: Keeper) -> Trace:
    dtype, device = _home(module)
    looks_up = any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in module.modules())
    failure: UserError | None = None
    # Whole numbers for networks that read words. Zeros for a forward pass that insists on real tensors (`.cpu()`):
    # where it looks at their values it is refused all the same.
    for kind in (dtype, torch.long) if looks_up else (dtype,):
        for image in (torch.empty(1, *size, dtype=kind, device="meta"), torch.zeros(1, *size, dtype=kind)):
            if not image.is_meta and device.type == "meta":
                continue
            try:
                return _run(module, image if image.is_meta else image.to(device), masks, keeper)
            except (Uncountable, NeedsValues):
                raise
            except UserError as error:
                failure = error if failure is None or kind is dtype else failure
    assert failure is not None
    raise failure


def _home(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() and tensor.dtype.itemsize > 1:  # floats of 8 bits are stored, not calculated with
            return tensor.dtype, tensor.device
    return torch.float32, torch.device("cpu")


@contextmanager
def _without_fast_paths(module: nn.Module) -> Iterator[None]:
    """Fused kernels and compiled code hide what they calculate."""
    # Importing the compiler takes longer than tracing; what is not there has compiled nothing.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # The flags of torch.backends may be closed to others, and its context warns of graphics cards.
    whole_layers = torch._C._get_mkldnn_enabled()
    if any(isinstance(part, nn.RNNBase) for part in module.modules()):
        torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), eager:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch._C._set_mkldnn_enabled(whole_layers)


def _run(
    module: nn.Module, image: Tensor, masks: Mapping[str, Tensor], keeper: Keeper, store: Store | None = None
) -> Trace:
    """One forward pass; `store` is given for real examples."""
    recorder: Recorder | None = None
    try:
        with ExitStack() as active:
            active.enter_context(torch.no_grad())
            recorder = Recorder(module, image, masks, keeper, store)
            active.enter_context(plain_layers(module))
            active.enter_context(recorder.watch_modules())
            active.enter_context(CallNames(recorder))
            active.enter_context(recorder)
            result = module(image)
        return recorder.finish(result)
    except UserError:
        raise
    except Exception as error:
        if recorder is not None and recorder.refused is not None:
            raise recorder.refused from error
        size = "x".join(str(length) for length in image.shape[1:])
        where = f" in {recorder.place}" if recorder is not None and recorder.failed_in else ""
        raise UserError(
            f"{type(module).__name__}: its forward pass fails for an input of {size}{where}: "
            f"{type(error).__name__}: {error}"
        ) from error
