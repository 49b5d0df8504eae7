"""The `prune_to_gate` stage: it prunes as much as a network stands without any training.

It raises the amount step by step, measures the accuracy each time, and takes the last amount before the accuracy
falls below the gate. The IMT team did so (CIFAR-10 track; amounts .15 to 1 by .001 on DenseNets).
"""

from collections.abc import Iterator
from fractions import Fraction as Ratio
from typing import Annotated, Literal

from netpress.compression.gate import check_gate, selection_accuracy
from netpress.compression.magnitude import Scope, TooFew, count_removed
from netpress.compression.masks import densities, select_weights, total_density
from netpress.compression.prune import prune_once
from netpress.network import Network
from netpress.settings import Fraction, Settings, between
from netpress.stage import STAGES, Context, Outlook, Plan, Stage


class PruneToGateSettings(Settings):
    """Prune as much as the accuracy stands without training: a sweep up to the gate."""

    kind: Literal["prune_to_gate"] = "prune_to_gate"
    gate: Fraction
    """The accuracy on the selection images that the network must keep, a fraction."""
    step: Annotated[float, between(0.001, 1)] = 0.01
    """By how much the amount rises from one look to the next."""
    first_amount: Fraction = 0.0
    """The amount to begin with; what the network is sparser than is passed over."""
    scope: Scope = "global"
    """global ranks all selected weights together, layer takes the amount from each tensor by itself."""
    layers: str | tuple[str, ...] = "all"
    """Which layers: a kind, a pattern of layer names, or a list of them; all: every tensor of 2 or more dimensions."""


def prune_to_gate(network: Network, settings: PruneToGateSettings, context: Context) -> Network:
    """The network pruned by the largest amount up to which the accuracy stays at the gate or above.

    Every amount is looked at from the network as it came, none is trained. An interrupted sweep goes on
    after the last amount in the stage's metrics. Raises UserError if the accuracy is below the gate to begin with.
    """
    select_weights(network, settings.layers)
    accuracies = {line["amount"]: line["accuracy"] for line in context.logged()}
    context.truncate_log(len(accuracies))
    best = network
    if 0.0 not in accuracies:
        context.log({"amount": 0.0, "accuracy": selection_accuracy(network, context)})
        accuracies = {line["amount"]: line["accuracy"] for line in context.logged()}
    check_gate(settings.gate, accuracies[0.0], context)
    reached = 0.0
    for amount in _amounts(network, settings):
        try:
            pruned, _ = prune_once(network, amount, settings.layers, settings.scope)
        except TooFew:
            break
        if amount not in accuracies:
            accuracies[amount] = selection_accuracy(pruned, context)
            context.log({"amount": amount, "accuracy": accuracies[amount]})
        if accuracies[amount] < settings.gate:
            break
        best, reached = pruned, amount
    total = total_density(densities(best, settings.layers))
    context.console.say(
        f"{context.name}: amount {reached:g} keeps {accuracies[reached]:.2%} (gate {settings.gate:.2%}): "
        f"{total.nonzero:,} of {total.weights:,} weights"
    )
    return best


def plan(outlook: Outlook, settings: PruneToGateSettings) -> Plan:
    """One row: the weights in play and how many amounts there are to look at, at most."""
    total = total_density(densities(outlook.network, settings.layers))
    looks = sum(1 for _ in _amounts(outlook.network, settings))
    row = {"what": "sweep", "weights": total.weights, "nonzero": total.nonzero, "evaluations": looks, "epochs": 0}
    return Plan([row], outlook.network)


def _amounts(network: Network, settings: PruneToGateSettings) -> Iterator[float]:
    """The amounts to look at, rising, below 1, and none that the network is sparser than."""
    rows = densities(network, settings.layers)
    if settings.scope == "global":
        rows = [total_density(rows)]
    step, amount = Ratio(repr(settings.step)), Ratio(repr(settings.first_amount))
    while amount < 1:
        # choose_masks refuses an amount only where every row is sparser.
        if amount > 0 and any(row.weights - row.nonzero <= count_removed(float(amount), row.weights) for row in rows):
            yield float(amount)
        amount += step


STAGES.add("prune_to_gate", Stage(PruneToGateSettings, prune_to_gate, plan, weighs=True))
