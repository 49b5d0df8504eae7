"""The `prune_to_gate` stage: it prunes as much as a network stands without any training.

It raises the amount step by step, measures the accuracy each time, and takes the last amount before the accuracy
falls below the gate. With `search = "bisection"` it halves the amounts instead, which takes fifteen looks where the
scan takes hundreds. `search = "sweep"` looks at all of them and takes the last that reaches the gate, as the IMT team
did (CIFAR-10 track; amounts .15 to 1 by .001 on DenseNets, drawn as a curve beside a line at 90%).
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction as Ratio
from typing import Annotated, Literal, Self

from pydantic import model_validator

from netpress.compression.gate import check_gate, selection_accuracy
from netpress.compression.magnitude import Scope, TooFew, count_removed
from netpress.compression.masks import densities, select_patterns, total_density
from netpress.compression.prune import prune_once
from netpress.network import Network
from netpress.numerics.block_masks import BlockSize
from netpress.settings import Count, Fraction, Settings, between
from netpress.stage import STAGES, Context, Outlook, Plan, Stage


class PruneToGateSettings(Settings):
    """Prune as much as the accuracy stands without training: a sweep up to the gate."""

    kind: Literal["prune_to_gate"] = "prune_to_gate"
    gate: Fraction
    """The accuracy on the selection images that the network must keep, a fraction."""
    below_gate: Literal["refuse", "keep"] = "refuse"
    """What becomes of a network that is below the gate as it comes: an error, or it stays as it is, with a warning."""
    step: Annotated[float, between(0.001, 1)] = 0.01
    """By how much the amount rises from one look to the next."""
    first_amount: Fraction = 0.0
    """The amount to begin with; what the network is sparser than is passed over."""
    last_amount: Fraction = 1.0
    """The amount to end with at the latest; of all weights none would be left, so 1 is never looked at."""
    search: Literal["scan", "bisection", "sweep"] = "scan"
    """scan looks at each amount up to the first one below the gate; bisection halves them, then confirms its find;
    sweep looks at all, and takes the last that reaches the gate, whatever lies below the gate before it."""
    confirm: Count = 5
    """bisection: so many amounts right below the result must reach the gate as well."""
    scope: Scope = "global"
    """global ranks all selected weights together, layer takes the amount from each tensor by itself."""
    layers: str | tuple[str, ...] = "all"
    """Which layers: a kind, a pattern of layer names, or a list of them; all: every tensor of 2 or more dimensions."""
    pattern: BlockSize | None = None
    """Blocks of [outputs, inputs] weights that stay or go as a whole, as [1, 4]; a mask costs one bit a block then."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.search != "bisection" and self.confirm != type(self).model_fields["confirm"].default:
            raise ValueError(f"confirm = {self.confirm} needs search = 'bisection': a {self.search} confirms nothing")
        if self.last_amount < self.first_amount:
            raise ValueError(f"last_amount = {self.last_amount:g} is less than first_amount, {self.first_amount:g}")
        return self


def prune_to_gate(network: Network, settings: PruneToGateSettings, context: Context) -> Network:
    """The network pruned by the largest amount that the search finds at the gate or above.

    Every amount is looked at from the network as it came, none is trained. An interrupted sweep goes on
    with the looks in the stage's metrics. Raises UserError if the accuracy is below the gate to begin with, unless
    such a network is to be kept.

    search "scan": the last amount before the first one below the gate. search "sweep": the last amount that reaches
    the gate, all being looked at. It is never less than the scan's. search "bisection": halving ends at an amount
    that reaches the gate while the next one does not. A scan from there downwards confirms it: the result is the
    largest amount that reaches the gate together with the `confirm` amounts below it. It is never less than the
    scan's. It is more where the accuracy dips below the gate further down and comes back, and neither the halving nor
    the confirmation looked at that dip: there the scan would have stopped.
    """
    select_patterns(network, settings.layers, settings.pattern)  # refused before anything is done
    looks = _Looks(network, settings, context)
    if settings.below_gate == "keep" and looks.accuracies[0.0] < settings.gate:
        context.console.warn(
            f"{context.name}: {looks.accuracies[0.0]:.2%} is below the gate, {settings.gate:.2%}: nothing is pruned"
        )
        return network
    check_gate(settings.gate, looks.accuracies[0.0], context)
    reached = _SEARCHES[settings.search](list(_amounts(network, settings)), looks, settings.confirm)
    best = prune_once(network, reached, settings.layers, settings.scope, settings.pattern)[0] if reached else network
    total = total_density(densities(best, settings.layers))
    context.console.say(
        f"{context.name}: amount {reached:g} keeps {looks.accuracies[reached]:.2%} (gate {settings.gate:.2%}): "
        f"{total.nonzero:,} of {total.weights:,} weights"
    )
    return best


class _Looks:
    """The accuracy at each amount, measured once and kept in the stage's metrics; that at 0 is there from the start."""

    def __init__(self, network: Network, settings: PruneToGateSettings, context: Context) -> None:
        self.network, self.settings, self.context = network, settings, context
        self.accuracies: dict[float, float] = {line["amount"]: line["accuracy"] for line in context.logged()}
        context.truncate_log(len(self.accuracies))
        if 0.0 not in self.accuracies:
            self._keep(0.0, network)

    def passes(self, amount: float) -> bool:
        """Whether the network pruned by `amount` reaches the gate. One that would empty a tensor does not."""
        if amount not in self.accuracies:
            asked = self.settings
            try:
                pruned, _ = prune_once(self.network, amount, asked.layers, asked.scope, asked.pattern)
            except TooFew:
                return False
            self._keep(amount, pruned)
        return self.accuracies[amount] >= self.settings.gate

    def _keep(self, amount: float, pruned: Network) -> None:
        self.accuracies[amount] = selection_accuracy(pruned, self.context)
        self.context.log({"amount": amount, "accuracy": self.accuracies[amount]})


def _scan(amounts: Sequence[float], looks: _Looks, confirm: int) -> float:
    """The last of the rising `amounts` before the first that fails; 0 where that is the first of all."""
    reached = 0.0
    for amount in amounts:
        if not looks.passes(amount):
            break
        reached = amount
    return reached


def _sweep(amounts: Sequence[float], looks: _Looks, confirm: int) -> float:
    """The last of the rising `amounts` that passes, after a look at each; 0 where none does."""
    return max([amount for amount in amounts if looks.passes(amount)], default=0.0)


def _bisect(amounts: Sequence[float], looks: _Looks, confirm: int) -> float:
    """The amount that halving ends at, or the next below it that passes with the `confirm` amounts below; 0 for none.

    Fewer amounts below than `confirm` are enough where the list begins: below its first lies the network as it came.
    """
    passing, failing = -1, len(amounts)  # places in the list: before its first all is well, after its last nothing is
    while failing - passing > 1:
        middle = (passing + failing) // 2
        if looks.passes(amounts[middle]):
            passing = middle
        else:
            failing = middle
    found = place = passing
    while place >= 0 and found - place <= confirm:
        if not looks.passes(amounts[place]):
            found = place - 1
        place -= 1
    return amounts[found] if found >= 0 else 0.0


_SEARCHES = {"scan": _scan, "sweep": _sweep, "bisection": _bisect}


def plan(outlook: Outlook, settings: PruneToGateSettings) -> Plan:
    """One row: the weights in play and how many amounts there are to look at, at most.

    A bisection that has to go down, because what it found is not confirmed, takes more looks than this.
    """
    select_patterns(outlook.network, settings.layers, settings.pattern)
    total = total_density(densities(outlook.network, settings.layers))
    looks = sum(1 for _ in _amounts(outlook.network, settings))
    if settings.search == "bisection":
        looks = min(looks, looks.bit_length() + settings.confirm)
    row = {"what": "sweep", "weights": total.weights, "nonzero": total.nonzero, "evaluations": looks, "epochs": 0}
    return Plan([row], outlook.network, undecided=("flash", "score"))


def _amounts(network: Network, settings: PruneToGateSettings) -> Iterator[float]:
    """The amounts to look at, rising, below 1, `last_amount` at most, and none that the network is sparser than."""
    rows = densities(network, settings.layers)
    if settings.scope == "global":
        rows = [total_density(rows)]
    step, amount = Ratio(repr(settings.step)), Ratio(repr(settings.first_amount))
    while amount < 1 and amount <= Ratio(repr(settings.last_amount)):
        # choose_masks refuses an amount only where every row is sparser.
        if amount > 0 and any(row.weights - row.nonzero <= count_removed(float(amount), row.weights) for row in rows):
            yield float(amount)
        amount += step


STAGES.add("prune_to_gate", Stage(PruneToGateSettings, prune_to_gate, plan, weighs=True))
