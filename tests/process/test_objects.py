"""What processes of one run hand each other, and what is never made of a message."""

import importlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.errors import Failure, UserError
from netpress.network import create
from netpress.process.objects import read_object, write_object
from netpress.settings import parse
from netpress.training.accelerated import accelerate
from netpress.training.together.swapping import check_shareable

CPU = torch.device("cpu")


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class OwnNorm(nn.Module):
    """A class of nobody's room."""


def test_a_message_runs_nothing(tmp_path: Path) -> None:
    data = write_object({"module": _Harm(tmp_path / "made")})
    with pytest.raises(Failure, match=r"names \w+\.mkdir, which is not handed"):
        read_object(data, CPU)
    assert not (tmp_path / "made").exists()
    torch.load(io.BytesIO(data), weights_only=False)  # what an unrestricted reader would have done
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "name", ["netpress.data.dataset.load_dataset", "netpress.files.writing.atomic_write", "torch.nn.init.ones_"]
)
def test_functions_are_refused_also_ours(name: str) -> None:
    place, _, own = name.rpartition(".")

    class Named:
        def __reduce__(self) -> Any:
            return _named(place, own), (1,)

    with pytest.raises(Failure, match="not handed between processes"):
        read_object(write_object(Named()), CPU)


def _named(place: str, own: str) -> Any:
    return getattr(importlib.import_module(place), own)


@pytest.mark.parametrize("swapped", [False, True])
def test_networks_and_settings_come_as_they_were(swapped: bool) -> None:
    network = create("c_efficientnet", {"widths": "tiny", "classes": 4, "image_size": 8}, seed=1)
    settings = parse(QuantizeSettings, {"preset": "int8"})
    if swapped:
        with accelerate(network.module):
            data = write_object({"module": network.module})
    else:
        data = write_object({"module": network.module})
    again = read_object(data, CPU)["module"]
    assert type(again) is type(network.module)
    expected = network.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    with pytest.raises(Failure, match="QuantizeSettings"):  # a room from which nothing is handed
        read_object(write_object(settings), CPU)


def test_own_classes_are_refused_before_the_training() -> None:
    with pytest.raises(UserError, match=r"^1: is of a class of its author's own \(\S+OwnNorm\), .* with one process"):
        check_shareable(nn.Sequential(nn.Linear(2, 2), OwnNorm()))
