"""Names of models: what a person writes, and what the registry makes of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from netpress.errors import UserError
from netpress.models.registry import (
    FAMILIES,
    build_model,
    choose_model,
    parse_model,
)


class TwoHeads(nn.Module):
    """A user's own module, found by this test file's import path."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean(dim=(2, 3))


def test_names_need_no_torch() -> None:
    code = (
        "import sys; from netpress.models import registry; registry.FAMILIES.names(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_family_is_found_by_its_name() -> None:
    found = FAMILIES.all()
    assert list(found) == FAMILIES.names()
    for name, family in found.items():
        assert family.name == name
        assert family.description


@pytest.mark.parametrize("name", [name for name in FAMILIES.names() if name != "import"])
def test_every_preset_is_valid_and_builds(name: str) -> None:
    family = FAMILIES[name]
    for preset in family.presets:
        choice = choose_model(name, [preset])
        with torch.device("meta"):
            module = choice.build()
            logits = module.eval()(torch.empty(2, 3, choice.settings.image_size, choice.settings.image_size))
        assert logits.shape == (2, choice.settings.classes)


def test_settings_in_a_name() -> None:
    settings = parse_model("c_efficientnet:v2,expansion=3,classes=10,init=orthogonal,released=true").settings
    expected = {"widths": "v2", "expansion": 3.0, "classes": 10, "init": "orthogonal", "released": True}
    assert expected.items() <= settings.model_dump().items()


def test_what_stands_later_wins() -> None:
    assert parse_model("c_efficientnet:expansion=4,v2").settings.model_dump()["expansion"] == 2.5
    assert parse_model("c_efficientnet:v2,expansion=4").settings.model_dump()["expansion"] == 4.0


def test_a_name_alone_is_a_model() -> None:
    assert parse_model("c_efficientnet") == parse_model("c_efficientnet:")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("c_efficientnt:v1", ["c_efficientnt", "did you mean c_efficientnet", "wide_resnet"]),
        ("c_efficientnet:v3", ["'v3'", "v1", "v2", "paper", "expansion"]),
        ("c_efficientnet:expansion=wide", ["c_efficientnet.expansion", "'wide'"]),
        ("c_efficientnet:expansion=-1,widths=v9,size=3", ["expansion: -1", "widths: 'v9'", "size: no such setting"]),
        ("c_efficientnet:released=true,downsample=shortcut", ["released", "plain"]),
        ("import:anything", ["import", "no presets"]),
    ],
)
def test_a_wrong_name_says_what_exists(text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_model(text)
    for part in parts:
        assert part in str(caught.value)


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = build_model("c_efficientnet", {"widths": "tiny"}, torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    second = build_model("c_efficientnet", {"widths": "tiny"}, torch.Generator().manual_seed(3))
    third = build_model("c_efficientnet", {"widths": "tiny"}, torch.Generator().manual_seed(4))
    for one, same, other in zip(first.parameters(), second.parameters(), third.parameters(), strict=True):
        assert torch.equal(one, same)
        assert one.dim() == 1 or not torch.equal(one, other)


def test_a_users_own_module() -> None:
    choice = parse_model(f"import:target={__name__}:TwoHeads,arguments={{width=7}},classes=7")
    module = choice.build()
    assert isinstance(module, TwoHeads)
    assert module(torch.zeros(1, 3, 8, 8)).shape == (1, 7)


def test_a_users_own_module_beside_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netpress_test_own_net.py").write_text("from torch.nn import Flatten\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(parse_model("import:target=netpress_test_own_net:Flatten").build(), nn.Flatten)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_package_here:Net", "cannot be imported"),
        ("torch.nn:NoSuchLayer", "NoSuchLayer"),
        ("torch.nn", "package.module:Class"),
        ("os:system", "not a class derived from torch.nn.Module"),
        ("collections:OrderedDict", "not a class derived from torch.nn.Module"),
        ("torch.nn:Conv2d", "raised TypeError"),
    ],
)
def test_a_wrong_target_is_one_clear_error(target: str, message: str) -> None:
    with pytest.raises(UserError, match="model import") as caught:
        parse_model(f"import:target={target}").build()
    assert message in str(caught.value)
