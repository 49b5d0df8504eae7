"""Optimizers: which parameters they move, and what they remember from step to step.

The steps of quantized layers that learn (scales, LSQ) are parameters of their own kind: they never decay, no move takes
more than half of one, so that none reaches zero, and they may have a learning rate of their own.
"""

from collections.abc import Collection, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from netpress.numerics.layers import quantized_layers
from netpress.settings import NonNegative, Positive, Settings, Share
from netpress.training.part import Part, State


class _Optimizer(Settings):
    learning_rate: Positive = 0.1
    """Highest learning rate of a round."""
    weight_decay: NonNegative = 1e-5
    """L2 penalty of the weights (adamw: decoupled)."""
    decay_1d: bool = False
    """Decay biases and the scales and shifts of norms too; False is the no-bias-decay of He et al. 2019."""
    step_rate: Positive = 1.0
    """Learning rate of the steps of quantized layers that learn, as a multiple of that of the weights."""
    relative_steps: bool = False
    """Move such a step by a share of itself: the optimizer's move times the step. Adam's moves are of one size
    whatever they move, .0002 for a weight of .1 and for a step of .004."""


class Sgd(_Optimizer):
    """Stochastic gradient descent with momentum, as torch defines it."""

    kind: Literal["sgd"] = "sgd"
    momentum: Share = 0.9
    """Share of the last step's direction that is kept."""
    nesterov: bool = True
    """Look ahead along the momentum (Sutskever et al. 2013)."""


class Adam(_Optimizer):
    """Adam (Kingma and Ba 2015): the decay is added to the gradient."""

    kind: Literal["adam"] = "adam"
    learning_rate: Positive = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    epsilon: Positive = 1e-8
    """Added to the root of the mean square before dividing by it."""


class AdamW(_Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-2
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    epsilon: Positive = 1e-8
    """Added to the root of the mean square before dividing by it."""


def decay_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float, decay_1d: bool, steps: Collection[nn.Parameter] = ()
) -> list[dict[str, object]]:
    """Parameter groups: tensors of more than one dimension, which decay; the rest, which need not; and `steps`, which
    must not."""
    apart = set(map(id, steps))
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1 and id(parameter) not in apart]
    groups: list[dict[str, object]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": weight_decay if decay_1d else 0.0},
        {"params": list(steps), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learned_steps(module: nn.Module) -> list[nn.Parameter]:
    """The scales of quantized layers that learn."""
    scales = (scale for layer in quantized_layers(module).values() for scale in (layer.weight_scale, layer.input_scale))
    return [scale for scale in scales if scale is not None and scale.requires_grad]


def make_optimizer(module: nn.Module, settings: Sgd | Adam | AdamW) -> torch.optim.Optimizer:
    """A new optimizer of all trained parameters of `module`, updated all at once."""
    groups = decay_groups(module.parameters(), settings.weight_decay, settings.decay_1d, learned_steps(module))
    match settings:
        case Sgd():
            return torch.optim.SGD(
                groups,
                lr=settings.learning_rate,
                momentum=settings.momentum,
                nesterov=settings.nesterov and settings.momentum > 0,
                foreach=True,
            )
        case Adam():
            return torch.optim.Adam(
                groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, foreach=True
            )
        case AdamW():
            return torch.optim.AdamW(
                groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, foreach=True
            )


class Optimizer(Part):
    """Moves all trained parameters of a module against their gradients; each round has a new one."""

    def __init__(self, module: nn.Module, settings: Sgd | Adam | AdamW) -> None:
        self.module = module
        self.settings = settings
        self.begin_round()

    def begin_round(self) -> None:
        """Forget momentum and what else was gathered."""
        self.optimizer = make_optimizer(self.module, self.settings)
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        # Tensors of more than one dimension first: the order in which states are saved.
        self.parameters = sorted(trained, key=lambda parameter: parameter.ndim <= 1)
        self.steps = learned_steps(self.module)

    def move(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        before = [step.detach().clone() for step in self.steps]
        self.optimizer.step()
        if before:
            self._restrain(before)

    @torch.no_grad()
    def _restrain(self, before: list[Tensor]) -> None:
        """Give the steps, which were `before`, their own rate; what is left of each is half of it at least."""
        steps, settings = [step.data for step in self.steps], self.settings
        if settings.relative_steps or settings.step_rate != 1:
            moves = torch._foreach_sub(steps, before)
            if settings.relative_steps:
                torch._foreach_mul_(moves, before)
            torch._foreach_copy_(steps, torch._foreach_add(before, moves, alpha=settings.step_rate))
        torch._foreach_maximum_(steps, torch._foreach_mul(before, 0.5))

    def state_dict(self) -> State:
        """Momentum and other buffers, named by the parameter's place: `3.momentum_buffer`."""
        return {
            f"{place}.{key}": value
            for place, parameter in enumerate(self.parameters)
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def load_state_dict(self, state: State) -> None:
        """The buffers of `state_dict` are laid out in memory like their parameters."""
        for name, tensor in state.items():
            place, _, key = name.partition(".")
            parameter = self.parameters[int(place)]
            fresh = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
            self.optimizer.state[parameter][key] = fresh.detach().copy_(tensor)


class GradientClip(Part):
    """Shortens the gradient of all parameters together to a Euclidean norm of at most `longest`."""

    def __init__(self, module: nn.Module, longest: float) -> None:
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.longest = longest

    def after_backward(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, self.longest)
