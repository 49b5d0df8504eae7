"""How large a network may be, found out from shapes before anything is allocated."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from netpress.errors import UserError

MOST_PARTS = 10_000
"""Modules and parameters of a network: the largest published ones here have 2,000. Planning looks at each."""
MOST_VALUES = 2**28
"""Values of all parameters: 1 GiB in float32, the optimizer's and the gradients not counted."""
MOST_ACTIVATIONS = 2**31
"""Values that one image leaves on its way through a network: 8 GiB in float32."""


def check_activations(values: int) -> None:
    """Raise UserError for a network through which one image leaves more than MOST_ACTIVATIONS values."""
    if values > MOST_ACTIVATIONS:
        raise UserError(
            f"model: one image leaves {values:,} values on its way through this network, more than the "
            f"{MOST_ACTIVATIONS:,} that netpress works with; choose a smaller network or smaller images"
        )


class TooLarge(UserError):
    """A network that no machine here could hold."""


@contextmanager
def bounded_building(
    parts: int = MOST_PARTS, values: int = MOST_VALUES, beyond: str = "more than a network here can have"
) -> Iterator[None]:
    """Stop a module that registers more than so many modules and parameters, or values in them: raises TooLarge.

    Settings that claim a billion layers cost little; to claim large ones costs nothing on the meta device.
    """
    count = size = 0

    def note_part(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > parts:
            raise TooLarge(f"its settings ask for more than {parts:,} layers and parameters, {beyond}")

    def note_parameter(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal size
        note_part()
        if parameter is not None and not isinstance(parameter, nn.parameter.UninitializedParameter):
            size += parameter.numel()
        if size > values:
            raise TooLarge(f"its settings ask for more than {values:,} weights, {beyond}")

    hooks = (
        register_module_parameter_registration_hook(note_parameter),
        register_module_module_registration_hook(note_part),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_answers(module: nn.Module, size: tuple[int, int, int], classes: int) -> None:
    """Try `module` on two images: it must give one tensor [images, classes] of floats, or UserError is raised.

    size: of an image, (channels, height, width). A copy is tried: a user's own module may count its calls.
    """
    kind = type(module).__name__
    images = f"images of {'x'.join(map(str, size))}"
    try:
        with torch.no_grad():
            answers = copy.deepcopy(module).eval()(torch.zeros(2, *size))
    except Exception as error:  # the user's own code
        raise UserError(f"{kind}: its forward pass fails for {images}: {type(error).__name__}: {error}") from error
    if not isinstance(answers, Tensor):
        raise UserError(
            f"{kind}: its forward gives a {type(answers).__name__}; it must give one tensor [images, classes] of logits"
        )
    if answers.shape != (2, classes) or not answers.is_floating_point():
        given = f"{list(answers.shape)} of {str(answers.dtype).removeprefix('torch.')}"
        raise UserError(
            f"{kind}: its forward gives {given} for two {images}; {classes} classes need [2, {classes}] of floats"
        )
