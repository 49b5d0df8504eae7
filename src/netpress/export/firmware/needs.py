"""What firmware takes of a board's flash and memory, told before a compiler has seen it.

Constants, the arena and the images are exact. Code is estimated: a straight line through what `arm-none-eabi-gcc`
made of the networks of the tests (`tests/export/measure_firmware.py` measures it again, and a test compares). The
linker is exact: it refuses what does not fit.
"""

import math
from dataclasses import dataclass

from netpress.errors import UserError
from netpress.export.c import CFiles
from netpress.export.firmware.boards import BOARDS, Board
from netpress.network import Network
from netpress.process.console import write_bytes
from netpress.program import lower
from netpress.program.integers import Restore, Scale, Shift
from netpress.program.operations import Reshape
from netpress.scoring.limits import suggest_flash
from netpress.scoring.memory import tensor_bytes

STACK = 1024
"""Bytes of the stack. `make run` says how many were used."""
POINTER = LOGIT = 4  # bytes
PROGRAM = 256 + 12  # bytes of main.c and board.c that belong to no image: the command line, two files, turns of ticks

CODE = {
    "Cortex-M0": (8060, 51),
    "Cortex-M3": (6970, 47),
    "Cortex-M4": (7570, 50),
    "Cortex-M7": (7590, 50),
    "Cortex-M33": (7300, 50),
    "Cortex-M55": (7530, 51),
}
"""Bytes of the kernels and of the program around them, and of each operation: gcc 12.2 with the Makefile's options."""
JOINED = (Reshape, Restore, Shift, Scale)
"""Operations that are no code of their own, or a part of the one before."""


@dataclass(frozen=True)
class Needs:
    """Bytes that firmware takes."""

    constants: int
    """Of the network: weights, masks, factors, biases, tables."""
    code: int
    """Estimated; names of classes included."""
    arena: int
    image: int
    """One image's pixels and logits, and what the program needs besides."""
    stack: int = STACK

    @property
    def flash(self) -> int:
        """Of flash, in all."""
        return self.constants + self.code

    @property
    def ram(self) -> int:
        """Of memory, in all."""
        return self.arena + self.image + self.stack


def measure_needs(network: Network, written: CFiles, board: Board) -> Needs:
    """What the C files of a network take on a board."""
    fixed, each = CODE[board.core]
    code = fixed + each * count_operations(network) + name_bytes(network)
    image = _words(math.prod(network.input.size)) + LOGIT * len(network.classes) + PROGRAM
    return Needs(written.flash, code, _words(written.arena), image)


def count_operations(network: Network) -> int:
    """Operations of the network that are code of their own."""
    return sum(not isinstance(operation, JOINED) for operation in lower(network).operations)


def name_bytes(network: Network) -> int:
    """Of the classes' names, with a pointer to each."""
    return sum(len(name.encode("utf-8", "replace")) + 1 + POINTER for name in network.classes)


def _words(count: int) -> int:
    return -(-count // POINTER) * POINTER


def check_needs(network: Network, needs: Needs, board: Board, flash: int, ram: int) -> None:
    """Raise UserError where the needs are more than `flash` and `ram`: by how much, and what would fit."""
    problems = []
    if needs.flash > flash:
        parts = f"{write_bytes(needs.constants)} of constants and about {write_bytes(needs.code)} of code"
        rest = flash - needs.code - needs.constants + sum(tensor_bytes(network).values())
        problems.append(f"flash: {_beyond(needs.flash, flash)}, {parts}; {suggest_flash(network, rest)}")
    if needs.ram > ram:
        parts = ", ".join(
            f"{write_bytes(size)} of {what}"
            for size, what in ((needs.arena, "arena"), (needs.image, "image and logits"), (needs.stack, "stack"))
        )
        problems.append(f"RAM: {_beyond(needs.ram, ram)}, {parts}; {_suggest_ram(network, needs, ram)}")
    if problems:
        raise UserError("\n".join([f"{board.name} has no room for this network", *problems, _suggest_boards(needs)]))


def _beyond(need: int, limit: int) -> str:
    return f"{write_bytes(need)} of {write_bytes(limit)}, {write_bytes(need - limit)} too many"


def _suggest_ram(network: Network, needs: Needs, ram: int) -> str:
    """Which side of images, or which width of the network, would about fit, each alone: the arena follows both."""
    _, height, width = network.input.size
    pixels = math.prod(network.input.size)
    left = ram - needs.ram + needs.arena
    share = math.sqrt(max(0, left + pixels) / (needs.arena + pixels))
    sides = int(height * share), int(width * share)
    narrow = math.floor(100 * left / needs.arena)
    offers = [f"images of about {sides[0]} x {sides[1]} pixels (now {height} x {width})"] if min(sides) > 0 else []
    offers += [f"about {narrow / 100:.2f} of the channels"] if narrow > 0 else []
    return f"what would fit: {', or '.join(offers)}" if offers else "take a smaller network"


def _suggest_boards(needs: Needs) -> str:
    fitting = [board for board in BOARDS.values() if needs.flash <= board.flash and needs.ram <= board.ram]
    if not fitting:
        return "of the boards known here it fits none"
    return f"boards with room for it: {', '.join(f'{board.name} ({board.core})' for board in fitting)}"
