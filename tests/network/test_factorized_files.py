"""Files of networks in factors: what is forged in their list of ranks is refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_network import forge

from netpress.errors import Failure
from netpress.models.factorized import Factorized
from netpress.network import Network, create, load, save
from netpress.network.edits.factorizing import Factorize

CONV, GROUPED, LINEAR = "blocks.0.conv2", "blocks.0.conv1", "classifier"


@pytest.fixture(scope="module")
def network() -> Network:
    settings = {"blocks": [2, 1], "growth": 4, "groups": 2, "grouped": "bottleneck1", "image_size": 16}
    made = create("densenet", settings, seed=2)
    made.edit(Factorize.of({CONV: (9, 3), LINEAR: (5,)}))
    generator = torch.Generator().manual_seed(0)
    for name in (CONV, LINEAR):
        for factor in made.module.get_submodule(name).children():
            factor.weight.data.normal_(generator=generator)  # type: ignore[union-attr, operator]
    return made


def logits(network: Network) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = network.module(torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16))
    return answer


def test_a_network_in_factors_comes_back(network: Network, tmp_path: Path) -> None:
    save(network, tmp_path / "a.netpress")
    again = load(tmp_path / "a.netpress")
    assert torch.equal(logits(again), logits(network)) and again.architecture == network.architecture
    layer = again.module.get_submodule(CONV)
    assert isinstance(layer, Factorized) and layer.ranks == (9, 3)


def test_what_is_forged_here_is_accepted_as_it_was(network: Network, tmp_path: Path) -> None:
    """The same ranks said in two edits, the last of which counts: the tests below refuse what is wrong, not that."""
    save(network, tmp_path / "a.netpress")
    first = {"kind": "factorize", "layers": [[CONV, [2, 2]], [LINEAR, [1]]]}
    forge(tmp_path / "a.netpress", lambda values, _: values["architecture"]["edits"].insert(0, first))
    assert torch.equal(logits(load(tmp_path / "a.netpress")), logits(network))


WRONG: dict[str, Any] = {
    "no rank": [[CONV, [9, 0]], [LINEAR, [5]]],
    "below none": [[CONV, [-9, 3]], [LINEAR, [5]]],
    "too many columns": [[CONV, [17, 3]], [LINEAR, [5]]],
    "too many rows": [[CONV, [9, 5]], [LINEAR, [5]]],
    "huge": [[CONV, [10**12, 10**400]], [LINEAR, [5]]],
    "three ranks": [[CONV, [9, 3, 3]], [LINEAR, [5]]],
    "one rank": [[CONV, [9]], [LINEAR, [5]]],
    "no ranks": [[CONV, []], [LINEAR, [5]]],
    "two ranks of two factors": [[CONV, [9, 3]], [LINEAR, [5, 5]]],
    "strings": [[CONV, ["9", "3"]], [LINEAR, [5]]],
    "floats": [[CONV, [9.0, 3.5]], [LINEAR, [5]]],
    "true": [[CONV, [True, True]], [LINEAR, [5]]],
    "other ranks than the tensors'": [[CONV, [8, 3]], [LINEAR, [5]]],
    "other ranks of another layer": [[CONV, [9, 3]], [LINEAR, [4]]],
    "a layer fewer": [[CONV, [9, 3]]],
    "a layer more": [[CONV, [9, 3]], [LINEAR, [5]], ["stem", [2, 2]]],
    "grouped": [[GROUPED, [4]], [CONV, [9, 3]], [LINEAR, [5]]],
    "missing": [["blocks.9.conv2", [9, 3]], [LINEAR, [5]]],
    "a norm": [["blocks.0.norm1", [4]], [CONV, [9, 3]], [LINEAR, [5]]],
    "a block": [["blocks.0", [4, 4]], [LINEAR, [5]]],
    "the network": [["", [4, 4]], [CONV, [9, 3]], [LINEAR, [5]]],
    "no names": [[3, [9, 3]], [LINEAR, [5]]],
    "a table": {CONV: [9, 3], LINEAR: [5]},
    "a string": CONV,
    "nothing": None,
    "a list": [CONV, LINEAR],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_forged_ranks_are_refused_in_one_line(wrong: str, network: Network, tmp_path: Path) -> None:
    path = tmp_path / "a.netpress"
    save(network, path)
    forge(path, lambda values, _: values["architecture"]["edits"][0].update(layers=WRONG[wrong]))
    refused(path)


EDITS: dict[str, list[dict[str, Any]]] = {
    "a factor in factors": [{"layers": [[f"{CONV}.core", [2, 2]]]}],
    "a factor in factors, and again the layer": [{"layers": [[f"{CONV}.core", [2, 2]]]}, {"layers": [[CONV, [9, 3]]]}],
    "a factor of two": [{"layers": [[f"{LINEAR}.last", [2]]]}],
    "more": [{"layers": [[CONV, [9, 3]]], "more": 1}],
    "without layers": [{}],
    "the stem too": [{"layers": [["stem", [3, 8]]]}],
}


@pytest.mark.parametrize("wrong", EDITS)
def test_forged_edits_are_refused_in_one_line(wrong: str, network: Network, tmp_path: Path) -> None:
    path = tmp_path / "a.netpress"
    save(network, path)
    more = [{"kind": "factorize", **values} for values in EDITS[wrong]]
    forge(path, lambda values, _: values["architecture"]["edits"].extend(more))
    refused(path)


def refused(path: Path) -> None:
    with pytest.raises(Failure) as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and "\n" not in said and said.isprintable() and len(said) < 1000


@pytest.mark.parametrize("name", [f"{CONV}.core", f"{CONV}.first", f"{LINEAR}.last"])
def test_a_factor_has_no_factors(name: str, network: Network) -> None:
    before = str(network.module)
    with pytest.raises(TypeError, match=rf"{name}: a factor itself"):
        network.edit(Factorize.of({name: (1, 1)}))
    assert str(network.module) == before and len(network.architecture.edits) == 1
