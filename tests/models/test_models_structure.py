"""Choosing layers, editing structure, folding norms."""

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from netpress.errors import Failure, UserError
from netpress.models.registry import build_model, parse_model
from netpress.network.edits import EDITS, Edit, replay
from netpress.network.edits.folding import FoldNorms, Pair
from netpress.network.selection import kinds_of, select
from netpress.tracing.foldable import find_foldable_norms


def fold_norms(module: nn.Module, size: tuple[int, int, int] = (3, 32, 32)) -> list[Pair]:
    """Fold every norm that can be, in place."""
    pairs = find_foldable_norms(module, size)
    FoldNorms(pairs=tuple(pairs)).apply(module)
    return pairs


def unsettle_norms(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm statistics and factors that do something (also negative ones), as training would."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            if layer.track_running_stats:
                layer.running_mean.normal_(generator=generator)
                layer.running_var.uniform_(0.5, 2.0, generator=generator)
            for parameter in layer.parameters():
                nn.init.normal_(parameter, 1.0, 0.5, generator=generator)
    return module


class Mixed(nn.Module):
    """Norms that may be folded, and all the reasons why one may not."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Conv2d(3, 4, 3, padding=1, bias=True)
        self.good_norm = nn.BatchNorm2d(4)
        self.before_norm = nn.BatchNorm2d(4)  # pre-activation: feeds a convolution
        self.read_twice = nn.Conv2d(4, 4, 1)
        self.read_twice_norm = nn.BatchNorm2d(4)
        self.run_twice = nn.Conv2d(4, 4, 1)
        self.run_twice_norm = nn.BatchNorm2d(4)
        self.batch_norm_of_a_sum = nn.BatchNorm2d(4)
        self.no_statistics = nn.Conv2d(4, 4, 1)
        self.no_statistics_norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.weight_read = nn.Conv2d(4, 4, 1)
        self.weight_read_norm = nn.BatchNorm2d(4)
        self.plain = nn.Conv2d(4, 6, 1, bias=False)
        self.plain_norm = nn.BatchNorm2d(6, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.good_norm(self.good(x))
        x = self.before_norm(x).relu()
        y = self.read_twice(x)
        x = self.read_twice_norm(y) + y
        x = self.run_twice_norm(self.run_twice(x))
        x = x + self.run_twice(x)
        x = self.batch_norm_of_a_sum(x)
        x = self.no_statistics_norm(self.no_statistics(x))
        x = self.weight_read_norm(self.weight_read(x)) * self.weight_read.weight.sum()
        return self.plain_norm(self.plain(x))


def test_only_norms_that_follow_their_convolution_are_folded() -> None:
    module = unsettle_norms(Mixed()).eval()
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = module(images)
    pairs = fold_norms(module)
    assert pairs == [("good", "good_norm"), ("plain", "plain_norm")]
    assert isinstance(module.good_norm, nn.Identity) and isinstance(module.before_norm, nn.BatchNorm2d)
    assert torch.allclose(before, module(images), atol=1e-4)
    assert fold_norms(module) == [("good", "before_norm")]  # which follows the convolution directly only now
    assert torch.allclose(before, module(images), atol=1e-4)
    assert fold_norms(module) == []


FAMILIES = [
    "c_efficientnet:tiny",
    "c_efficientnet:tiny,downsample=shortcut",
    "efficientnet:width=0.2,depth=0.3,stem_stride=2",
    "efficientnet:width=0.2,depth=0.3,head=linear",
    "densenet:growth=4,blocks=[2,3]",
    "pyramidnet:depth=20,alpha=12",
    "wide_resnet:depth=10,width=1",
    "resnet:width=8",
]


@pytest.mark.parametrize("text", FAMILIES)
def test_folding_keeps_what_a_family_computes(text: str) -> None:
    module = unsettle_norms(parse_model(text).build()).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = module(images)
    pairs = fold_norms(module)
    assert pairs
    after = module(images)
    assert (before - after).abs().max() <= 1e-5 * max(1.0, before.abs().max().item())


def test_every_norm_of_c_efficientnet_can_be_folded() -> None:
    with torch.device("meta"):
        module = parse_model("c_efficientnet:v1").build()
    assert len(find_foldable_norms(module, (3, 32, 32))) == sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


@pytest.mark.parametrize(
    ("text", "folded", "kept"),
    [
        # Norms before a ReLU and a 1x1 convolution, or after a concatenation, stay: only norm2 follows its convolution.
        ("densenet:bc-100-12", 48, 51),
        ("pyramidnet:272", 271, 91),  # first of each block and the last stay (Wave folded the same 271)
        ("wide_resnet:28-10", 13, 12),  # the stem's output goes into one norm only, as the first block widens
        ("resnet:18", 20, 0),
        ("efficientnet:b0", 49, 0),
    ],
)
def test_norms_before_their_convolution_are_not_folded(text: str, folded: int, kept: int) -> None:
    with torch.device("meta"):
        module = parse_model(text).build()
    pairs = find_foldable_norms(module, (3, 32, 32))
    assert len(pairs) == folded
    assert sum(isinstance(m, nn.BatchNorm2d) for m in module.modules()) - folded == kept


def test_folding_keeps_zeros_zero_and_the_mode() -> None:
    module = unsettle_norms(parse_model("c_efficientnet:tiny").build()).train()
    with torch.no_grad():
        for _, layer in select(module, "all"):
            layer.weight[..., ::2] = 0
    zeros = {name: layer.weight == 0 for name, layer in select(module, "all")}
    fold_norms(module)
    assert module.training
    for name, layer in select(module, "all"):
        assert not layer.weight[zeros[name]].any()


def test_a_folded_network_is_rebuilt_on_shapes() -> None:
    module = unsettle_norms(parse_model("c_efficientnet:tiny").build()).eval()
    edit = FoldNorms(pairs=tuple(fold_norms(module)))
    with torch.device("meta"):
        rebuilt = build_model("c_efficientnet", parse_model("c_efficientnet:tiny").settings.model_dump(mode="json"))
        replay(rebuilt, [edit.model_dump(mode="json")])
    rebuilt.load_state_dict(module.state_dict(), assign=True)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(module(images), rebuilt.eval()(images))


def test_a_module_that_cannot_be_traced_is_a_clear_error() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="Branching: its norms cannot be folded"):
        fold_norms(Branching())


def test_an_unknown_or_unfitting_edit_is_a_failure() -> None:
    module = parse_model("c_efficientnet:tiny").build()
    with pytest.raises(Failure, match=r"'fold_everything' is unknown.*fold_norms"):
        replay(module, [{"kind": "fold_everything"}])
    with pytest.raises(Failure, match="fold_norms does not fit"):
        replay(module, [{"kind": "fold_norms", "pairs": [["stem.conv", "no.such.norm"]]}])
    with pytest.raises(Failure, match="fold_norms does not fit"):
        replay(module, [{"kind": "fold_norms", "pairs": [["stem.norm", "stem.conv"]]}])


def test_an_edit_of_ones_own() -> None:
    class Append(Edit):
        kind: Literal["append in a test"] = "append in a test"
        outputs: int

        def apply(self, module: nn.Module) -> None:
            assert isinstance(module, nn.Sequential)
            module.append(nn.Linear(2, self.outputs))

    EDITS.add("append in a test", Append)
    with pytest.raises(ValueError, match="registered twice"):
        EDITS.add("append in a test", Append)
    module = nn.Sequential(nn.Linear(3, 2))
    replay(module, [Append(outputs=5).model_dump(mode="json")])
    assert module(torch.zeros(1, 3)).shape == (1, 5)


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
