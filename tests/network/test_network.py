"""The network file: rebuilt exactly, and refused when it is not what it should be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from netpress.errors import Failure, NetpressError, UserError
from netpress.network import copy, create, describe, load, resolve, save
from netpress.network.description import KEY, checksum

SETTINGS = {"widths": "tiny", "classes": 10}


@pytest.fixture
def network():
    return create("c_efficientnet", SETTINGS, seed=3)


@pytest.fixture
def pruned(network):
    generator = torch.Generator().manual_seed(0)
    for name, weight in network.weights().items():
        mask = torch.rand(weight.shape, generator=generator) > 0.6
        network.masks[name] = mask
        weight.data *= mask
    network.facts = {"accuracy": 0.5, "dataset": "digits"}
    return network


def logits(network):
    network.module.eval()
    with torch.inference_mode():
        return network.module(torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32))


def test_creation_depends_on_the_seed_alone(network):
    torch.manual_seed(99)
    again = create("c_efficientnet", SETTINGS, seed=3)
    other = create("c_efficientnet", SETTINGS, seed=4)
    same = again.module.state_dict()
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, same[name])
    assert not torch.equal(logits(network), logits(other))


def test_round_trip(pruned, tmp_path):
    path = tmp_path / "a.netpress"
    save(pruned, path)
    again = load(path)
    assert torch.equal(logits(pruned), logits(again))
    assert again.architecture == pruned.architecture
    assert again.input == pruned.input
    assert again.classes == pruned.classes
    assert again.facts == pruned.facts
    assert again.masks.keys() == pruned.masks.keys()
    assert all(torch.equal(mask, pruned.masks[name]) for name, mask in again.masks.items())
    assert all(parameter.requires_grad for parameter in again.module.parameters())
    save(again, tmp_path / "b.netpress")
    assert path.read_bytes() == (tmp_path / "b.netpress").read_bytes()


def test_masked_weights_take_no_room(network, pruned, tmp_path):
    dense = create("c_efficientnet", SETTINGS, seed=3)
    save(dense, tmp_path / "dense.netpress")
    save(pruned, tmp_path / "pruned.netpress")
    weights = sum(weight.numel() for weight in dense.weights().values())
    kept = sum(int(mask.sum()) for mask in pruned.masks.values())
    saved = 4 * (weights - kept) - weights / 8  # a mask costs a bit an element
    difference = (tmp_path / "dense.netpress").stat().st_size - (tmp_path / "pruned.netpress").stat().st_size
    assert saved - 12_000 < difference <= saved + 12_000  # names and shapes in the header


def test_a_copy_is_independent(pruned):
    twin = copy(pruned)
    next(twin.module.parameters()).data.zero_()
    assert not torch.equal(logits(twin), logits(pruned))


@pytest.mark.parametrize("position", [0, 3, 9, 200, 0.3, 0.6, 0.99])
def test_a_flipped_bit_is_refused(pruned, tmp_path, position):
    path = tmp_path / "a.netpress"
    save(pruned, path)
    data = bytearray(path.read_bytes())
    data[position if isinstance(position, int) else int(position * len(data))] ^= 16
    path.write_bytes(data)
    with pytest.raises(NetpressError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(pruned, tmp_path, share):
    path = tmp_path / "a.netpress"
    save(pruned, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(Failure, match=r"a\.netpress"):
        load(path)


def test_foreign_files_are_refused(tmp_path):
    text = tmp_path / "notes.netpress"
    text.write_text("these are notes" * 40)
    with pytest.raises(Failure, match="not a netpress network"):
        load(text)
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, foreign)
    with pytest.raises(UserError, match="not a netpress network"):
        load(foreign)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.netpress")
    with pytest.raises(UserError, match="is the run finished"):
        resolve(str(tmp_path))


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Change a file's description or tensors and give it the checksum that belongs to that, as an attacker would."""
    with safetensors.safe_open(path, framework="pt") as opened:
        description = json.loads(opened.metadata()[KEY])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(description, tensors)
    description.pop("checksum", None)
    description["checksum"] = checksum(description, tensors)
    safetensors.torch.save_file(tensors, path, {KEY: json.dumps(description)})


def test_a_forged_file_costs_nothing(pruned, tmp_path):
    def inflate(description, tensors):
        description["architecture"]["settings"]["width_factor"] = 10_000.0

    path = tmp_path / "a.netpress"
    save(pruned, path)
    forge(path, inflate)
    with pytest.raises(Failure, match="damaged or of another version"):
        load(path)


def test_a_forged_shape_is_refused(pruned, tmp_path):
    def inflate(description, tensors):
        name = next(name for name, entry in description["tensors"].items() if entry.get("masked"))
        description["tensors"][name]["shape"] = [10**6, 10**6]

    path = tmp_path / "a.netpress"
    save(pruned, path)
    forge(path, inflate)
    with pytest.raises(Failure, match="damaged or of another version"):
        load(path)


def test_code_of_others_runs_only_when_trusted(tmp_path):
    network = create("import", {"target": "torch.nn:Flatten", "classes": 3}, seed=0)
    path = tmp_path / "own.netpress"
    save(network, path)
    with pytest.raises(UserError, match="--allow-import"):
        load(path)
    assert isinstance(load(path, allow_import=True).module, torch.nn.Flatten)


def test_the_description_can_be_read_alone(pruned, tmp_path):
    path = tmp_path / "a.netpress"
    save(pruned, path)
    assert describe(path)["architecture"]["family"] == "c_efficientnet"


def test_resolve_builds_models_by_name():
    assert resolve("c_efficientnet:tiny,classes=7").classes == tuple("0123456")
    with pytest.raises(UserError, match="no such file"):
        resolve("missing.netpress")
    with pytest.raises(UserError, match="no such model"):
        resolve("resnext:50")
