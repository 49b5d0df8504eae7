"""Modules and tensors of other tools: this module makes them countable, notes how, or refuses them.

A tensor of torchao's, for example, is replaced by a plain one and counted as floats, and a note says so.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from netpress.errors import UserError
from netpress.models.lazy import check_initialized

LOW_BIT_TOOLS = ("brevitas", "torchao", "bitsandbytes", "optimum", "quanto", "hqq", "auto_gptq", "gptqmodel", "awq")
TORCHS_OWN = ("torch.ao.quantization", "torch.ao.nn", "torch.nn.qat", "torch.nn.quantized", "torch.nn.intrinsic")


def check_module(module: Any) -> None:
    """Raise UserError for what is no module, or has weights without a shape yet."""
    if not isinstance(module, nn.Module):
        raise UserError(
            f"score: {describe(module)} is not counted; give a netpress network, a torch.nn.Module, an exported "
            "program, or the pathlib.Path of an ONNX file"
        )
    check_initialized(module, "score")


def describe(thing: Any) -> str:
    """What a person gave, in a few words."""
    if isinstance(thing, str):
        shown = thing if len(thing) <= 60 else f"{thing[:60]}..."
        return f"the text {shown!r} (netpress.load makes a network of a name or a file)"
    return "None" if thing is None else f"a {type(thing).__name__}"


def foreign_notes(module: nn.Module) -> tuple[str, ...]:
    """A note for each tool whose layers calculate with few bits: they are counted as the floats that torch shows."""
    layers: dict[str, list[str]] = {}
    inside: tuple[str, ...] = ()  # only the outermost: such a layer is made of many modules
    for name, part in module.named_modules():
        if inside and name.startswith(inside):
            continue
        home = type(part).__module__
        tool = home.split(".")[0]
        if tool in LOW_BIT_TOOLS or home.startswith(TORCHS_OWN):
            layers.setdefault(tool if tool != "torch" else "torch.ao", []).append(name or type(part).__name__)
            inside = (*inside, f"{name}." if name else "")
    notes = [
        f"{_several(names, 'layer')} of {tool} counted as floats: their own widths are not read; "
        "weight_bits and activation_bits say them"
        for tool, names in layers.items()
    ]
    short = [
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None and _is_short(tensor)
    ]
    if short:
        notes.append(
            f"{_several(short, 'tensor')} of 8-bit floats counted as wider floats, like the others; weight_bits says "
            "their width"
        )
    return tuple(notes)


def _several(names: list[str], noun: str) -> str:
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} (first {names[0]})"


def _is_short(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize == 1


def widen_tensors(module: nn.Module) -> tuple[str, ...]:
    """Put plain tensors in the place of those that only stand for others (torchao's); a note for each of their kinds.

    Raises UserError for one that does not say its values.
    """
    wrapped_names: dict[str, list[str]] = {}
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            continue
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is None or not is_traceable_wrapper_subclass(tensor):
                    continue
                whole = f"{path}.{name}" if path else name
                plain = _plain(whole, tensor)
                tensors[name] = nn.Parameter(plain, requires_grad=False) if tensors is part._parameters else plain
                wrapped_names.setdefault(type(tensor).__name__, []).append(whole)
    return tuple(
        f"{_several(names, 'tensor')} of the kind {kind} counted as floats: their own width is not read; weight_bits "
        "says it"
        for kind, names in wrapped_names.items()
    )


def _plain(name: str, tensor: Any) -> Tensor:
    try:
        with torch.no_grad():
            plain = tensor.dequantize()
    except Exception as error:
        raise UserError(
            f"{name}: a tensor of the kind {type(tensor).__name__} does not say its values "
            f"({type(error).__name__}); it cannot be counted"
        ) from error
    if not isinstance(plain, Tensor) or is_traceable_wrapper_subclass(plain) or plain.shape != tensor.shape:
        raise UserError(f"{name}: a tensor of the kind {type(tensor).__name__} cannot be made a plain one, nor counted")
    return plain.detach()
