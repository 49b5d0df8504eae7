"""The gate: the accuracy on the selection images that a network must keep while it is compressed."""

from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.network import Network
from netpress.stage import Context


def selection_accuracy(network: Network, context: Context) -> float:
    """Accuracy of `network` on the selection images, a fraction. Raises UserError where there is no data."""
    return evaluate(network, context.data.selection, device=context.device).accuracy


def check_gate(gate: float, accuracy: float, context: Context) -> None:
    """Raise UserError where the network that a stage was given, with this accuracy, is below the gate to begin with."""
    if accuracy < gate:
        raise UserError(
            f"{context.name}: gate {gate:g} is above the network's accuracy as it is, {accuracy:.2%} "
            "on the selection images; train it further, or lower the gate"
        )
