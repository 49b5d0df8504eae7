"""What the `factorize` stage would do, told from shapes: all layers are taken to lose equal shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from netpress.compression.factorization.layers import Candidate, find_candidates
from netpress.compression.factorization.selection import Ranking, State, count_kept, first_step
from netpress.compression.factorization.settings import FactorizeSettings
from netpress.compression.factorization.sizes import Sizes, measure_score
from netpress.compression.factorization.targets import Aim, choose_step
from netpress.models.factorized import Factorized, full_ranks, has_core, layer_widths
from netpress.network import copy
from netpress.stage import Outlook, Plan, PlanRow
from netpress.training.train import check_real, plan_answers

STEPS = 1000  # of a way of equal shares


@dataclass
class EqualShares:
    """A way on which all layers lose equal shares of rows and columns, up to `limit`."""

    candidates: Sequence[Candidate]
    limit: float
    replaces_all: bool
    steps: int = STEPS

    def state(self, step: int) -> State:
        gone = self.limit * step / self.steps
        state: State = {}
        for one in self.candidates:
            rows, columns = (max(1, side - int(gone * side)) for side in one.sides)
            smaller = one.weights(rows, columns) < one.alive
            state[one.name] = (rows, columns) if smaller or self.replaces_all else None
        return state

    def at_share(self, share: float) -> int | None:
        rankings = [_unknown(one) for one in self.candidates]

        def keeps(step: int) -> bool:
            kept, every = count_kept(rankings, self.state(step))
            return kept <= share * every

        return self.steps if self.replaces_all and not keeps(self.steps) else first_step(self.steps, keeps)


def plan(outlook: Outlook, settings: FactorizeSettings) -> Plan:
    """A row for the rounds, one for each layer with estimated ranks, one for each that stays whole, with the reason.

    Raises UserError for what the stage would refuse: layers that cannot be factorized, a target that no ranks reach, a
    quantized network, a training that could not begin.
    """
    outlook.refuse_quantized("factorizing", "put it before")
    regrowth = settings.regrow.train if settings.regrow else None
    trainings = [one for one in (settings.train, settings.train_larger, regrowth) if one is not None]
    for training in trainings:
        check_real(outlook, training)
    network = outlook.network
    found = find_candidates(network, settings.layers)
    rankings = [_unknown(one) for one in found.candidates]
    sizes = Sizes(network, rankings, outlook.score_settings)
    cuts = settings.rounds if settings.regrow is None else (settings.rounds + 1) // 2
    replaces_all = settings.selection.kind == "global"
    way = EqualShares(found.candidates, 1 - (1 - settings.selection.limit) ** cuts, replaces_all)
    targeted = (settings.compression, settings.score) != (None, None)
    share = None if settings.share is None or (cuts > 1 and targeted) else settings.share**cuts
    if share is None and not targeted:  # as much as the gate allows, which nobody knows yet
        state = way.state(0)
    else:
        if cuts > 1 and settings.share is not None:  # the first round must reach it, later ones do what they can
            once = EqualShares(found.candidates, settings.selection.limit, replaces_all)
            alone = settings.model_copy(update={"compression": None, "score": None})
            choose_step(once, rankings, Aim(alone, sizes.before, settings.share), sizes)
        state = way.state(choose_step(way, rankings, Aim(settings, sizes.before, share, cuts > 1), sizes))
    planned = sizes.network(state)
    lengths = cuts * _epochs(settings.train), (settings.rounds - cuts) * _epochs(regrowth)
    kept = plan_answers(outlook, (settings.train, lengths[0]), (regrowth, lengths[1]))
    masked = any(one.zeros for one in found.candidates)
    rows = [_plan_rounds(settings, sizes, state, sum(lengths)) | kept]
    rows += [_plan_layer(one, state, masked) for one in found.candidates]
    rows += [{"what": name, "stays_whole": reason} for name, reason in found.left.items()]
    return Plan(rows, planned, undecided=("flash", "ram", "score") if share is None and not targeted else ())


def _plan_rounds(settings: FactorizeSettings, sizes: Sizes, state: State, epochs: int) -> PlanRow:
    """All rounds in one row; where masks end, with the score that the network would have had less if they did not."""
    row: PlanRow = {
        "what": "one round" if settings.rounds == 1 else f"at most {settings.rounds} rounds",
        "parameters": sizes.before,
        "left": sizes.parameters(state),
        "score": sizes.score_before,
        "score_left": sizes.score(state),
        "epochs": epochs,
    }
    ended = [one for one in sizes.candidates.values() if one.zeros and state[one.name] is not None]
    if ended:
        # On shapes: values that a mask set to zero would count as gone without it too.
        unmasked = copy(sizes.shapes)
        inside = tuple(f"{one.name}." for one in ended)
        unmasked.masks = {name: mask for name, mask in unmasked.masks.items() if not name.startswith(inside)}
        row["mask_ends"] = sum(one.zeros for one in ended)
        row["mask_ends_score"] = measure_score(unmasked, sizes.settings) - sizes.score_before
    return row


def _unknown(candidate: Candidate) -> Ranking:
    return Ranking(candidate, torch.ones(candidate.sides, dtype=torch.float64, device="meta"))


def _epochs(training: object) -> int:
    return int(getattr(training, "epochs", 0))


def _plan_layer(candidate: Candidate, state: State, masked: bool) -> PlanRow:
    """`masked`: whether any layer has a mask, so that all rows say what ends."""
    row: PlanRow = {"what": candidate.name, "shape": candidate.description, "weights": candidate.alive}
    full = full_ranks(*layer_widths(candidate.layer), has_core(candidate.layer))
    sides = state[candidate.name]
    if sides is None:
        ranks = candidate.layer.ranks if isinstance(candidate.layer, Factorized) else None
        row |= {"ranks": _say(ranks) if ranks else "whole", "of": _say(full), "left": candidate.alive}
    else:
        row |= {"ranks": _say(candidate.ranks(*sides)), "of": _say(full), "left": int(candidate.weights(*sides))}
    row["estimated"] = True
    if masked:
        row["mask_ends"] = candidate.zeros if sides is not None else 0
    return row


def _say(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))
