"""Which layers a setting means: kinds, patterns, lists, and errors that help."""

import copy

import pytest
from torch import nn

from netpress.errors import UserError
from netpress.models.registry import parse_model
from netpress.network.selection import kinds_of, select


def test_selection_by_kind_pattern_and_list() -> None:
    module = parse_model("c_efficientnet:tiny").build()
    everything = [name for name, _ in select(module, "all")]
    assert [name for name, _ in select(module, "stem")] == ["stem.conv"]
    assert [name for name, _ in select(module, ["classifier", "stem"])] == ["stem.conv", "classifier"]
    chosen = [name for name, _ in select(module, ["blocks.0.*", "blocks.0.expand.conv"])]
    assert chosen == [name for name in everything if name.startswith("blocks.0.")]
    kinds = kinds_of(module)
    assert "grouped" not in kinds
    assert sorted(kinds["conv"] + kinds["linear"]) == sorted(everything)
    assert not set(kinds["stem"] + kinds["depthwise"] + kinds["classifier"]) & set(kinds["pointwise"])
    assert set(kinds["squeeze_excite"]) < set(kinds["pointwise"])


def test_selection_tells_grouped_from_depthwise() -> None:
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 16, 3, groups=8))
    kinds = kinds_of(module)
    assert (kinds["stem"], kinds["grouped"], kinds["depthwise"]) == (["0"], ["1"], ["2"])


@pytest.mark.parametrize("what", ["block.*", "grouped", ["stem", "pointwize"]])
def test_a_selection_of_nothing_is_an_error_that_helps(what: str | list[str]) -> None:
    module = copy.deepcopy(parse_model("c_efficientnet:tiny").build())
    with pytest.raises(UserError) as caught:
        select(module, what, "stages.1.prune.layers")
    message = str(caught.value)
    assert message.startswith("stages.1.prune.layers: ")
    for part in ("pointwise", "stem.conv", "classifier", repr(what if isinstance(what, str) else what[-1])):
        assert part in message
