"""What people give to `netpress.score` and `netpress score` that is no network of ours: counted, or one sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

import netpress
from netpress.cli import app
from netpress.errors import UserError
from netpress.network import create, save
from netpress.scoring import score

FOREIGN = ("brevitas", "clize", "sigtools")
pytestmark = [pytest.mark.filterwarnings(f"ignore:::{package}") for package in FOREIGN]


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 4), nn.ReLU())


# --- other tools' layers and tensors


def test_layers_of_brevitas_are_counted_as_floats_and_the_card_says_so() -> None:
    brevitas = pytest.importorskip("brevitas.nn", reason="brevitas is not installed; it is in the extra dev")
    module = nn.Sequential(brevitas.QuantConv2d(3, 4, 3, weight_bit_width=4), nn.ReLU())
    card = score(module, (3, 8, 8))
    (note,) = card.notes
    assert note.startswith("1 layer (first 0) of brevitas counted as floats")
    assert card.as_json()["notes"] == [note] and note in card.explain()
    with torch.no_grad():
        weight = module[0].quant_weight().value
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    plain[0].weight.data.copy_(weight)
    wanted = score(plain, (3, 8, 8))
    assert (card.params, card.operations) == (wanted.params, wanted.operations)
    assert score(module, (3, 8, 8), weight_bits=4, activation_bits=4).operations < card.operations


class Halves(Tensor):
    """A tensor that stands for another one twice as large, as those of tools that pack weights do."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Halves":
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: Any, size: Any, stride: Any) -> "Halves":
        return Halves(inner["inner"])

    def dequantize(self) -> Tensor:  # type: ignore[override]
        return self.inner * 2

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return type(args[0])(args[0].inner)
        raise NotImplementedError(f"{func}")


class Opaque(Halves):
    def dequantize(self) -> Tensor:  # type: ignore[override]
        raise NotImplementedError


def test_tensors_that_stand_for_others_are_counted_by_their_values() -> None:
    layer = nn.Linear(8, 4)
    inner = layer.weight.detach().clone()
    inner[0] = 0
    layer.weight = nn.Parameter(Halves(inner), requires_grad=False)
    weight = layer.weight
    card = score(layer, (8,))
    assert card.notes[0].startswith("1 tensor (first weight) of the kind Halves counted as floats")
    assert (card.multiplications, card.storage_bits, card.mask_bits) == (24, 16 * (24 + 4), 32)
    assert layer.weight is weight and type(layer.weight) is Halves
    layer.weight = nn.Parameter(Opaque(inner), requires_grad=False)
    with pytest.raises(UserError, match="weight: a tensor of the kind Opaque does not say its values"):
        score(layer, (8,))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_8_bits(dtype: torch.dtype) -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(8).to(dtype), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.weight.to(x.dtype))

    card = score(Narrow(), (8,))
    assert card.notes[0].startswith("1 tensor (first weight) of 8-bit floats counted as wider floats")
    assert (card.multiplications, card.storage_bits, card.mask_bits) == (8, 8 * 16, 64)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(two_layers()),
        lambda: torch.jit.trace(two_layers(), torch.zeros(1, 8)),
        lambda: torch.export.export(two_layers(), (torch.zeros(1, 8),)),
        lambda: torch.export.export(two_layers(), (torch.zeros(1, 8),)).module(),
        lambda: torch.fx.symbolic_trace(two_layers()),
        lambda: torch.compile(two_layers()),
    ],
    ids=["scripted", "traced", "exported", "exported module", "fx", "compiled"],
)
def test_programs_count_as_the_module_they_were_made_of(make: Callable[[], Any]) -> None:
    program = make()
    card = score(program, (8,))
    wanted = score(two_layers(), (8,))
    assert (card.params, card.operations) == (wanted.params, wanted.operations)
    assert score(program, (8,)).operations == wanted.operations


def test_an_exported_program_knows_its_input() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    program = torch.export.export(module, (torch.zeros(1, 1, 7, 7),))
    assert score(program).params == score(module, (1, 7, 7)).params
    with pytest.raises(UserError, match="forward pass fails for an input of 1x9x9"):
        score(program, (1, 9, 9))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
def test_layers_that_only_calculate_with_packed_integers_are_refused() -> None:
    module = torch.ao.quantization.quantize_dynamic(two_layers(), {nn.Linear})
    with pytest.raises(UserError, match=r"0 \(Linear\), operator quantized\.linear_dynamic: no rule says"):
        score(module, (8,))


# --- no module at all


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ("resnet:18", r"the text 'resnet:18' \(netpress\.load makes"),
        ("x" * 1000, r"the text 'x{60}\.\.\.'"),
        (None, "None is not counted"),
        (torch.zeros(3), "a Tensor is not counted"),
        ({"conv.weight": torch.zeros(3)}, "a dict is not counted"),
        (nn.Linear, "a type is not counted"),
        (3, "a int is not counted"),
    ],
)
def test_what_is_no_network_is_refused(thing: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        netpress.score(thing)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def test_lazy_layers_are_refused_until_they_have_a_shape() -> None:
    module = Lazy()
    with pytest.raises(UserError, match=r"score: linear\.weight of Lazy has no shape yet, because its layer is lazy"):
        score(module, (3, 4, 4))
    with pytest.raises(UserError, match=r"model import, target '.*:Lazy': linear\.weight of Lazy has no shape yet"):
        create("import", {"target": f"{__name__}:Lazy"})
    module(torch.zeros(1, 3, 4, 4))
    assert score(module, (3, 4, 4)).params == (480 + 10) / 2


# --- the command


def command(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["score", "c_efficientnet:tiny", *arguments])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("weight_bit=4", "score.weight_bit: no such setting"),
        ("input_size=48", "score.input_size: no such setting"),
        ("settings=3", "score.settings: no such setting"),
        ("network=x", "score.network: no such setting"),
        ("examples=3", "score.examples: no such setting"),
        ("dataset=nonsense", "score.dataset: no such setting"),
        ("accuracy=0.9", "score.accuracy: no such setting"),
        ("masks=1", "score.masks: no such setting"),
        ("convention=ours", "score.convention: 'ours' is not one of"),
        ("track=mnist", "score.track: 'mnist' is not one of"),
        ("weight_bits=20", "20 is not a width"),
        ("weight_bits=four", "'four' is not a valid integer"),
        ("sparsity=2", "2.0 is not between 0 and 1"),
        ("freebie=3", "3 is not a valid boolean"),
        ("mask=none", "which weights exist must be stored somehow"),
        ("weight_bits", "write it as path.to.key=value"),
        ("weight_bits.x=4", "is not a valid integer"),
        ("=4", "write it as path.to.key=value"),
    ],
)
def test_settings_are_checked_as_those_of_recipes(setting: str, words: str) -> None:
    done = command("--set", setting)
    assert isinstance(done.exception, UserError) and words in str(done.exception)


def test_settings_that_fit_are_taken() -> None:
    assert "by the imt convention" in command("--set", "convention=imt").output
    assert "by the imt convention" in command("--convention", "imt", "--set", "modules=true").output
    assert "weights of 4 bits" in command("--set", "weight_bits=4").output
    done = command("--convention", "imt", "--weight-bits", "4")
    assert isinstance(done.exception, UserError) and "no option of the convention imt" in str(done.exception)


def test_the_accuracy_of_a_file_is_shown_where_it_is_known(tmp_path: Path) -> None:
    network = create("c_efficientnet", {"widths": "tiny"})
    path = tmp_path / "net.netpress"
    save(network, path)
    run = CliRunner().invoke(app, ["score", str(path)])
    assert "accuracy    not known: its file holds none; `netpress evaluate` measures it" in run.output
    network.facts |= {"accuracy": 0.8125, "dataset": "cifar100"}
    network.other_formats["*"] = {"kind": "float16"}
    save(network, path)
    assert "accuracy    81.25%: meets the gate of 80%" in CliRunner().invoke(app, ["score", str(path)]).output


def test_the_command_itself_ends_in_one_line() -> None:
    tool = [sys.executable, "-m", "netpress", "score", "c_efficientnet:tiny", "--set", "input_size=48"]
    done = subprocess.run(tool, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip() == "netpress: score.input_size: no such setting"
