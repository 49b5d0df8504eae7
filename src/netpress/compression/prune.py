"""The `prune` stage: it removes the smallest weights in rounds, and trains what is left after each round.

The procedure comes from the lottery tickets (Frankle and Carbin 2018), as KAIST changed it (Kim et al., PMLR 123,
section 5): the amount rises linearly, and each round goes on from the weights of the round before
(`weights = "keep"`). The original goes back to the first weights (`"rewind"`); `"reinitialize"` draws new ones.

    02-prune/metrics.jsonl            one line a finished round
             round-1/metrics.jsonl    the round's training
                     network.netpress the round's result; a round that has it is never done again
                     last.netpress    the last weights, where the next masks come from those

With `soft` a round zeroes weights at the beginning of each epoch and removes them after the last one alone; with
`gradual` it masks ever more of them while it trains.
With a `gate` the stage stops at the first round whose accuracy is below it. That round leaves its line and no network.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.compression.gate import check_gate, selection_accuracy
from netpress.compression.gradual import GradualMasks, GradualPruning
from netpress.compression.magnitude import Choice, Scope, choose_masks, count_left
from netpress.compression.masks import add_masks, apply_masks, select_patterns, select_ranked, select_weights
from netpress.compression.prune_settings import PruneSettings
from netpress.compression.soft_pruning import SoftPruning
from netpress.errors import UserError
from netpress.folders.stage import LAST, NETWORK, round_name
from netpress.models.registry import FAMILIES
from netpress.network import Network, copy, create, load, own_class, save
from netpress.network.edits import replay
from netpress.numerics.block_masks import BlockSize, describe_pattern
from netpress.process.console import Console
from netpress.process.devices import generator_for, seed_for
from netpress.settings import parse
from netpress.stage import STAGES, Context, Outlook, Plan, PlanRow, Stage
from netpress.training import run_training
from netpress.training.train import check_real, plan_answers


@dataclass(frozen=True)
class Round:
    """One round: its number from 1, and the share of the weights that is gone after it."""

    number: int
    amount: float

    @property
    def name(self) -> str:
        return round_name(self.number)


def prune(network: Network, settings: PruneSettings, context: Context) -> Network:
    """Run the rounds that are not finished yet, and return the network after the last one, or the last at the gate.

    `network` is left as it was. Raises UserError if a layer pattern matches nothing, if the network is
    sparser than asked already, if there is no network to rewind to, or if it is below the gate to begin with.
    """
    select_patterns(network, settings.layers, settings.pattern)  # refused before anything is done
    rounds = [Round(number, amount) for number, amount in enumerate(settings.amounts(), 1)]
    finished = 0  # rounds that left a network
    while finished < len(rounds) and (context.folder / rounds[finished].name / NETWORK).exists():
        context.part(rounds[finished].name).clear_state()  # left over where the interruption came just before
        finished += 1
    lines = context.logged()
    # Of a round without a network only this line counts. Any other is written again with the network.
    stopped = len(lines) > finished and _is_below(lines[finished], settings.gate)
    context.truncate_log(finished + stopped)
    if stopped:
        context.part(rounds[finished].name).clear_state()
    ranked = network  # whose weights decide the masks
    if finished:
        network, ranked = _results(context.folder / rounds[finished - 1].name, settings, own_class(network))
        context.console.say(f"{context.name}: {finished} of {len(rounds)} rounds are done already")
    for current in () if stopped else rounds[finished:]:
        line = _run_round(current, network, ranked, settings, context)
        if settings.gate is not None and _is_below(line, settings.gate):
            _tell_end(line, settings.gate, context)
            break
        # Read back even when not resuming, so that an interruption changes no bit of what follows.
        network, ranked = _results(context.folder / current.name, settings, own_class(network))
    return network


def prune_once(
    network: Network,
    amount: float,
    layers: str | Sequence[str] = "all",
    scope: Scope = "global",
    pattern: BlockSize | None = None,
) -> tuple[Network, Choice]:
    """A copy of `network` with `amount` of the selected weights gone, the smallest, without training.

    `pattern` takes them in blocks of [outputs, inputs]. Those that the network's masks removed before count. Raises as
    `choose_masks`, and UserError for a pattern that no weight takes.
    """
    patterns = select_patterns(network, layers, pattern)
    choice = choose_masks(select_ranked(network, layers), network.masks, amount, scope, patterns)
    pruned = copy(network)
    add_masks(pruned, choice.masks, choice.patterns)
    return pruned, choice


def plan(outlook: Outlook, settings: PruneSettings) -> Plan:
    """A row for each round, then one for each tensor with the weights that each round should leave it.

    The rounds' counts are exact. With scope "global" the tensors' are estimated from the weights that the outlook's
    network has; training will move them. Raises UserError as the stage would, for a training that could not begin, and
    for first weights that there are not.
    """
    network = outlook.network
    if settings.train is not None:
        check_real(outlook, settings.train)
    if settings.weights == "rewind":
        _check_rewind(network, outlook.first_edits)
    weights = select_ranked(network, settings.layers)
    patterns = select_patterns(network, settings.layers, settings.pattern)
    left = count_left(weights, network.masks, settings.amounts(), settings.scope, patterns)
    note = {"estimated": True} if settings.scope == "global" else {}
    tensors: list[PlanRow] = [
        {"what": name, "shape": list(weight.shape), "weights": weight.numel(), "left": left[name], **note}
        | ({} if settings.pattern is None else {"in": describe_pattern(patterns.get(name))})
        for name, weight in weights.items()
    ]
    pruned = copy(network)
    choice = choose_masks(weights, network.masks, settings.amount, settings.scope, patterns)
    add_masks(pruned, choice.masks, choice.patterns)
    rounds = _plan_rounds(settings, left, tensors)
    rounds = [row | plan_answers(outlook, (settings.train, row["epochs"])) for row in rounds]
    return Plan(rounds + tensors, pruned)


def _plan_rounds(settings: PruneSettings, left: dict[str, list[int]], tensors: list[PlanRow]) -> list[PlanRow]:
    total = sum(row["weights"] for row in tensors)
    return [
        {
            "what": f"round {number}",
            "amount": amount,
            "weights": total,
            "left": sum(counts[number - 1] for counts in left.values()),
            "epochs": settings.train.epochs if settings.train else 0,
            **({} if settings.gate is None else {"gate": settings.gate}),
        }
        for number, amount in enumerate(settings.amounts(), 1)
    ]


def _results(folder: Path, settings: PruneSettings, own: str | bool) -> tuple[Network, Network]:
    """What a finished round left: the network, and the one whose weights the next round ranks."""
    network = load(folder / NETWORK, allow_import=own)
    return network, network if settings.masks_from == "kept" else load(folder / LAST, allow_import=own)


def _run_round(
    current: Round, network: Network, ranked: Network, settings: PruneSettings, context: Context
) -> dict[str, Any]:
    """Prune and train; the round's line of figures. Its network is saved unless it is below the gate."""
    weights, patterns = (
        select_ranked(ranked, settings.layers),
        select_patterns(ranked, settings.layers, settings.pattern),
    )
    choice = choose_masks(weights, network.masks, current.amount, settings.scope, patterns)
    pruned = copy(network)
    broken = add_masks(pruned, choice.masks, choice.patterns)
    _warn(choice, broken, current.amount, context.console)
    line = _begin_line(current, network, pruned, settings, context)
    part = context.part(current.name)
    last = None
    if settings.train is not None:
        if settings.soft or settings.gradual is not None:
            train = _train_softly if settings.soft else _train_gradually
            pruned = train(current, network, settings, part)
            line |= {"left": _count_left(pruned, settings), "accuracy_trained": selection_accuracy(pruned, context)}
        else:
            trained = run_training(_start(pruned, current, settings, context), settings.train, part)
            if settings.masks_from == "last":
                last = copy(trained.network)
                last.module.load_state_dict(trained.last)
            pruned = trained.network
            line["accuracy_trained"] = trained.selection_accuracy
    # The line first: a round whose network is there has its line, and a line without one is cut off again, unless it
    # is the one that ends the stage.
    context.log(line)
    if not _is_below(line, settings.gate):
        if last is not None:
            save(last, part.folder / LAST)
        save(pruned, part.folder / NETWORK)
    part.clear_state()
    return line


def _train_softly(current: Round, network: Network, settings: PruneSettings, part: Context) -> Network:
    """A copy of `network`, trained while its smallest weights are zeroed again and again; then they are removed."""
    assert settings.train is not None
    start = copy(network)
    zeroes = SoftPruning(start, current.amount, settings.layers, settings.scope, settings.pattern)
    trained = run_training(start, settings.train, part, {"soft_pruning": zeroes}).network
    return prune_once(trained, current.amount, settings.layers, settings.scope, settings.pattern)[0]


def _train_gradually(current: Round, network: Network, settings: PruneSettings, part: Context) -> Network:
    """A copy of `network`, trained while ever more of its smallest weights are masked."""
    assert settings.train is not None and settings.gradual is not None
    what = {name: getattr(settings, name) for name in ("scope", "layers", "pattern")}
    growing = GradualPruning(amount=current.amount, **what, **settings.gradual.model_dump())
    masks = functools.partial(GradualMasks, settings=growing)
    return run_training(copy(network), settings.train, part, masks=masks).network


def _count_left(pruned: Network, settings: PruneSettings) -> int:
    return sum(int(pruned.masks[name].sum()) for name in select_weights(pruned, settings.layers))


def _begin_line(
    current: Round, network: Network, pruned: Network, settings: PruneSettings, context: Context
) -> dict[str, Any]:
    """What is known of a round before its training. Raises UserError for a first round that begins below the gate, and
    for a gate without data."""
    weights = select_weights(pruned, settings.layers)
    line: dict[str, Any] = {
        "round": current.number,
        "amount": current.amount,
        "weights": sum(weight.numel() for weight in weights.values()),
        "left": _count_left(pruned, settings),
    }
    if context.dataset is not None or settings.gate is not None:
        line["accuracy_before"] = selection_accuracy(network, context)
        if settings.gate is not None and current.number == 1:
            check_gate(settings.gate, line["accuracy_before"], context)
        line["accuracy_pruned"] = selection_accuracy(pruned, context)
    message = f"{context.name}: round {current.number} leaves {line['left']:,} of {line['weights']:,} weights"
    message += "" if settings.pattern is None else f" in {describe_pattern(settings.pattern)}"
    context.console.say(message + (f", accuracy {line['accuracy_pruned']:.2%}" if "accuracy_pruned" in line else ""))
    return line


def _is_below(line: dict[str, Any], gate: float | None) -> bool:
    """Whether the round of this line ends the stage: its network, trained where it was, is below the gate."""
    return gate is not None and _reached(line) < gate


def _reached(line: dict[str, Any]) -> float:
    reached: float = line["accuracy_trained"] if "accuracy_trained" in line else line["accuracy_pruned"]
    return reached


def _tell_end(line: dict[str, Any], gate: float, context: Context) -> None:
    number = line["round"]
    ends = f"{context.name}: round {number} ends at {_reached(line):.2%}, below the gate {gate:.2%}"
    if number > 1:
        context.console.say(f"{ends}: the result is that of round {number - 1}")
    else:
        context.console.warn(f"{ends}: the network stays as it came")


def _warn(choice: Choice, broken: list[str], amount: float, console: Console) -> None:
    if choice.rescued:
        what = "block" if choice.patterns else "weight"
        console.warn(f"amount {amount:g} would empty {_names(choice.rescued)}: the largest {what} of each stays")
    if broken:
        console.warn(
            f"weights inside blocks were removed before, so these masks cost one bit a weight: {_names(broken)}"
        )
    if choice.sparser:
        console.warn(f"sparser than {amount:g} already, so left as they are: {_names(choice.sparser)}")


def _start(pruned: Network, current: Round, settings: PruneSettings, context: Context) -> Network:
    """The pruned network with the weights that its training starts from."""
    if settings.weights == "keep":
        return pruned
    source = _initial(pruned, context) if settings.weights == "rewind" else _reinitialized(pruned, current, context)
    pruned.module.load_state_dict(source.module.state_dict())
    apply_masks(pruned)
    return pruned


def _initial(network: Network, context: Context) -> Network:
    try:
        _check_rewind(network, None if context.initial is None else tuple(context.initial.architecture.edits))
    except UserError as error:
        raise UserError(f"{context.name}: {error}") from None
    assert context.initial is not None
    return context.initial


def _check_rewind(network: Network, first_edits: tuple[dict[str, Any], ...] | None) -> None:
    if first_edits is None:
        raise UserError("weights = 'rewind' needs the weights that the run began with; use a recipe")
    if list(first_edits) != network.architecture.edits:
        raise UserError(
            "weights = 'rewind' cannot restore the first weights, because a stage before changed the network's "
            "structure; prune first, or take weights = 'keep'"
        )


def _reinitialized(network: Network, current: Round, context: Context) -> Network:
    architecture = network.architecture
    seed = seed_for(context.seed, "reinitialize", current.number)
    fresh = create(architecture.family, architecture.settings, seed=seed)
    if architecture.edits:
        # Edits make new tensors: the family's rule sets those too.
        family = FAMILIES[architecture.family]
        replay(fresh.module, architecture.edits)
        parsed = parse(family.settings, architecture.settings, "model")
        family.initialize(fresh.module, parsed, generator_for(seed, "edited"))
    return fresh


def _names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


STAGES.add("prune", Stage(PruneSettings, prune, plan, weighs=True))
