"""What integer arithmetic has no operation for is refused before a training; all families of the zoo have theirs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from integer_networks import FAMILIES, SIZE, context, family
from torch import Tensor, nn

from netpress.compression.factorize import FactorizeSettings, factorize
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import plan, quantize
from netpress.errors import UserError
from netpress.models.registry import FAMILIES as ZOO
from netpress.models.registry import IMPORTED
from netpress.network import Architecture, InputSpec, Network, create
from netpress.program import check_operations, has_integer_arithmetic, lower
from netpress.program import structure as checking
from netpress.program.integers import IntegerPool
from netpress.settings import parse
from netpress.stage import STAGES, Outlook, foresee

PRESETS = ("int8", "int6", "int4")


def of_preset(preset: str, **more: Any) -> QuantizeSettings:
    return parse(QuantizeSettings, {"preset": preset, "calibration_images": 8, **more})


def own(module: nn.Module) -> Network:
    spec = InputSpec(3, SIZE, SIZE, (0.5,) * 3, (0.25,) * 3)
    return Network(module.eval(), Architecture(IMPORTED, {}), spec, tuple("0123456789"))


def test_the_whole_zoo_is_covered() -> None:
    assert {kind for kind, _ in FAMILIES.values()} == set(ZOO) - {IMPORTED}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_planned_in_integers_on_shapes(name: str, preset: str) -> None:
    kind, values = FAMILIES[name]
    outlook = Outlook(create(kind, {"classes": 10, "image_size": SIZE, **values}, shapes=True))
    planned = plan(outlook, of_preset(preset))
    assert {row["arithmetic"] for row in planned.rows} == {"integer"}
    assert has_integer_arithmetic(planned.network)
    assert all(parameter.is_meta for parameter in planned.network.module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c_efficientnet", "cosine", "resnet"])
def test_layers_in_factors_too(name: str, tmp_path: Path) -> None:
    settings = parse(FactorizeSettings, {"keep": 0.6, "images": 8, "batch_size": 4})
    network = factorize(family(name), settings, context(tmp_path))
    factors = [path for path, part in network.module.named_modules() if type(part).__name__ == "Factorized"]
    assert factors
    plan(Outlook(network), of_preset("int8"))
    quantized = quantize(network, of_preset("int8"), context(tmp_path))
    names = {operation.name for operation in lower(quantized).operations}
    assert {f"{factors[0]}.first", f"{factors[0]}.last"} <= names


class Other(nn.Module):
    """A convolution, a part, a mean."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv, self.part, self.linear = nn.Conv2d(3, 4, 3), part, nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.part(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Deciding(Other):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if bool(x.mean() > 0) else -x)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Other(nn.ELU()), 'part: arithmetic = "integer" has no operation for the activation elu; .* "float16"'),
        (Other(nn.AdaptiveAvgPool2d(4)), "part: .* means of 6 x 6 values in 4 x 4 unequal windows; .*float16"),
        (Other(nn.PixelShuffle(1)), "part: no operation stands for PixelShuffle; .*float16"),
        (Deciding(nn.ReLU()), "Deciding: .* cannot be traced: .*; quantize with .*float16"),
    ],
)
def test_what_has_no_operation_is_refused_before_a_training(module: nn.Module, reason: str) -> None:
    network = own(module)
    stages = [
        parse(STAGES["train"].settings, {"kind": "train", "epochs": 1}),
        parse(STAGES["quantize"].settings, {"kind": "quantize", "fold": False}),
    ]
    with pytest.raises(UserError, match=f"02-quantize: {reason}"):
        foresee(stages, Outlook(network))
    floats = stages[1].model_copy(update={"arithmetic": "float16"})
    assert foresee([stages[0], floats], Outlook(network)).keys() == {"01-train", "02-quantize"}


def test_a_family_is_refused_on_shapes() -> None:
    """Means of more values than 32 bits sum: the pool of a gate that sees a large image."""
    values = {**FAMILIES["c_efficientnet"][1], "classes": 10, "image_size": 520}
    reason = r"blocks\.\d+\.squeeze_excite\.pool: .* a mean of [\d,]+ values, more than 65,536"
    for _ in range(2):  # the second time it is remembered
        network = create("c_efficientnet", values, shapes=True)
        with pytest.raises(UserError, match=reason):
            plan(Outlook(network), of_preset("int8"))
        plan(Outlook(network), of_preset("int8", arithmetic="float16"))


def test_a_structure_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, values = FAMILIES["resnet"]
    asked = []
    monkeypatch.setattr(checking, "_translate", lambda network: asked.append(network))
    checking._refusal.cache_clear()
    for depth in ([1, 1], [1, 1], [1, 2]):
        shapes = create(kind, {"classes": 10, "image_size": SIZE, **values, "blocks": depth}, shapes=True)
        plan(Outlook(shapes), of_preset("int8"))
    assert len(asked) == 2
    checking._refusal.cache_clear()


def test_networks_in_floats_pass() -> None:
    check_operations(own(Other(nn.ELU())))


def test_means_of_as_many_values_as_32_bits_sum() -> None:
    """256 x 256 values of 16 bits, at both ends of their range."""
    from netpress.program.execution import calculate
    from netpress.program.integer_lowering import LARGEST_WINDOW

    assert LARGEST_WINDOW == 256 * 256
    pool = IntegerPool("pool", ("x",), "y", (256, 256), (256, 256), (0, 0), False, 16, 0)
    for value in (-(2**15), 2**15 - 1, 1, 0):
        values = torch.full((1, 1, 256, 256), value, dtype=torch.int32)
        assert calculate(pool, values).flatten().tolist() == [value]
