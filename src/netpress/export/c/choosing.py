"""Whether C or torch answers what is asked of a network: `predict --kernels`.

choice = choose_kernels(network, "auto", torch.device("cpu"), console)
ask(network, pictures, rules, console, executor=choice.executor)

The answers are the same, bit for bit; only their speed differs.
"""

from dataclasses import dataclass

import torch

from netpress.errors import NetpressError, UserError, quote
from netpress.evaluation import Executor
from netpress.export.c.building import NoCompiler
from netpress.export.c.calling import load_kernels
from netpress.network import Network
from netpress.process.console import Console
from netpress.program import has_integer_arithmetic

KERNELS = ("auto", "c", "torch")


@dataclass(frozen=True)
class Choice:
    """What answers, and why it is not C where it might be."""

    executor: Executor | None
    """None: torch."""
    advice: str = ""
    """What would make it faster; empty where nothing would."""


def choose_kernels(network: Network, wanted: str, device: torch.device, console: Console) -> Choice:
    """The C kernels of a network of integer arithmetic, compiled where they are not yet; or torch.

    `auto` takes torch where there is no compiler, where it fails, of which the console warns, for other networks, and
    on a device other than the CPU. `c` raises UserError or Failure in these cases, UserError for other words.
    """
    if wanted not in KERNELS:
        raise UserError(f"--kernels {quote(wanted)}: there are auto, c and torch")
    if wanted == "torch" or (wanted == "auto" and (device.type != "cpu" or not has_integer_arithmetic(network))):
        return Choice(None)
    if device.type != "cpu":
        raise UserError(f"--kernels c: computes on the CPU, not on {device.type}; leave out --device or --kernels")
    try:
        kernels = load_kernels(
            network, building=lambda compiler: console.say(f"compiling the network by {compiler.said}, once ...")
        )
    except NoCompiler as error:
        if wanted == "c":
            raise
        return Choice(None, f"C is faster, but {error}")
    except NetpressError as error:
        if wanted == "c":
            raise
        console.warn(f"torch computes: {error}")
        return Choice(None)
    return Choice(Executor(f"C, {kernels.path}", kernels.real_logits))
