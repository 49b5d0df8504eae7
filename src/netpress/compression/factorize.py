"""The `factorize` stage: EigenDamage, fine-tuning and regrowth in turns, until a target or the gate.

Wang et al., "EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis" (arXiv 1905.05934), and the way in
which Wave Computing compressed PyramidNet-272 with it in 2019. `netpress.compression.factorization` has the method.

    02-factorize/metrics.jsonl            one line a finished round, the first (round 0) of the network as it came
                 round-1/metrics.jsonl    the round's training
                         deleted.json     what the factorization deleted, and where: regrowth asks for it
                         network.netpress the round's result; a round that has it is never done again
"""

import json
from typing import Any, Literal

from netpress.compression.factorization.cutting import cut_network, draw_images, measure_norms
from netpress.compression.factorization.layers import find_candidates
from netpress.compression.factorization.planning import plan
from netpress.compression.factorization.regrowth import Deleted, draw_places, regrow
from netpress.compression.factorization.settings import FactorizeSettings
from netpress.compression.factorization.sizes import count_parameters, measure_score
from netpress.compression.factorization.targets import Aim, compressed
from netpress.compression.gate import check_gate, selection_accuracy
from netpress.errors import Failure, UserError
from netpress.files import atomic_write, read_object
from netpress.folders.stage import DELETED, NETWORK, round_name
from netpress.network import Network, copy, load, own_class, save
from netpress.numerics.layers import quantized_layers
from netpress.process.devices import generator_for
from netpress.stage import STAGES, Context, Stage
from netpress.training import TrainSettings, run_training

Step = Literal["factorize", "regrow"]
Line = dict[str, Any]


def factorize(network: Network, settings: FactorizeSettings, context: Context) -> Network:
    """Run the rounds that are not finished yet; the smallest network of a factorization that the gate lets through.

    `network` is left as it was. Raises UserError for a quantized network, layers that cannot be factorized, a target
    that no ranks reach, missing data, and a gate above the network's accuracy.
    """
    if quantized_layers(network.module):
        raise UserError(
            f"{context.name}: the network is quantized, and factors would take values off their formats; factorize "
            "before quantizing"
        )
    _ = context.data  # told before anything else where there is none
    try:
        find_candidates(network, settings.layers)
    except UserError as error:
        raise UserError(f"{context.name}: {error}") from None
    lines = _resume(network, settings, context)
    while (step := next_step(lines, settings)) is not None:
        before = _result(lines[-1]["round"], network, context)
        lines.append(_run_round(len(lines), step, before, lines, settings, context))
    best = best_round(lines, settings)
    _tell(lines, best, settings, context)
    return _result(best, network, context)


def next_step(lines: list[Line], settings: FactorizeSettings) -> Step | None:
    """What the next round does, from the lines of those before (round 0 is the network as it came); None: no more."""
    last = lines[-1]
    rounds = len(lines) - 1
    if rounds == settings.rounds or not _passes(last, settings):
        return None
    aim = Aim(settings, lines[0]["parameters"], None)
    if last["step"] == "factorize" and (not last["changed"] or aim.is_met(last["parameters"], last["score"])):
        return None
    regrows = settings.regrow is not None and last["step"] == "factorize" and last["compression"] > 0
    if not regrows:
        return "factorize"
    return "regrow" if rounds + 1 < settings.rounds else None  # a regrowth that nothing follows would be for nothing


def best_round(lines: list[Line], settings: FactorizeSettings) -> int:
    """The last factorization whose network passes the gate; round 0 where none does."""
    passing = [line["round"] for line in lines if line["step"] == "factorize" and _passes(line, settings)]
    return passing[-1] if passing else 0


def _passes(line: Line, settings: FactorizeSettings) -> bool:
    return settings.gate is None or _accuracy_of(line) >= settings.gate


def _accuracy_of(line: Line) -> float:
    """The selection accuracy of the network that a round left."""
    return float(next(line[key] for key in ("accuracy_trained", "accuracy_cut", "accuracy") if key in line))


def _resume(network: Network, settings: FactorizeSettings, context: Context) -> list[Line]:
    """The lines of the rounds that are done; the first is written here, where it is not there yet."""
    finished = 0
    while (context.folder / round_name(finished + 1) / NETWORK).exists():
        finished += 1
        context.part(round_name(finished)).clear_state()  # left over where the interruption came just before
    context.truncate_log(finished + 1)
    lines = context.logged()
    if finished and len(lines) <= finished:
        raise Failure(f"{context.folder}: its metrics lack the rounds that are done; begin the stage anew with --fresh")
    if finished:
        context.console.say(f"{context.name}: {finished} rounds are done already")
    if lines:
        return lines
    first: Line = {"round": 0, "step": "begin", "accuracy": selection_accuracy(network, context)}
    first |= _sizes(network, count_parameters(network), context)
    if settings.gate is not None:
        check_gate(settings.gate, first["accuracy"], context)
    context.log(first)
    return context.logged()


def _run_round(
    number: int, step: Step, network: Network, lines: list[Line], settings: FactorizeSettings, context: Context
) -> Line:
    """Change the network, train it, write the round down; the round's line."""
    part = context.part(round_name(number))
    first = lines[0]["parameters"]
    line: Line = {"round": number, "step": step, "accuracy_before": _accuracy_of(lines[-1])}
    changed = copy(network)
    if step == "factorize":
        line |= _factorize(changed, first, settings, part, _deleted(lines, context))
    else:
        line |= _regrow(changed, settings, part, _deleted(lines, context))
    line |= _sizes(changed, first, context) | {"accuracy_cut": selection_accuracy(changed, context)}
    context.console.say(
        f"{context.name}: round {number} ({step}) leaves {line['parameters']:,} parameters, accuracy "
        f"{line['accuracy_cut']:.2%}"
    )
    training = _training(step, line["compression"], settings)
    if training is not None and line["changed"]:
        trained = run_training(changed, training, part)
        changed = trained.network
        line["accuracy_trained"] = trained.selection_accuracy
        line |= _sizes(changed, first, context)  # rows of zeros that grew cost nothing until they are trained
    # The line first: a round whose network is there has its line, and a line without one is cut off again.
    context.log(line)
    save(changed, part.folder / NETWORK)
    part.clear_state()
    return context.logged()[-1]


def _factorize(
    network: Network, first: int, settings: FactorizeSettings, part: Context, before: Deleted | None
) -> Line:
    """Put layers into factors, in place, and keep what was deleted."""
    memory = settings.regrow.memory if settings.regrow else 0.0
    done = cut_network(network, settings, Aim(settings, first, settings.share, before is not None), part)
    deleted = done.deleted(before, memory)
    atomic_write(part.folder / DELETED, json.dumps(deleted.as_json()))
    if done.ended:
        part.console.say(f"{part.name}: {sum(done.ended.values()):,} weights that masks had removed exist again")
    return {"changed": bool(done.ranks), "removed": deleted.count, "in_factors": len(done.ranks)}


def _regrow(network: Network, settings: FactorizeSettings, part: Context, deleted: Deleted | None) -> Line:
    """Give layers rows and columns back, in place."""
    assert settings.regrow is not None and deleted is not None
    generator = generator_for(part.seed, part.name, "regrow")
    ranks = draw_places(network, deleted, settings.regrow, generator)
    regrow(network, ranks, settings.regrow.kind, generator)
    if ranks:
        measure_norms(network, draw_images(settings, part), settings, part)
    return {"changed": bool(ranks), "regrown": len(ranks)}


def _training(step: Step, compression: float, settings: FactorizeSettings) -> TrainSettings | None:
    if step == "regrow":
        assert settings.regrow is not None
        return settings.regrow.train
    if settings.train_larger is not None and compression <= 0:
        return settings.train_larger
    return settings.train


def _deleted(lines: list[Line], context: Context) -> Deleted | None:
    """What the last factorization deleted; None before the first."""
    rounds = [line["round"] for line in lines if line["step"] == "factorize"]
    if not rounds:
        return None
    path = context.folder / round_name(rounds[-1]) / DELETED
    try:
        return Deleted.of_json(read_object(path, count=int, shares=dict))
    except (IndexError, TypeError, ValueError) as error:
        raise Failure(f"{path}: damaged ({error}); begin the stage anew with --fresh") from error


def _result(number: int, network: Network, context: Context) -> Network:
    """The network that a round left; that of round 0 is the one that came."""
    if number == 0:
        return network
    return load(context.folder / round_name(number) / NETWORK, allow_import=own_class(network))


def _sizes(network: Network, first: int, context: Context) -> Line:
    parameters = count_parameters(network)
    return {
        "parameters": parameters,
        "compression": compressed(parameters, first),
        "score": measure_score(network, context.score_settings),
    }


def _tell(lines: list[Line], best: int, settings: FactorizeSettings, context: Context) -> None:
    """Say which network is the result, and warn where it is not what was asked for."""
    line = lines[best]
    if best == 0:
        context.console.warn(
            f"{context.name}: no round stands the gate of {settings.gate:.2%}; the network stays as it was"
        )
        return
    aim = Aim(settings, lines[0]["parameters"], None)
    targeted = (settings.compression, settings.score) != (None, None)
    if targeted and not aim.is_met(line["parameters"], line["score"]):
        context.console.warn(
            f"{context.name}: the target is not reached: compression {line['compression']:.2%}, score "
            f"{line['score']:.5f} after round {best} of {len(lines) - 1}"
        )
    context.console.say(
        f"{context.name}: round {best} is the result: {line['parameters']:,} parameters ({line['compression']:.2%} "
        f"gone), accuracy {_accuracy_of(line):.2%}"
    )


STAGES.add("factorize", Stage(FactorizeSettings, factorize, plan, counts=True))
