"""What a stage plans is what its run leaves: structure, shapes and masks, on weights as on shapes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from netpress.data import Dataset
from netpress.network import Network, copy, create
from netpress.process.console import Console
from netpress.process.world import World
from netpress.settings import Settings, parse
from netpress.stage import STAGES, Context, Outlook, foresee

ONE = {"epochs": 1, "augment": {"crop": 0}}
CHAINS: list[list[dict[str, Any]]] = [
    [{"kind": "train", **ONE}, {"kind": "fold"}],
    [{"kind": "prune", "amount": 0.5, "scope": "layer"}, {"kind": "prune", "amount": 0.75, "scope": "layer"}],
    [{"kind": "prune", "amount": 0.5, "layers": "pointwise"}, {"kind": "fold"}, {"kind": "quantize"}],
    [{"kind": "prune_to_gate", "gate": 0.0, "step": 0.5}, {"kind": "quantize", "preset": "fixed-9-12"}],
    [{"kind": "factorize", "keep": 1.0, "images": 8, "selection": {"kind": "global"}}, {"kind": "fold"}],
    [{"kind": "quantize", "preset": "int4"}, {"kind": "quantize", "preset": "int8"}],
    [{"kind": "prune_channels", "keep": 0.6, "scope": "layer"}, {"kind": "fold"}, {"kind": "quantize"}],
]


def network_of(shapes: bool = False) -> Network:
    settings = {"widths": "tiny", "width_factor": 0.5, "classes": 4, "image_size": 8}
    return create("c_efficientnet", settings, classes=("a", "b", "c", "d"), seed=3, shapes=shapes)


def settings_of(chain: list[dict[str, Any]]) -> list[Settings]:
    return [parse(STAGES[values["kind"]].settings, values, "stages") for values in chain]


def structure(network: Network) -> dict[str, Any]:
    """What the next stage can see of a network without its values."""
    tensors = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in network.module.state_dict().items()}
    return {"architecture": network.architecture, "tensors": tensors, "formats": network.formats}


def left(network: Network) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in network.masks.items()}


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "-".join(values["kind"] for values in chain))
def test_each_stage_plans_what_it_leaves(chain: list[dict[str, Any]], shades: Dataset, tmp_path: Path) -> None:
    network, outlook = network_of(), Outlook(network_of(), images=len(shades.train), first_edits=())
    for place, settings in enumerate(settings_of(chain)):
        stage = STAGES[chain[place]["kind"]]
        before = structure(outlook.network), left(outlook.network)
        planned = stage.plan(outlook, settings).network
        assert (structure(outlook.network), left(outlook.network)) == before, "a plan changed what it was given"
        folder = tmp_path / str(place)
        folder.mkdir()
        context = Context(folder, World(torch.device("cpu")), 1, Console(quiet=True), shades, copy(network))
        network = stage.run(network, settings, context)
        ours, theirs = structure(planned), structure(network)
        assert ours["architecture"] == theirs["architecture"] and ours["tensors"] == theirs["tensors"]
        if stage.kind == "prune":
            assert left(planned) == left(network)
        outlook = Outlook(planned, images=len(shades.train), first_edits=())


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "-".join(values["kind"] for values in chain))
def test_shapes_alone_plan_the_same_structure(chain: list[dict[str, Any]]) -> None:
    plans = [
        foresee(settings_of(chain), Outlook(network_of(shapes), images=100, first_edits=())) for shapes in (False, True)
    ]
    assert plans[0].keys() == plans[1].keys() and len(plans[0]) == len(chain)
    for drawn, shaped in zip(plans[0].values(), plans[1].values(), strict=True):
        assert structure(drawn.network) == structure(shaped.network)
        assert [row["what"] for row in drawn.rows] == [row["what"] for row in shaped.rows]
        assert all(parameter.is_meta for parameter in shaped.network.module.parameters())


def test_a_kind_of_stage_is_a_file_of_its_name() -> None:
    for kind, module in STAGES.built_in.items():
        assert module.rpartition(".")[2] == kind == STAGES[kind].kind
        assert STAGES[kind].description.endswith(".")
