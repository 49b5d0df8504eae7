"""The boards that firmware is written for: those of QEMU with a Cortex-M that people know.

Addresses and sizes are those of the boards' manuals where QEMU has them too (`info mtree` in its monitor).
"""

from dataclasses import dataclass

from netpress.errors import UserError, quote

K = 1024
M = 1024 * K


@dataclass(frozen=True)
class Board:
    """One board."""

    name: str
    """QEMU's, for -M."""
    core: str
    cpu: str
    """What the compiler is told about the processor."""
    flash_at: int
    flash: int
    """Bytes for code and constants: flash, or what the board starts from in its place."""
    ram_at: int
    ram: int
    """Bytes."""
    megahertz: float
    """MHz of the processor after reset, in QEMU; SysTick counts by it."""


_SOFT = "-mfloat-abi=soft"
_M4 = "-mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard"
_M7 = "-mcpu=cortex-m7 -mfpu=fpv5-d16 -mfloat-abi=hard"
_M33 = "-mcpu=cortex-m33 -mfpu=fpv5-sp-d16 -mfloat-abi=hard"
_M55 = "-mcpu=cortex-m55 -mfloat-abi=hard"

BOARDS = {
    board.name: board
    for board in (
        Board("microbit", "Cortex-M0", f"-mcpu=cortex-m0 {_SOFT}", 0, 256 * K, 0x20000000, 16 * K, 16),
        Board("stm32vldiscovery", "Cortex-M3", "-mcpu=cortex-m3", 0x08000000, 128 * K, 0x20000000, 8 * K, 24),
        Board("lm3s6965evb", "Cortex-M3", "-mcpu=cortex-m3", 0, 256 * K, 0x20000000, 64 * K, 12.5),
        Board("netduino2", "Cortex-M3", "-mcpu=cortex-m3", 0x08000000, 1 * M, 0x20000000, 128 * K, 120),
        Board("mps2-an385", "Cortex-M3", "-mcpu=cortex-m3", 0, 4 * M, 0x20000000, 4 * M, 25),
        Board("netduinoplus2", "Cortex-M4", _M4, 0x08000000, 1 * M, 0x20000000, 128 * K, 168),
        Board("mps2-an386", "Cortex-M4", _M4, 0, 4 * M, 0x20000000, 4 * M, 25),
        Board("mps2-an500", "Cortex-M7", _M7, 0, 4 * M, 0x20000000, 4 * M, 25),
        Board("mps2-an505", "Cortex-M33", _M33, 0x10000000, 4 * M, 0x38000000, 4 * M, 20),
        Board("mps3-an547", "Cortex-M55", _M55, 0x10000000, 512 * K, 0x30000000, 512 * K, 32),
    )
}


def find_board(name: str) -> Board:
    """The board called `name`. Raises UserError, which names those there are."""
    if name not in BOARDS:
        known = ", ".join(f"{board.name} ({board.core})" for board in BOARDS.values())
        raise UserError(f"--board {quote(name)}: no board that is known here; there are {known}")
    return BOARDS[name]
