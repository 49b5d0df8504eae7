"""`stored_bytes` says what `encode_state` makes, without making it."""

from typing import Any

import pytest
import torch

from netpress.network.tensors import encode_state, stored_bytes
from netpress.numerics.packing import part_bits

INTEGERS = torch.randint(-1, 2, (5, 7, 3), generator=torch.Generator().manual_seed(3)).float()
SIGNS = torch.where(INTEGERS < 0, -1.0, 1.0)
FORMATS: list[tuple[dict[str, Any], torch.Tensor]] = [
    ({"kind": "int", "bits": 3, "scale": "channel"}, INTEGERS),
    ({"kind": "int", "bits": 5, "scale": "tensor", "signed": False, "zero_point": True}, INTEGERS + 1),
    ({"kind": "int", "bits": 7, "scale": "none"}, INTEGERS),
    ({"kind": "fixed", "bits": 5}, INTEGERS),
    ({"kind": "ternary", "scale": "channel"}, INTEGERS),  # with zeros that no mask covers
    ({"kind": "ternary", "scale": "tensor"}, SIGNS),
    ({"kind": "binary", "scale": "tensor"}, SIGNS),
    ({"kind": "power"}, SIGNS.abs()),
    ({"kind": "float16"}, INTEGERS),
    ({"kind": "float32"}, INTEGERS),
]


@pytest.mark.parametrize(("format", "tensor"), FORMATS, ids=lambda one: one["kind"] if isinstance(one, dict) else "")
@pytest.mark.parametrize("masked", [False, True])
def test_a_tensor_takes_what_its_parts_take(format: dict[str, Any], tensor: torch.Tensor, masked: bool) -> None:
    mask = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    masks = {"w": mask} if masked else {}
    state = {"w": tensor * mask if masked else tensor}
    stored, _ = encode_state(state, (), masks, {"w": format})
    kept = {name: int(one.sum()) for name, one in masks.items()}
    sizes = stored_bytes(state, (), kept, {"w": format})
    assert sizes["w"] * 8 == part_bits(stored)
    shapes = stored_bytes({"w": state["w"].to("meta")}, (), kept, {"w": format})
    # Without values, each value of a ternary tensor is taken to need both of its bits.
    assert shapes == sizes if format["kind"] != "ternary" else shapes["w"] >= sizes["w"]


def test_buffers_of_equal_values_and_scales_of_the_layer_s_own() -> None:
    state = {
        "w": INTEGERS * 0.5,
        "w_scale": torch.full((5,), 0.5),
        "mean": torch.zeros(9),
        "var": torch.arange(9.0),
        "count": torch.tensor(3),
        "b": torch.zeros(4),
    }
    buffers, formats = ("mean", "var", "count"), {"w": {"kind": "int", "bits": 3}, "w_scale": {"kind": "float16"}}
    sizes = stored_bytes(state, buffers, {}, formats)
    assert sizes == {"w": 40, "w_scale": 10, "mean": 0, "var": 36, "count": 0, "b": 16}
    assert sum(sizes.values()) * 8 == part_bits(encode_state(state, buffers, {}, formats)[0])
    shapes = stored_bytes({name: one.to("meta") for name, one in state.items()}, buffers, {}, formats)
    assert shapes == sizes | {"mean": 36}
