"""A quantized network's file: its bits are those that the score card counts, and damage to it is said in one line."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_network import forge
from torch import Tensor, nn

from netpress.compression.prune import prune_once
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, Images
from netpress.errors import NetpressError
from netpress.evaluation import predict
from netpress.network import Network, create, inspect_file, load, save
from netpress.network.edits.folding import merge_statistics
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import score
from netpress.settings import parse
from netpress.stage import Context

pytestmark = pytest.mark.slow

Call = Callable[..., tuple[int, str, str]]
PRESETS = ["fixed-9-12", "int8", "int6", "int4", "half", "binary"]
FAMILIES: dict[str, dict[str, Any]] = {
    "c_efficientnet": {"widths": "tiny", "width_factor": 0.5},
    "densenet": {"blocks": [1, 1], "growth": 4},  # its norms come first and do not fold
    "wide_resnet": {"depth": 10, "width": 1},
}


def images(count: int, size: int, classes: int = 10) -> Images:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, classes, (count,), generator=generator))


def context(folder: Path, size: int = 16, classes: int = 10) -> Context:
    sets = (images(count, size, classes) for count in (16, 4, 8))
    data = Dataset("random", *sets, tuple(map(str, range(classes))), (0.4,) * 3, (0.2,) * 3, "")
    return Context(folder, World(torch.device("cpu")), 3, Console(quiet=True), data, name="quantize")


def quantized(preset: str, folder: Path, family: str = "c_efficientnet", pruned: float = 0.0, **more: Any) -> Network:
    network = create(family, {"classes": 10, "image_size": 16, **FAMILIES[family]}, seed=5)
    generator = torch.Generator().manual_seed(1)
    for norm in (part for part in network.module.modules() if isinstance(part, nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    if pruned:
        network, _ = prune_once(network, pruned)
    quick = {} if preset == "fixed-9-12" else {"calibration": {"kind": "minmax"}}
    values = {"preset": preset, "calibration_images": 8, **quick, **more}
    return quantize(network, parse(QuantizeSettings, values), context(folder))


# --- the card and the file


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("pruned", [0.0, 0.05, 0.6])
def test_the_cards_bits_are_the_files(preset: str, pruned: float, call: Call, tmp_path: Path) -> None:
    made = quantized(preset, tmp_path, pruned=pruned)
    save(made, tmp_path / "q.netpress")
    found = json.loads(call("inspect", "q.netpress", "--json")[1])
    card = json.loads(call("score", "q.netpress", "--json")[1])
    assert found["tensor_bits"] - found["alignment_bits"] == card["storage_bits"] + card["mask_bits"]
    assert found["mask_bits"] == card["mask_bits"]
    assert 0 <= found["alignment_bits"] <= 7 * len(found["layers"]) * 2
    if preset in ("half", "int8") and not pruned:
        assert found["alignment_bits"] == 0
    for key in ("tensor_bits", "mask_bits", "alignment_bits"):
        assert found[key] == sum(layer[key] for layer in found["layers"])
    # On the disk itself: what safetensors says of its tensors, and a header that no tensor is part of.
    with safetensors.safe_open(tmp_path / "q.netpress", framework="pt") as file:
        stored = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored)
    assert 8 * size == found["tensor_bits"]
    assert found["file_bytes"] == (tmp_path / "q.netpress").stat().st_size > size


@pytest.mark.parametrize("family", ["densenet", "wide_resnet"])
@pytest.mark.parametrize("preset", ["fixed-9-12", "int4", "half", "binary"])
def test_norms_that_stay_take_two_values_a_channel(family: str, preset: str, tmp_path: Path) -> None:
    made = quantized(preset, tmp_path, family, pruned=0.3)
    assert any(isinstance(part, nn.BatchNorm2d) for part in made.module.modules())
    save(made, tmp_path / "q.netpress")
    found, card = inspect_file(tmp_path / "q.netpress"), score(made)
    assert found["tensor_bits"] - found["alignment_bits"] == card.storage_bits + card.mask_bits
    again = load(tmp_path / "q.netpress")
    assert torch.equal(predict(again, images(8, 16)), predict(made, images(8, 16)))


def test_merged_statistics_change_no_answer() -> None:
    network = create("wide_resnet", {"classes": 10, "image_size": 16, **FAMILIES["wide_resnet"]}, seed=5)
    generator = torch.Generator().manual_seed(1)
    norms = [part for part in network.module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    before = predict(network, images(8, 16))
    assert len(merge_statistics(network.module)) == len(norms)
    assert float((predict(network, images(8, 16)) - before).abs().max()) < 1e-5 * float(before.abs().max())
    for norm in norms:
        assert norm.running_mean is not None and norm.running_var is not None
        assert not bool(norm.running_mean.any()) and bool((norm.running_var == 1).all())


def test_layers_left_in_floats_are_counted_as_they_lie_there(tmp_path: Path) -> None:
    for arithmetic in ("float16", "float32"):
        made = quantized("int4", tmp_path, pruned=0.4, leave_out=["classifier", "stem"], arithmetic=arithmetic)
        save(made, tmp_path / "q.netpress")
        found, card = inspect_file(tmp_path / "q.netpress"), score(made)
        assert found["tensor_bits"] - found["alignment_bits"] == card.storage_bits + card.mask_bits


def test_a_scale_lies_in_the_file_once(tmp_path: Path) -> None:
    save(quantized("int8", tmp_path), tmp_path / "q.netpress")
    with safetensors.safe_open(tmp_path / "q.netpress", framework="pt") as file:
        names = set(file.keys())
    assert "stem.conv.weight_scale#values" in names
    assert not any(name.endswith("#scale") for name in names)


@pytest.mark.skipif("NETPRESS_RELEASED" not in os.environ, reason="set NETPRESS_RELEASED to the folder of .t7 files")
def test_the_2019_entry_in_eight_bits(tmp_path: Path) -> None:
    from netpress.imports.kaist import import_kaist

    network = import_kaist(Path(os.environ["NETPRESS_RELEASED"]) / "micronet_v1_pr_60.t7")
    network.facts["dataset"] = "cifar100"
    minmax = {"calibration": {"kind": "minmax"}, "weight_calibration": {"kind": "minmax"}}
    values = {"preset": "int8", "calibration_images": 4, "correct_biases": False, **minmax}
    made = quantize(network, parse(QuantizeSettings, values), context(tmp_path, 32, 100))
    save(made, tmp_path / "q.netpress")
    found, card = inspect_file(tmp_path / "q.netpress"), score(made)
    assert found["tensor_bits"] - found["alignment_bits"] == card.storage_bits + card.mask_bits
    assert card.score <= 0.0034
    assert card.alternatives["clamp = charged"] > card.score > card.alternatives["counting = winner"]
    assert card.alternatives["float_adds = 32"] == card.score  # integers alone add nothing in floats


# --- damage


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("file")
    save(quantized("int6", folder, pruned=0.5), folder / "q.netpress")
    return (folder / "q.netpress").read_bytes()


def refused(path: Path, read: Callable[[Path], object] = load) -> str:
    with pytest.raises(NetpressError) as caught:
        read(path)
    said = str(caught.value)
    assert path.name in said and "\n" not in said and len(said) < 600
    return said


@settings(deadline=None, max_examples=30)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(
    place: float, bit: int, file: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(file)
    data[int(place * len(data))] ^= 1 << bit
    path = tmp_path_factory.mktemp("flip") / "q.netpress"
    path.write_bytes(data)
    refused(path)
    refused(path, inspect_file)


@settings(deadline=None, max_examples=25)
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_truncated_file_is_refused(share: float, file: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "q.netpress"
    path.write_bytes(file[: int(share * len(file))])
    refused(path)
    refused(path, inspect_file)


def huge_shape(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    description["tensors"]["stem.conv.weight"]["shape"] = [10**6, 10**6, 3, 3]


def shape_beyond_integers(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    description["tensors"]["stem.conv.bias"]["shape"] = [10**30]


def huge_constant(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    description["tensors"]["stem.conv.bias"] = {"shape": [10**12], "constant": 0.0}


def wide_network(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    description["architecture"]["settings"]["width_factor"] = 1e7


def missing_part(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    del tensors["stem.conv.weight#values"]


def short_part(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["stem.conv.weight#values"] = tensors["stem.conv.weight#values"][:-1].clone()


def short_mask(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("#mask"))
    tensors[name] = tensors[name][:-1].clone()


def other_type(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["stem.conv.weight_scale#values"] = tensors["stem.conv.weight_scale#values"].float()


def unknown_part(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["stem.conv.weight#more"] = torch.zeros(3)


def other_width(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    description["formats"]["stem.conv.weight"]["bits"] = 7


def no_width(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    description["formats"]["stem.conv.weight"]["bits"] = 99


def no_type(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    description["tensors"]["stem.conv.bias"]["dtype"] = "load"


@pytest.mark.parametrize(
    "change",
    [
        huge_shape,
        shape_beyond_integers,
        huge_constant,
        wide_network,
        missing_part,
        short_part,
        short_mask,
        other_type,
        unknown_part,
        other_width,
        no_width,
        no_type,
    ],
    ids=lambda change: change.__name__,
)
def test_forged_files_are_refused_and_cost_nothing(
    change: Callable[[dict[str, Any], dict[str, Tensor]], None], file: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "q.netpress"
    path.write_bytes(file)
    forge(path, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_settings_that_ask_for_endless_layers_are_stopped(tmp_path: Path) -> None:
    network = create("densenet", {"classes": 10, "image_size": 16, **FAMILIES["densenet"]}, seed=5)
    path = tmp_path / "q.netpress"
    save(network, path)

    def deepen(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        description["architecture"]["settings"]["blocks"] = [10**9]

    forge(path, deepen)
    assert "far beyond its tensors" in refused(path)


junk = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=9), st.lists(st.integers())
)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_junk_anywhere_in_the_description_is_one_message(
    data: st.DataObject, file: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("junk") / "q.netpress"
    path.write_bytes(file)

    def replace(description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        inside: Any = description
        while True:
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            key = data.draw(st.sampled_from(keys))
            deeper = isinstance(inside[key], dict | list) and inside[key] and data.draw(st.integers(0, 4))
            if not deeper:
                inside[key] = data.draw(junk)
                return
            inside = inside[key]

    forge(path, replace)
    for read in (load, inspect_file):
        try:
            read(path)  # some junk is as good as what was there: a fact, the name of a class
        except NetpressError as error:
            assert "\n" not in str(error)


def test_the_commands_say_no_in_one_line(call: Call, file: bytes, tmp_path: Path) -> None:
    (tmp_path / "q.netpress").write_bytes(file[:-50])
    for words in (["inspect"], ["score"], ["evaluate", "--exact"]):
        code, out, err = call(words[0], "q.netpress", *words[1:])
        assert (code, out) == (1, "")
        assert err.startswith("netpress: ") and len(err.strip().splitlines()) == 1


# --- what cannot be quantized


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["preset=int8"], "--data DIR"),
        (["preset=int5"], "preset: 'int5' is not one of"),
        (["preset=int8", "weights.kind=int", "weights.bits=20"], "20 is not between 1 and 16"),
        (["preset=int8", "leave_out=blocks.99*"], "blocks.99*"),
    ],
)
def test_what_cannot_be_quantized_is_one_message(call: Call, options: list[str], expected: str, tmp_path: Path) -> None:
    network = create("c_efficientnet", {"classes": 10, "image_size": 16, **FAMILIES["c_efficientnet"]}, seed=5)
    save(network, tmp_path / "f.netpress")  # it does not say what it was trained on
    sets = [word for option in options for word in ("--set", option)]
    code, _, err = call("apply", "quantize", "f.netpress", *sets, "--out", "q.netpress")
    said = " ".join(err.replace("│", " ").split())
    assert code == 2
    assert expected in said, said
    assert not (tmp_path / "q.netpress").exists()


def test_what_is_not_finite_names_its_layer(tmp_path: Path) -> None:
    network = create("c_efficientnet", {"classes": 10, "image_size": 16, **FAMILIES["c_efficientnet"]}, seed=5)
    network.module.get_submodule("stem.conv").weight.data[0, 0, 0, 0] = torch.nan  # type: ignore[union-attr,operator]
    with pytest.raises(NetpressError, match=r"stem\.conv\.weight: values are not finite|calibration, .*not finite"):
        values = {"preset": "int8", "fold": False, "calibration": {"kind": "minmax"}}
        quantize(network, parse(QuantizeSettings, values), context(tmp_path))
