"""KAIST's released weights: files of their form made here, and the real ones where NETPRESS_RELEASED names a folder."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from netpress.errors import Failure, NetpressError, UserError
from netpress.imports.kaist import import_kaist, read_released
from netpress.models.registry import parse_model
from netpress.network import load, save

THEIR_NAMES = {
    "stem.conv": "conv1",
    "stem.norm": "bn1",
    "classifier": "linear",
    "expand.conv": "conv1",
    "expand.norm": "bn1",
    "depthwise.conv": "conv2",
    "depthwise.norm": "bn2",
    "project.conv": "conv3",
    "project.norm": "bn3",
    "shortcut.conv": "shortcut.0",
    "shortcut.norm": "shortcut.1",
    "squeeze_excite.reduce": "fc1",
    "squeeze_excite.expand": "fc2",
}


def their_name(name: str) -> str:
    layer, _, tensor = name.rpartition(".")
    if not layer.startswith("blocks."):
        return f"{THEIR_NAMES[layer]}.{tensor}"
    _, index, part = layer.split(".", 2)
    return f"layers.{index}.{THEIR_NAMES[part]}.{tensor}"


def release(text: str) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """A network with 40% of each weight 0, and the dict that their code would have saved of it."""
    module = parse_model(text).build(torch.Generator().manual_seed(7)).eval()
    theirs: dict[str, Tensor] = OrderedDict()
    generator = torch.Generator().manual_seed(8)
    for name, tensor in module.state_dict().items():
        theirs[their_name(name)] = tensor
        if tensor.dim() > 1:
            mask = (torch.rand(tensor.shape, generator=generator) > 0.4).float()
            tensor.mul_(mask)
            theirs[their_name(name).replace(".weight", ".mask")] = mask
    return module, theirs


def write(theirs: Any, path: Path) -> Path:
    torch.save(theirs, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_file_of_their_form_becomes_the_same_network(version: str, tmp_path: Path) -> None:
    module, theirs = release(f"c_efficientnet:released-{version}")
    network = import_kaist(write(theirs, tmp_path / "net.t7"))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.module(images), module(images))
    assert network.architecture.settings["widths"] == version and network.architecture.settings["released"]
    assert network.masks.keys() == network.weights().keys()
    for name, weight in network.weights().items():
        assert torch.equal(network.masks[name], weight != 0)
    assert network.input.mean == (0.5071, 0.4865, 0.4409)
    assert len(network.classes) == 100 and list(network.classes) == sorted(network.classes)


def test_an_imported_network_survives_its_own_format(tmp_path: Path) -> None:
    network = import_kaist(write(release("c_efficientnet:released-v1")[1], tmp_path / "net.t7"))
    save(network, tmp_path / "net.netpress")
    again = load(tmp_path / "net.netpress")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.module(images), again.module.eval()(images))
    assert all(torch.equal(mask, again.masks[name]) for name, mask in network.masks.items())


class Trap:
    """What a hostile pickle would hold: a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(os.environ["NETPRESS_TEST_TRAP"]),))


def test_a_hostile_pickle_calls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "sprung"
    monkeypatch.setenv("NETPRESS_TEST_TRAP", str(trap))
    path = write({"conv1.weight": Trap()}, tmp_path / "net.t7")
    with pytest.raises(Failure, match=r"not one of KAIST's released \.t7 files"):
        read_released(path)
    assert not trap.exists()


def test_damaged_and_foreign_files_are_one_clear_error(tmp_path: Path) -> None:
    path = write(release("c_efficientnet:released-v1")[1], tmp_path / "net.t7")
    whole = path.read_bytes()
    damaged = tmp_path / "damaged.t7"
    for data in (b"", b"text\n", whole[: len(whole) // 2], whole[:200], whole[100:]):
        damaged.write_bytes(data)
        with pytest.raises(NetpressError, match=r"damaged\.t7") as caught:
            read_released(damaged)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        read_released(tmp_path / "absent.t7")
    with pytest.raises(UserError, match="a folder"):
        read_released(tmp_path)


def test_other_tensors_are_refused_by_name(tmp_path: Path) -> None:
    _, theirs = release("c_efficientnet:released-v1")

    def refusal(changed: Any) -> str:
        with pytest.raises(NetpressError) as caught:
            read_released(write(changed, tmp_path / "net.t7"))
        return str(caught.value)

    assert "no named tensors" in refusal([1, 2])
    assert "'epoch' is not a tensor" in refusal(theirs | {"epoch": 3})
    assert "layers.0.extra.weight is no tensor" in refusal(theirs | {"layers.0.extra.weight": torch.zeros(1)})
    missing = {name: tensor for name, tensor in theirs.items() if name != "bn1.bias"}
    assert "stem.norm.bias, the file none" in refusal(missing)
    narrow = theirs | {"linear.weight": torch.zeros(100, 99), "linear.mask": torch.zeros(100, 99)}
    assert "not one of KAIST's released networks" in refusal(narrow)
    assert "mask of conv1 does not agree" in refusal(theirs | {"conv1.mask": torch.zeros(32, 3, 3, 3)})
    assert "bn1.bias has values that are not finite" in refusal(theirs | {"bn1.bias": torch.full((32,), torch.inf)})


@pytest.mark.parametrize(
    ("file", "nonzeros", "weights"),
    [
        ("micronet_v1_pr_60.t7", 180_182, 450_456),
        ("micronet_v2_pr_30.t7", 329_829, 471_184),
        ("micronet_v2_pr_15.t7", 400_506, 471_184),
    ],
)
def test_the_real_files(file: str, nonzeros: int, weights: int) -> None:
    folder = os.environ.get("NETPRESS_RELEASED")
    if not folder:
        pytest.skip("NETPRESS_RELEASED names no folder with KAIST's released .t7 files")
    network = import_kaist(Path(folder) / file)
    assert sum(int(mask.sum()) for mask in network.masks.values()) == nonzeros
    assert sum(mask.numel() for mask in network.masks.values()) == weights
    dead = [block.squeeze_excite for block in network.module.blocks if block.gated == "nothing"]
    assert len(dead) == 3
    for gate in dead:  # a gate that is not applied never got a gradient
        assert not gate.reduce.bias.any() and not gate.expand.bias.any()
