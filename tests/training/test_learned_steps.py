"""Steps of quantized layers that learn: their gradient is LSQ's, they never decay, and they never reach zero."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from netpress.numerics.formats import Integer
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedLinear
from netpress.training.optimizers import Adam, AdamW, Optimizer, Sgd

FORMATS = LayerFormats(
    weight=Integer(bits=4, scale="channel"),
    input=Integer(bits=4, scale="tensor", signed=False, zero_point=True),
    arithmetic="float32",
)


def layer_of(scale: float = 0.1) -> QuantizedLinear:
    layer = QuantizedLinear(6, 2, bias=False, formats=FORMATS)
    generator = torch.Generator().manual_seed(1)
    layer.weight.data.normal_(0, 0.3, generator=generator)
    for steps in (layer.weight_scale, layer.input_scale):
        assert steps is not None
        steps.data.fill_(scale)
        steps.requires_grad_(True)
    assert layer.input_zero_point is not None
    layer.input_zero_point.fill_(3)
    return layer.train()


def test_gradients_are_those_of_lsq() -> None:
    """Esser et al. 2020, equation 3 and section 2.2: a round's error inside the range, its end outside; over sqrt(N Q).

    With a zero point the ends are counted from it. N of a weight step is its channel's weights, of an input's the
    values of one image.
    """
    layer = layer_of(0.125)  # a step that is stored as it is
    x = torch.linspace(-1.3, 2.9, 18).reshape(3, 6)
    layer(x).sum().backward()
    step, zero = 0.125, 3
    q = (x / step + zero).round().clamp(0, 15)
    inside = ((x / step + zero).round() == q).float()
    slope = (q - zero) - inside * x / step  # of the rounded input by its step
    weight = (layer.weight.detach() / step).round().clamp(-7, 7) * step
    expected = (slope * weight.sum(0)).sum() / math.sqrt(6 * 15)
    assert float(layer.input_scale.grad) == pytest.approx(float(expected), rel=1e-4)  # type: ignore[arg-type,union-attr]
    w = layer.weight.detach() / step
    level = w.round().clamp(-7, 7)
    slopes = level - (w.round() == level).float() * w
    values = (q - zero) * step
    expected = (slopes * values.sum(0)).sum(1) / math.sqrt(6 * 7)
    assert torch.allclose(layer.weight_scale.grad, expected, rtol=1e-4)  # type: ignore[union-attr,arg-type]


def moved(settings: Any, gradient: float, times: int = 1) -> tuple[list[float], float]:
    layer = layer_of()
    optimizer = Optimizer(layer, settings)
    for _ in range(times):
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.move(settings.learning_rate)
    assert layer.weight_scale is not None and layer.input_scale is not None
    return [*layer.weight_scale.tolist(), layer.input_scale.detach().item()], float(layer.weight.data.norm())


@pytest.mark.parametrize("kind", [Sgd, Adam, AdamW])
def test_steps_never_decay(kind: Any) -> None:
    steps, norm = moved(kind(learning_rate=0.1, weight_decay=0.5, decay_1d=True), 0.0)
    assert steps == pytest.approx([0.1] * 3)
    assert norm < layer_of().weight.detach().norm().item()


@pytest.mark.parametrize("kind", [Sgd, Adam])
def test_no_move_takes_more_than_half_of_a_step(kind: Any) -> None:
    steps, _ = moved(kind(learning_rate=1.0, weight_decay=0.0), 100.0, times=3)
    assert steps == pytest.approx([0.1 / 8] * 3)


def test_steps_have_a_rate_of_their_own() -> None:
    plain = Sgd(learning_rate=0.01, momentum=0.0, weight_decay=0.0)
    for changes, expected in (
        ({}, 0.1 - 0.01),
        ({"step_rate": 3.0}, 0.1 - 0.03),
        ({"relative_steps": True}, 0.1 - 0.01 * 0.1),
        ({"relative_steps": True, "step_rate": 5.0}, 0.1 - 0.05 * 0.1),
    ):
        settings = plain.model_copy(update=changes)
        steps, norm = moved(settings, 1.0)
        assert steps == pytest.approx([expected] * 3)
        assert norm == moved(plain, 1.0)[1]  # the weights' rate stays


def test_saved_states_name_tensors_as_before() -> None:
    """Tensors of more than one dimension first, then the others as the module has them, steps among them."""
    module = nn.Sequential(layer_of(), nn.Linear(2, 2))
    optimizer = Optimizer(module, Adam())
    shapes = [tuple(parameter.shape) for parameter in optimizer.parameters]
    assert shapes == [(2, 6), (2, 2), (2,), (), (2,)]
