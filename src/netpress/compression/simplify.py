"""The `simplify` stage: it takes out what the network computes for nothing, and compares the answers before and after.

    04-simplify/metrics.jsonl     one line: how many modules, channels and values went

Whole modules go whose results nothing uses, such as the gates of KAIST's released blocks of stride 2; blocks that add
zeros to what they are given; and channels that nothing reads or that are always zero. Masks, formats and patterns of
what stays follow. A network that computes nothing in vain stays as it is, to the last bit.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from netpress.compression.channels.removal import narrow_network
from netpress.compression.quantization.assignment import trim_masks
from netpress.compression.simplification.blocks import idle_blocks
from netpress.compression.simplification.channels import removable_channels
from netpress.compression.simplification.idle import idle_modules
from netpress.data.batches import normalize
from netpress.errors import Failure, UserError
from netpress.network import Network, copy
from netpress.network.edits.narrowing import is_narrowable, sizes_of
from netpress.network.edits.removing import Remove
from netpress.network.selection import layers_with_weights
from netpress.numerics.layers import quantized_layers
from netpress.process.devices import generator_for
from netpress.program import execute, lower
from netpress.settings import Positive, Settings
from netpress.stage import STAGES, Context, Outlook, Plan, PlanRow, Stage
from netpress.tracing import trace

IMAGES = 4  # random inputs in the check


class SimplifySettings(Settings):
    """Take out what is computed for nothing, such as gates whose results nobody uses: the same answers, less to do."""

    kind: Literal["simplify"] = "simplify"
    tolerance: Positive = 1e-4
    """Largest difference of a logit on random inputs, as a share of the largest logit: rounding of float32. Networks in
    integers must answer the same to the last bit."""


def simplify(network: Network, settings: SimplifySettings, context: Context) -> Network:
    """A copy of `network` without what computes nothing; the very same structure where there is no such thing.

    Raises Failure if the logits differ, by more than the tolerance where they are calculated in floats.
    """
    simple = copy(network)
    simple.module.cpu()
    before = _answers(simple, context.seed)
    rows = remove_all(simple)
    if quantized_layers(simple.module) and any("left" in row for row in rows):
        trim_masks(simple)  # a mask that paid may not pay any more
        for weight in simple.weights().values():
            weight.data.add_(0.0)  # what no mask hides now is 0 in the file, never -0
    line: dict[str, Any] = {
        "modules": sum("why" in row for row in rows),
        "channels": sum(map(_gone, rows)),
        "values": _values(network) - _values(simple),
    }
    if rows:
        line["difference"] = _check(before, _answers(simple, context.seed), network, settings, context)
    context.truncate_log(0)  # where an interruption came after this line
    context.log(line)
    context.console.say(f"{context.name}: {_summary(rows, line)}")
    return simple


def plan(outlook: Outlook, settings: SimplifySettings) -> Plan:
    """One row for each module that nothing uses, or one that says that there is none."""
    planned = copy(outlook.network)
    rows = _remove_unused(planned)  # by structure alone: weights and scales are not yet what they will be
    nothing = {"what": "nothing", "why": "no module is idle; of blocks and channels weights decide"}
    return Plan(rows or [nothing], planned, ("flash", "ram", "score"))


UNUSED = "nothing uses its result"
PASSING = "what it adds is zero"
NOTHING = "everything that is computed feeds the answers"


def _remove_unused(network: Network) -> list[PlanRow]:
    return _remove_modules(
        network, UNUSED, lambda: idle_modules(network.module, trace(network.module, network.input.size))
    )


def remove_all(network: Network) -> list[PlanRow]:
    """Take what computes nothing out of `network`, in place; a row for each module, and for each narrower layer."""
    rows = _remove_unused(network)
    try:
        rows += _remove_modules(network, PASSING, lambda: idle_blocks(network))
        return rows + remove_channels(network)
    except UserError:  # no program can be made of it, so nobody knows where its channels go
        return rows


def _remove_modules(network: Network, why: str, find: Callable[[], list[str]]) -> list[PlanRow]:
    rows: list[PlanRow] = []
    while names := find():
        for name in names:
            stored = sum(tensor.numel() for tensor in network.module.get_submodule(name).parameters())
            rows.append({"what": name, "why": why, "values": stored})
        network.edit(Remove(modules=tuple(names)))
    return rows


def remove_channels(network: Network) -> list[PlanRow]:
    """Take channels that count for nothing out of `network`, in place; a row for each layer that gives fewer."""
    rows: dict[str, PlanRow] = {}
    while True:
        groups, units = removable_channels(network)
        if not groups:
            break
        narrowed = copy(network)
        before = {name: sizes_of(layer).outputs for name, layer in _narrowable(network)}
        narrow_network(narrowed, groups, units)
        if not _runs(narrowed):
            break  # its forward pass knows how many channels there are
        network.__dict__.update(vars(narrowed))
        network.masks = {name: mask for name, mask in network.masks.items() if not bool(mask.all())}
        for name, layer in _narrowable(network):
            count = sizes_of(layer).outputs
            if count < before[name] and layer.weight.dim() > 1:
                first = rows.get(name, {"channels": before[name]})
                rows[name] = {"what": name, "channels": first["channels"], "left": count}
    return list(rows.values())


def _narrowable(network: Network) -> list[tuple[str, Any]]:
    return [(name, layer) for name, layer in layers_with_weights(network.module) if is_narrowable(layer)]


def _runs(network: Network) -> bool:
    try:
        with torch.inference_mode():
            network.module.eval()(torch.zeros(1, *network.input.size))
    except (RuntimeError, ValueError):
        return False
    return True


def _gone(row: PlanRow) -> int:
    return int(row["channels"]) - int(row["left"]) if "left" in row else 0


def _values(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.module.parameters())


def _summary(rows: Sequence[PlanRow], line: dict[str, Any]) -> str:
    if not rows:
        return f"nothing to remove: {NOTHING}"
    names = [str(row["what"]) for row in rows]
    listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    difference = line["difference"]
    equal = "all logits equal" if difference == 0 else f"logits differ by at most {difference:.1e}"
    return f"{listed} removed, {line['values']:,} stored values fewer, {equal}"


def _check(before: Tensor, after: Tensor, network: Network, settings: SimplifySettings, context: Context) -> float:
    """The largest difference of a logit, as a share of the largest. Raises Failure where it is more than may be."""
    difference = float((after - before).abs().max() / before.abs().max().clamp_min(1e-30))
    allowed = 0.0 if quantized_layers(network.module) else settings.tolerance
    if not difference <= allowed:
        raise Failure(
            f"{context.name}: without what seemed to compute nothing, logits differ by {difference:.2g} of the "
            f"largest, above the tolerance of {allowed:g}: the forward pass does something that cannot be seen"
        )
    return difference


def _answers(network: Network, seed: int) -> Tensor:
    """Logits of random images of 8 bits, [images, classes]; in exact integers where the network can be a program."""
    generator = generator_for(seed, "simplify")
    pixels = torch.randint(256, (IMAGES, *network.input.size), generator=generator, dtype=torch.uint8)
    images = normalize(pixels, network.input.mean, network.input.std)
    training = network.module.training
    network.module.eval()
    try:
        with torch.inference_mode():
            if quantized_layers(network.module):
                try:
                    return execute(lower(network), images)
                except UserError:
                    pass  # a user's own forward of which no program can be made
            logits: Tensor = network.module(images).float()
            return logits
    finally:
        network.module.train(training)


STAGES.add("simplify", Stage(SimplifySettings, simplify, plan, weighs=True))
