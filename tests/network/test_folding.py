"""Folding norms: the score card and the edit give one answer, and what was folded calculates the same."""

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from netpress.errors import UserError
from netpress.models.registry import build_model, parse_model
from netpress.network.edits import replay
from netpress.network.edits.folding import FoldNorms, Pair
from netpress.network.selection import select
from netpress.scoring import score
from netpress.tracing import trace
from netpress.tracing.foldable import find_foldable_norms

Size = tuple[int, ...]


class Flow(nn.Module):
    """Layers by name, and how an image goes through them."""

    def __init__(self, flow: Callable[..., Tensor | tuple[Tensor, ...]], **layers: nn.Module) -> None:
        super().__init__()
        self.flow = flow
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.flow(self, x)


def conv(**settings: int) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 1, bias=False, **settings)  # type: ignore[arg-type]


def tied() -> Flow:
    flow = Flow(lambda m, x: m.norm(m.b(m.norm(m.a(x)))), a=conv(), b=conv(), norm=nn.BatchNorm2d(4))
    flow.b.weight = flow.a.weight
    return flow


IMAGE = (4, 5, 5)
MODULES: dict[str, tuple[Flow, Size, set[str]]] = {
    "linear and norm": (
        Flow(lambda m, x: m.norm(m.linear(x.flatten(1))), linear=nn.Linear(100, 6), norm=nn.BatchNorm1d(6)),
        IMAGE,
        {"norm"},
    ),
    "a linear layer along another dimension than its norm": (
        Flow(lambda m, x: m.norm(m.linear(x)), linear=nn.Linear(4, 4), norm=nn.BatchNorm1d(4)),
        (4, 4),
        set(),
    ),
    "transposed": (
        Flow(
            lambda m, x: m.norm(m.up(x)), up=nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False), norm=nn.BatchNorm2d(6)
        ),
        IMAGE,
        {"norm"},
    ),
    "transposed, in groups": (
        Flow(lambda m, x: m.norm(m.up(x)), up=nn.ConvTranspose2d(4, 6, 3, groups=2), norm=nn.BatchNorm2d(6)),
        IMAGE,
        {"norm"},
    ),
    "in groups": (Flow(lambda m, x: m.norm(m.conv(x)), conv=conv(groups=2), norm=nn.BatchNorm2d(4)), IMAGE, {"norm"}),
    "along a line": (
        Flow(lambda m, x: m.norm(m.conv(x)), conv=nn.Conv1d(4, 6, 3), norm=nn.BatchNorm1d(6)),
        (4, 9),
        {"norm"},
    ),
    "dropout between": (
        Flow(lambda m, x: m.norm(m.drop(m.conv(x))), conv=conv(), drop=nn.Dropout(0.3), norm=nn.BatchNorm2d(4)),
        IMAGE,
        {"norm"},
    ),
    "nothing between": (
        Flow(lambda m, x: m.norm(m.none(m.conv(x))), conv=conv(), none=nn.Identity(), norm=nn.BatchNorm2d(4)),
        IMAGE,
        {"norm"},
    ),
    "an activation between": (
        Flow(lambda m, x: m.norm(m.relu(m.conv(x))), conv=conv(), relu=nn.ReLU(), norm=nn.BatchNorm2d(4)),
        IMAGE,
        set(),
    ),
    "used twice, the same norm after each": (
        Flow(lambda m, x: m.norm(m.conv(m.norm(m.conv(x)))), conv=conv(), norm=nn.BatchNorm2d(4)),
        IMAGE,
        {"norm"},
    ),
    "used twice, two norms": (
        Flow(
            lambda m, x: m.b(m.conv(m.a(m.conv(x)))),
            conv=conv(),
            a=nn.BatchNorm2d(4),
            b=nn.BatchNorm2d(4, affine=False),
        ),
        IMAGE,
        set(),
    ),
    "used twice, once without a norm": (
        Flow(lambda m, x: m.conv(m.norm(m.conv(x))), conv=conv(), norm=nn.BatchNorm2d(4)),
        IMAGE,
        set(),
    ),
    "a norm of two layers": (
        Flow(lambda m, x: m.norm(m.b(m.norm(m.a(x)))), a=conv(), b=nn.Conv2d(4, 4, 3), norm=nn.BatchNorm2d(4)),
        IMAGE,
        {"norm"},
    ),
    "a norm of a layer and of a sum": (
        Flow(lambda m, x: m.norm(x + m.norm(m.a(x))), a=conv(), norm=nn.BatchNorm2d(4)),
        IMAGE,
        set(),
    ),
    "a norm of two layers, one of which cannot take it": (
        Flow(
            lambda m, x: m.b(m.two(m.a(m.two(m.a(m.one(x)) + x)))),
            one=conv(),
            two=conv(),
            a=nn.BatchNorm2d(4),
            b=nn.BatchNorm2d(4),
        ),
        IMAGE,
        set(),  # two is followed by a and by b; so a stays, after one as well
    ),
    "two layers with one weight": (tied(), IMAGE, {"norm"}),
    "the output is read elsewhere": (
        Flow(lambda m, x: (y := m.conv(x), m.norm(y))[1] + y, conv=conv(), norm=nn.BatchNorm2d(4)),
        IMAGE,
        set(),
    ),
    "the output is returned too": (
        Flow(lambda m, x: (y := m.conv(x), m.norm(y)), conv=conv(), norm=nn.BatchNorm2d(4)),
        IMAGE,
        set(),
    ),
    "the weight is read elsewhere": (
        Flow(lambda m, x: m.norm(m.conv(x)) * m.conv.weight.sum(), conv=conv(), norm=nn.BatchNorm2d(4)),
        IMAGE,
        set(),
    ),
    "the norm is read elsewhere": (
        Flow(lambda m, x: m.norm(m.conv(x)) + m.norm.bias[0], conv=conv(), norm=nn.BatchNorm2d(4)),
        IMAGE,
        set(),
    ),
    "without statistics": (
        Flow(lambda m, x: m.norm(m.conv(x)), conv=conv(), norm=nn.BatchNorm2d(4, track_running_stats=False)),
        IMAGE,
        set(),
    ),
    "without factors": (
        Flow(lambda m, x: m.norm(m.conv(x)), conv=conv(), norm=nn.BatchNorm2d(4, affine=False)),
        IMAGE,
        {"norm"},
    ),
}

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


def unsettle_norms(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give every norm statistics and factors that do something (also negative ones), as training would."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for parameter in part.parameters():
                nn.init.normal_(parameter, 1.0, 0.5, generator=generator)
            if part.running_mean is not None and part.running_var is not None:
                part.running_mean.normal_(generator=generator)
                part.running_var.uniform_(0.5, 2.0, generator=generator)
    return module


def unsettled(module: nn.Module) -> nn.Module:
    return unsettle_norms(module, torch.Generator().manual_seed(0))


def fold_norms(module: nn.Module, size: Size = (3, 32, 32)) -> list[Pair]:
    """Fold every norm that can be, in place."""
    pairs = find_foldable_norms(module, size)
    FoldNorms(pairs=tuple(pairs)).apply(module)
    return pairs


def check(module: nn.Module, size: Size) -> set[str]:
    """Compare card and edit; gives the names of the norms that fold."""
    generator = torch.Generator().manual_seed(1)
    unsettle_norms(module, generator)
    module.double().eval()
    before = trace(module, size)
    by_name = before.by_name
    on_card = {by_name[norm].module for norm in before.folded_norms()}
    norms = {operation.name for operation in before if operation.kind == "norm"}
    charged = {row.name: row.uncounted for row in score(module, size).rows if row.name in norms}
    assert {by_name[name].module for name, why in charged.items() if why.startswith("folded into")} == on_card

    folded = copy.deepcopy(module)
    assert {norm for _, norm in fold_norms(folded, size)} == on_card
    assert {
        name for name, part in module.named_modules() if type(part) is not type(folded.get_submodule(name))
    } == on_card
    left = {operation.name for operation in trace(folded, size) if operation.kind == "norm"}
    assert left == norms - before.folded_norms().keys()

    images = torch.randn(3, *size, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(folded(images), module(images), rtol=1e-9, atol=1e-9)
    return on_card


@pytest.mark.parametrize("name", MODULES)
def test_card_and_edit_fold_the_same_norms(name: str) -> None:
    module, size, expected = MODULES[name]
    assert check(copy.deepcopy(module), size) == expected


@pytest.mark.parametrize("text", FAMILIES)
def test_card_and_edit_fold_the_same_norms_of_a_family(text: str) -> None:
    assert check(parse_model(text).build(), (3, 32, 32))


@pytest.mark.parametrize("text", FAMILIES)
def test_folding_keeps_what_a_family_computes(text: str) -> None:
    module = unsettled(parse_model(text).build()).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = module(images)
    pairs = fold_norms(module)
    assert pairs
    after = module(images)
    assert (before - after).abs().max() <= 1e-5 * max(1.0, before.abs().max().item())


@pytest.mark.parametrize("seed", range(24))
def test_card_and_edit_fold_the_same_norms_of_random_networks(seed: int) -> None:
    """A chain of ten layers, some of them used again, with sums in between."""
    rng = random.Random(seed)
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.Conv2d(4, 4, 3, padding=1, groups=rng.choice([1, 2, 4]), bias=rng.random() < 0.5),
        lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, groups=rng.choice([1, 2]), bias=rng.random() < 0.5),
        lambda: nn.BatchNorm2d(4, affine=rng.random() < 0.8),
        lambda: nn.BatchNorm2d(4),
        lambda: nn.Dropout(0.1),
        lambda: nn.ReLU(),
    ]
    layers: list[nn.Module] = []
    for _ in range(10):
        layers.append(rng.choice(layers) if layers and rng.random() < 0.2 else rng.choice(kinds)())
    skips = {place for place in range(10) if rng.random() < 0.2}

    def flow(module: nn.Module, x: Tensor) -> Tensor:
        for place, layer in enumerate(module.chain):  # type: ignore[arg-type]
            y = layer(x)
            x = x + y if place in skips else y
        return x

    check(Flow(flow, chain=nn.ModuleList(layers)), (4, 6, 6))


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
    module = unsettled(Mixed()).eval()
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = module(images)
    pairs = fold_norms(module)
    assert pairs == [("good", "good_norm"), ("plain", "plain_norm")]
    assert isinstance(module.good_norm, nn.Identity) and isinstance(module.before_norm, nn.BatchNorm2d)
    assert torch.allclose(before, module(images), atol=1e-4)
    assert fold_norms(module) == [("good", "before_norm")]  # which follows the convolution directly only now
    assert torch.allclose(before, module(images), atol=1e-4)
    assert fold_norms(module) == []


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
    module = unsettled(parse_model("c_efficientnet:tiny").build()).train()
    with torch.no_grad():
        for _, layer in select(module, "all"):
            layer.weight[..., ::2] = 0
    zeros = {name: layer.weight == 0 for name, layer in select(module, "all")}
    fold_norms(module)
    assert module.training
    for name, layer in select(module, "all"):
        assert not layer.weight[zeros[name]].any()


def test_a_folded_network_is_rebuilt_on_shapes() -> None:
    module = unsettled(parse_model("c_efficientnet:tiny").build()).eval()
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
