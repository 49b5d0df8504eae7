"""KAIST's released weights as a network (`netpress import kaist FILE.t7 --out NETWORK`)."""

from pathlib import Path

import torch

from netpress.imports.released import read_released
from netpress.models.registry import choose_model
from netpress.network import Architecture, InputSpec, Network


def import_kaist(path: Path | str) -> Network:
    """The network in one of KAIST's released `.t7` files, ready to evaluate, score, prune on or save.

    Its stride-2 blocks keep the gates that are computed and not applied, as released; its masks are its
    non-zero weights. Raises UserError or Failure as `read_released` does.
    """
    released = read_released(path)
    choice = choose_model(released.family, values=released.settings)
    with torch.device("meta"):
        module = choice.build()
    module.load_state_dict(released.state, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    settings = choice.settings
    spec = InputSpec(settings.channels, settings.image_size, settings.image_size, released.mean, released.std)
    architecture = Architecture(released.family, released.settings)
    facts = {"imported_from": Path(path).name, "dataset": "cifar100"}
    return Network(module.eval(), architecture, spec, released.classes, masks=released.masks, facts=facts)
