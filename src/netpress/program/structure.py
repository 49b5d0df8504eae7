"""Whether integer arithmetic has an operation for all that a network does, told before the network has weights."""

import json
from functools import lru_cache

import torch

from netpress.errors import UserError
from netpress.models.registry import IMPORTED
from netpress.network import Architecture, InputSpec, Network, build
from netpress.program.integer_lowering import FREE, to_integers
from netpress.program.lowering import has_integer_arithmetic, lower_floats


def check_operations(network: Network) -> None:
    """Refuse what integer arithmetic has no operation for; networks of other arithmetic pass.

    Structure alone decides, so shapes will do. How wide sums of products may become, weights decide: `lower` says that.
    Raises UserError, naming the layer.
    """
    if not has_integer_arithmetic(network):
        return
    architecture = network.architecture
    if architecture.family == IMPORTED:
        _translate(network)
    else:
        refusal = _refusal(json.dumps([architecture.family, architecture.settings, architecture.edits]), network.input)
        if refusal is not None:
            raise UserError(refusal)


@lru_cache(maxsize=32)
def _refusal(architecture: str, spec: InputSpec) -> str | None:
    """What is said of any weights; asked once of each structure, which a search for settings plans many times."""
    described = Architecture(*json.loads(architecture))
    module = build(described).to_empty(device="cpu")
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.fill_(1 if name.endswith(("_scale", "running_var")) else 0)
    try:
        _translate(Network(module.eval(), described, spec, ()))
    except UserError as error:
        return str(error)
    return None


def _translate(network: Network) -> None:
    try:
        program = lower_floats(network)
    except UserError as error:
        raise UserError(f"{error}{FREE}") from error
    to_integers(program, network.input)
