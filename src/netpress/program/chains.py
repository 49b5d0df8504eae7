"""Which values of a program share one scale in integer arithmetic, and how large they grow.

A residual stream is one chain: what is added to it, its sums, and what its activations, pools and concatenations make
of them. Layers and norms choose their chain's scale, so that adding needs no scaling.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from netpress.numerics.fixed_point import IntegerRescaling
from netpress.program.execution import run
from netpress.program.integer_lowering import constant_exponent
from netpress.program.operations import (
    Activation,
    AdaptivePool,
    Add,
    AveragePool,
    BatchNorm,
    Concatenate,
    MaximumPool,
    Mean,
    Multiply,
    Operation,
    Pad,
    Permute,
    Program,
    Rescale,
    Reshape,
    UnitLength,
)

KEEPING = (Add, AdaptivePool, AveragePool, Concatenate, MaximumPool, Mean, Pad, Permute, Reshape)
"""What writes values of the scale that it reads."""
GATES = ("sigmoid", "tanh", "hardsigmoid")
"""Activations whose results are fractions, of scale 2**-15."""


@dataclass
class Chain:
    """Values of one scale."""

    members: set[str] = field(default_factory=set)
    """Names of the layers and norms that write them."""
    largest: float = 0.0
    """Magnitude of the largest value met, those included that saturate before they are multiplied."""
    factor: float = 0.0
    """The largest factor that a unit of what a member reads is multiplied by."""


@torch.no_grad()
def find_chains(program: Program, batches: Iterable[Tensor]) -> list[Chain]:
    """The chains of a program in floats (`netpress.program.lowering.lower_floats`) that layers or norms write to.

    batches: normalised images on which their values are met.
    """
    roots = _roots(program)
    chains: dict[str, Chain] = {}
    for operation in program.operations:
        chain = chains.setdefault(roots[operation.output], Chain())
        if isinstance(operation, Rescale | BatchNorm):
            chain.members.add(operation.name)
    for batch in batches:
        values = {program.input: batch}
        for operation, ended in zip(program.operations, program.last_reads, strict=True):
            chain = chains[roots[operation.output]]
            values[operation.output] = _watch(operation, [values[name] for name in operation.inputs], chain)
            for name in ended:
                del values[name]
    return [chain for chain in chains.values() if chain.members]


def _watch(operation: Operation, inputs: list[Tensor], chain: Chain) -> Tensor:
    constants = operation.constants if isinstance(operation, Rescale) else None
    if isinstance(constants, IntegerRescaling):  # whose scale is not chosen yet
        output = constants.real(inputs[0]).float()
        chain.largest = max(chain.largest, _magnitude(constants.shifted(inputs[0])))
        chain.factor = max(chain.factor, _magnitude(constants.factor))
    else:
        output = run(operation, inputs)
        if isinstance(operation, BatchNorm):
            factor = operation.variance.double().add(operation.epsilon).rsqrt()
            factor = factor if operation.weight is None else factor * operation.weight.double()
            before = IntegerRescaling(factor.view(-1, *[1] * (inputs[0].dim() - 2)), factor, factor)
            chain.largest = max(chain.largest, _magnitude(before.shifted(inputs[0])))
    chain.largest = max(chain.largest, _magnitude(output))
    return output


def _magnitude(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _roots(program: Program) -> dict[str, str]:
    """For each buffer the name of one that stands for its chain."""
    parents = {name: name for name in program.buffers}

    def root(name: str) -> str:
        while parents[name] != name:
            name = parents[name]
        return name

    layers: dict[str, str] = {}
    fractions: set[str] = set()
    for operation in program.operations:
        read, written = operation.inputs, operation.output
        joined: tuple[str, ...] = ()
        if isinstance(operation, KEEPING) or (isinstance(operation, Activation) and operation.function not in GATES):
            joined = read
        elif isinstance(operation, Activation | UnitLength):
            fractions.add(root(written))
        elif isinstance(operation, Multiply) and len(read) == 2:
            gates = [root(name) in fractions for name in read]
            joined = read[:1] if gates[1] else read[1:] if gates[0] else ()
        elif isinstance(operation, Multiply):
            constant = torch.as_tensor(operation.constant, dtype=torch.float64)
            joined = read if constant_exponent(constant) == 0 else ()
        elif isinstance(operation, Rescale | BatchNorm):  # one scale, however often it runs
            joined = (layers.setdefault(operation.name, written),)
        for name in joined:
            if root(name) in fractions:
                fractions.add(root(written))
            parents[root(name)] = root(written)
    return {name: root(name) for name in program.buffers}
