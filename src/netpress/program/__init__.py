"""A quantized network as a list of integer operations with buffers.

program = lower(network)
print(program.describe())
logits = execute(program, images)
"""

from netpress.program import integer_execution as integer_execution  # registers what integer operations calculate
from netpress.program.execution import execute
from netpress.program.layers import exact_layers
from netpress.program.lowering import has_integer_arithmetic, lower
from netpress.program.operations import Buffer, Operation, Program
from netpress.program.structure import check_operations

__all__ = [
    "Buffer",
    "Operation",
    "Program",
    "check_operations",
    "exact_layers",
    "execute",
    "has_integer_arithmetic",
    "lower",
]
