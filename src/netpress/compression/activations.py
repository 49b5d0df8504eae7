"""The `activations` stage: it puts cheaper activations in the place of others; a training should follow.

    02-activations/metrics.jsonl     one line: how many were replaced, and the accuracy before and after

A hard-swish is five operations a value by the official rules, a ReLU one.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.network import Network, copy
from netpress.network.edits.activating import REPLACEABLE, Activate, Function
from netpress.network.selection import select
from netpress.numerics.layers import quantized_layers
from netpress.process.devices import generator_for
from netpress.settings import Natural, Positive, Settings
from netpress.stage import STAGES, Context, Outlook, Plan, Stage
from netpress.tracing import trace
from netpress.tracing.operations import Operation, Trace
from netpress.training.norms import remeasure_norms

BATCH = 128  # images at a time that measure norms

Replaced = Literal["hard_swish", "swish", "gelu", "mish", "elu", "leaky_relu", "relu", "relu6"]


class ActivationsSettings(Settings):
    """Replace hard-swish and swish by a ReLU or a clamp, which low-bit networks do for nothing; train afterwards."""

    kind: Literal["activations"] = "activations"
    to: Function = "relu"
    """What comes instead: a ReLU, or a clamp to [0, `highest`]."""
    highest: Positive = 6.0
    """Upper end of the clamp."""
    replaces: tuple[Replaced, ...] = ("hard_swish", "swish")
    """Which activations go."""
    norm_images: Natural = 2048
    """Training images, drawn at random, on which norm statistics are measured anew, where there are data; 0: none."""
    where: str | tuple[str, ...] = "all"
    """Where: the layers that feed them, by kind or pattern (as `layers` of other stages), or their own names."""


def activations(network: Network, settings: ActivationsSettings, context: Context) -> Network:
    """A copy of `network` with other activations; weights are as they were.

    Raises UserError for a quantized network, whose scales fit the values of the old ones, and where nothing matches.
    """
    if quantized_layers(network.module):
        raise UserError(f"{context.name}: this network is quantized; replace activations before that stage")
    changed = copy(network)
    names = find_activations(network, settings)
    _edit(changed, names, settings)
    line: dict[str, Any] = {"replaced": len(names)}
    if context.dataset is not None and settings.norm_images:
        train = context.data.train
        generator = generator_for(context.seed, "activations", "norms")
        drawn = train.take(torch.randperm(len(train), generator=generator)[: settings.norm_images])
        remeasure_norms(changed, drawn, batch_size=BATCH, device=context.device)
    message = f"{context.name}: {len(names)} activations are {_called(settings)} now"
    if context.dataset is not None:
        for key, one in (("accuracy_before", network), ("accuracy", changed)):
            one = copy(one)
            one.module.to(context.device)
            line[key] = evaluate(one, context.data.selection).accuracy
        message += f", accuracy {line['accuracy_before']:.2%} before, {line['accuracy']:.2%} after"
    context.truncate_log(0)  # where an interruption came after this line
    context.log(line)
    context.console.say(message)
    return changed


def plan(outlook: Outlook, settings: ActivationsSettings) -> Plan:
    """One row for each activation that would be replaced. Raises UserError as the stage would."""
    outlook.refuse_quantized("replacing activations", "put it before")
    names = find_activations(outlook.network, settings)
    planned = copy(outlook.network)
    _edit(planned, names, settings)
    was = {name: REPLACEABLE[type(outlook.network.module.get_submodule(name))] for name in names}
    return Plan([{"what": name, "was": was[name], "becomes": _called(settings)} for name in names], planned)


def find_activations(network: Network, settings: ActivationsSettings) -> list[str]:
    """The modules that the settings mean, in order of execution.

    Raises UserError where an item of `where` matches nothing, and for one that is called as a function, which no edit
    can replace.
    """
    module = network.module
    traced = trace(module, network.input.size)
    asked = [op for op in traced.operations if op.kind == "activation" and op.function in settings.replaces]
    called = [op.name for op in asked if not op.is_module or type(module.get_submodule(op.module)) not in REPLACEABLE]
    feeding = {op.module: _layer_before(op, traced) for op in asked if op.name not in called}
    if settings.where == "all":
        if called:
            raise UserError(
                f"{called[0]}: this activation is called as a function, so it cannot be replaced; make it a layer, or "
                "say where with `where`"
            )
        names = list(feeding)
    else:
        names = _matching(module, feeding, [settings.where] if isinstance(settings.where, str) else settings.where)
    if not names:
        raise UserError(f"this network has no {' or '.join(settings.replaces)} to replace; leave this stage out")
    return names


def _matching(module: nn.Module, feeding: dict[str, str], where: Sequence[str]) -> list[str]:
    found: set[str] = set()
    for item in where:
        own = {name for name in feeding if fnmatchcase(name, item)}
        if not own:
            layers = {name for name, _ in select(module, item, "where")}
            own = {name for name, layer in feeding.items() if layer in layers}
        if not own:
            raise UserError(f"where: {item!r}: no activation that could be replaced follows such a layer")
        found |= own
    return [name for name in feeding if name in found]


def _layer_before(operation: Operation, traced: Trace) -> str:
    """The layer whose outputs an activation is given, a norm between them or not; "" where it is none."""
    by_name = traced.by_name
    while operation.sources and operation.sources[0] in by_name:
        operation = by_name[operation.sources[0]]
        if operation.kind in ("conv", "conv_transpose", "linear"):
            return operation.module
        if operation.kind not in ("norm", "move"):
            break
    return ""


def _edit(network: Network, names: Sequence[str], settings: ActivationsSettings) -> None:
    network.edit(Activate(modules=tuple(names), function=settings.to, highest=settings.highest))


def _called(settings: ActivationsSettings) -> str:
    return "relu" if settings.to == "relu" else f"clamp to [0, {settings.highest:g}]"


STAGES.add("activations", Stage(ActivationsSettings, activations, plan))
