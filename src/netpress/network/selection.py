"""Which layers a setting means: layers of a kind, or layers whose names match a pattern.

    select(module, "pointwise")                      every 1x1 convolution
    select(module, ["stem", "blocks.0.*.conv"])      the first convolution, and some by name

A setting that matches no layer is an error.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from netpress.errors import UserError
from netpress.models.blocks import CosineLinear, SqueezeExcite
from netpress.models.factorized import Factorized
from netpress.numerics.layers import QuantizedLayer

Layers = list[tuple[str, nn.Module]]


def layers_with_weights(module: nn.Module) -> Layers:
    """Every layer that owns a `weight` of more than one dimension, by name, in order of definition."""
    layers = []
    for name, layer in module.named_modules():
        weight = layer._parameters.get("weight")
        if weight is not None and weight.dim() > 1:
            layers.append((name, layer))
    return layers


def used_weights(module: nn.Module) -> dict[str, Tensor]:
    """What the module multiplies with, for every parameter by name, without gradient: mostly its values.

    Of a cosine layer, quantized or not, it is the directions: the lengths of its weight's rows mean nothing, so no
    magnitude of theirs may be compared.
    """
    used = {name: parameter.detach() for name, parameter in module.named_parameters()}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for layer in module.modules():
        if isinstance(layer, CosineLinear):
            used[names[id(layer.weight)]] = layer.directions().detach()
        elif isinstance(layer, QuantizedLayer) and layer.unit_rows:
            used[names[id(layer.weight)]] = layer.real_weight().detach()
    return used


def select(module: nn.Module, what: str | Sequence[str], path: str = "layers") -> Layers:
    """The layers that `what` names, without repetition, in order of definition.

    Each item is a kind (see `KINDS`) or a glob pattern on layer names (`blocks.*.expand.conv`).
    Raises UserError, with `path` as the setting's name, for an item that matches no layer.
    """
    layers = layers_with_weights(module)
    selected: set[str] = set()
    items = [what] if isinstance(what, str) else what
    if not items:
        raise UserError(f"{path}: an empty list means no layer; leave the setting out, or name some")
    for item in items:
        if item in KINDS:
            names = {name for name, _ in KINDS[item](module, layers)}
        else:
            names = {name for name, _ in layers if fnmatchcase(name, item)} | _factors_of(module, item)
        if not names:
            raise UserError(f"{path}: {_explain(item, layers)}")
        selected |= names
    return [(name, layer) for name, layer in layers if name in selected]


def kinds_of(module: nn.Module) -> dict[str, list[str]]:
    """The kinds that this module has, each with the names of its layers."""
    layers = layers_with_weights(module)
    by_kind = {kind: [name for name, _ in matching(module, layers)] for kind, matching in KINDS.items()}
    return {kind: names for kind, names in by_kind.items() if names}


def _factors_of(module: nn.Module, pattern: str) -> set[str]:
    """The factors of those layers whose own name matches: a layer in factors goes on to be called as before."""
    whole = {
        name for name, part in module.named_modules() if isinstance(part, Factorized) and fnmatchcase(name, pattern)
    }
    return {f"{name}.{factor}" for name in whole for factor, _ in module.get_submodule(name).named_children()}


def _explain(item: str, layers: Layers) -> str:
    names = [name for name, _ in layers]
    examples = ", ".join(names[:3] + (["...", names[-1]] if len(names) > 4 else names[3:]))
    problem = "this network has no such layer" if item in KINDS else "matches no layer"
    return f"{item!r}: {problem}; kinds are {', '.join(KINDS)}; its layers are called {examples}"


def _convolutions(layers: Layers) -> list[tuple[str, nn.Conv2d]]:
    return [(name, layer) for name, layer in layers if isinstance(layer, nn.Conv2d)]


def _is_depthwise(layer: nn.Conv2d) -> bool:
    return layer.groups > 1 and layer.groups == layer.in_channels


def _stem(module: nn.Module, layers: Layers) -> Layers:
    return list(_convolutions(layers)[:1])


def _pointwise(module: nn.Module, layers: Layers) -> Layers:
    single = [(n, c) for n, c in _convolutions(layers) if c.kernel_size == (1, 1) and c.groups == 1]
    stem = _stem(module, layers)
    return [layer for layer in single if layer not in stem]


def _depthwise(module: nn.Module, layers: Layers) -> Layers:
    return [(name, layer) for name, layer in _convolutions(layers) if _is_depthwise(layer)]


def _grouped(module: nn.Module, layers: Layers) -> Layers:
    return [(name, layer) for name, layer in _convolutions(layers) if layer.groups > 1 and not _is_depthwise(layer)]


def _squeeze_excite(module: nn.Module, layers: Layers) -> Layers:
    gates = [f"{name}." for name, part in module.named_modules() if isinstance(part, SqueezeExcite)]
    return [(name, layer) for name, layer in layers if name.startswith(tuple(gates))]


def _linear(module: nn.Module, layers: Layers) -> Layers:
    return [(name, layer) for name, layer in layers if isinstance(layer, nn.Linear)]


def _classifier(module: nn.Module, layers: Layers) -> Layers:
    return _linear(module, layers)[-1:]


KINDS: dict[str, Callable[[nn.Module, Layers], Layers]] = {
    "stem": _stem,
    "pointwise": _pointwise,
    "depthwise": _depthwise,
    "grouped": _grouped,
    "squeeze_excite": _squeeze_excite,
    "classifier": _classifier,
    "conv": lambda module, layers: list(_convolutions(layers)),
    "linear": _linear,
    "all": lambda module, layers: layers,
}
"""stem: the first convolution. pointwise: 1x1, not grouped, those of squeeze-and-excitation included, the stem
not. depthwise: as many groups as input channels. grouped: fewer. squeeze_excite: both layers of every gate.
classifier: the last linear layer. conv, linear: by module. all: every weight of more than one dimension."""
