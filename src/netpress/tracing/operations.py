"""The types of a trace: operations, and the stored tensors that they use.

They hold everything that a counting rule may ask for, but know no rule. Shapes and counts are those of one example
(batch 1).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from netpress.numerics.block_masks import Pattern
from netpress.tracing.factors import LayerInFactors

Shape = tuple[int, ...]
INPUT = "input"
"""The name under which operations know the image that the network is given."""


@dataclass(frozen=True)
class Stored:
    """A tensor that the network keeps: a parameter, a buffer or a constant of a user's module.

    `values` says how many of its values exist: those its mask keeps, or without a mask those that are
    not zero. `nonzeros` are the values that exist and are not zero. Both equal `count` where the
    values are unknown (a module on the meta device). `role` is parameter, buffer or constant.

    `made_of` names the stored tensors that this one is calculated from before any example; `folded_into` is the
    reverse: what is made of this tensor, and stored in its place unless it is itself `used` too. `bits` is the width of
    a value as torch keeps it. `pattern` are the blocks of a mask that has a bit a block.
    """

    name: str
    shape: Shape
    values: int
    nonzeros: int
    role: str = "parameter"
    used: bool = False
    made_of: tuple[str, ...] = ()
    folded_into: str = ""
    bits: int = 32
    pattern: Pattern | None = None

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operation:
    """One operation that the forward pass executed.

    `kind` is one of conv, conv_transpose, linear, matmul, norm, group_norm, activation, pool, add, multiply, compare,
    softmax, reduce, upsample and permute_channels; or `move` (data is only placed elsewhere), or `constant` (it depends
    on stored values alone, so it can be done once, before any example). `function` is what exactly:
    an activation's name, `average` or `max` of a pool, the operator's name.

    `terms` says how many non-zero weights each dot product of a convolution, linear layer or matrix
    product has: pairs (terms, how many outputs have so many). `window` is the same without regard to
    zeros: terms of a dot product, or the number of values that a pool or reduction makes one of.

    `buffer` names the operation in whose memory the result lies: itself (also as "") where it has memory of its own, of
    `buffer_elements` elements (0: as many as the result has); an earlier one, or INPUT, where the result only shows
    another's memory, as a view does, or is written into a part of it.
    """

    name: str
    kind: str
    function: str
    module: str
    module_type: str
    in_leaf: bool
    call: int
    inputs: tuple[Shape, ...]
    output: Shape
    sources: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    weight: str | None = None
    bias: str | None = None
    has_bias: bool = False
    derived_weight: bool = False
    terms: tuple[tuple[int, int], ...] = ()
    window: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    output_of: tuple[str, ...] = ()
    within: str = ""
    share: float = 1.0
    buffer: str = ""
    buffer_elements: int = 0

    @property
    def outputs(self) -> int:
        """Elements of the result."""
        return math.prod(self.output)

    @property
    def products(self) -> int:
        """Multiplications by non-zero weights."""
        return sum(terms * outputs for terms, outputs in self.terms)

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """Of how many values a pool or reduction makes one: pairs (values, how many outputs are made of so many)."""
        return self.attributes.get("windows") or ((self.window, self.outputs),)

    @property
    def read(self) -> int:
        """How many values enter the outputs of a pool or reduction, each as often as it enters one."""
        return sum(window * outputs for window, outputs in self.windows)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the dense operation, zeros and padding included; 0 for what has no weights."""
        if self.kind == "conv_transpose":  # every input value meets every weight of its kernel
            return math.prod(self.inputs[0]) * self.window
        return self.window * self.outputs if self.kind in ("conv", "linear", "matmul") else 0

    @property
    def is_module(self) -> bool:
        """Whether it is what a layer calculates, and no function that is called beside layers."""
        return self.in_leaf and bool(self.module)

    @property
    def makes_channels(self) -> bool:
        """Whether it is a convolution or linear layer with its outputs along dimension 1, where norms look for them."""
        if self.kind == "linear":
            return len(self.output) == (3 if self.attributes.get("left") else 2)
        return self.kind in ("conv", "conv_transpose")

    @property
    def channels(self) -> int:
        """Length of dimension 1 of the result: channels of a map, features of a vector."""
        return self.output[1] if len(self.output) > 1 else self.outputs


@dataclass(frozen=True)
class Trace:
    """Every operation of a forward pass, in order, and every tensor that the module keeps.

    `results` names the operations whose output the module returned, or INPUT. `examples` is over how
    many examples the operations' `share` is a mean; 0 if the flow does not depend on the example. `notes` say what the
    module holds that is counted as something else. `in_factors` lists its layers in factors. `paths` are the traces of
    single examples that this one joins, one a path; none where every example takes the same.
    """

    operations: tuple[Operation, ...]
    stored: Mapping[str, Stored]
    results: tuple[str, ...]
    input_size: Shape
    examples: int = 0
    notes: tuple[str, ...] = ()
    in_factors: tuple[LayerInFactors, ...] = ()
    paths: tuple["Trace", ...] = ()

    def __iter__(self) -> Any:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    @property
    def by_name(self) -> dict[str, Operation]:
        return {operation.name: operation for operation in self.operations}

    @property
    def multiply_adds(self) -> float:
        """Dense multiply-adds of an example."""
        return sum(operation.multiply_adds * operation.share for operation in self.operations)

    @property
    def nonzero_multiply_adds(self) -> float:
        """Multiply-adds of an example by weights that are not zero."""
        return sum(operation.products * operation.share for operation in self.operations)

    @property
    def unused(self) -> list[Stored]:
        """Stored tensors that no operation used."""
        return [tensor for tensor in self.stored.values() if not tensor.used]

    def consumers(self) -> dict[str, list[str]]:
        """For each operation (and INPUT) the names of those that use its result; `""` stands for the caller."""
        users: dict[str, list[str]] = {}
        for operation in self.operations:
            for source in operation.sources:
                users.setdefault(source, []).append(operation.name)
        for name in self.results:
            users.setdefault(name, []).append("")
        return users

    def dead(self) -> frozenset[str]:
        """Operations that were executed although nothing that the module returns depends on them."""
        alive: set[str] = set()
        reached, by_name = list(self.results), self.by_name
        while reached:
            name = reached.pop()
            if name not in alive:
                alive.add(name)
                reached.extend(by_name[name].sources if name in by_name else ())
        return frozenset(op.name for op in self.operations if op.name not in alive and op.kind != "constant")

    def folded_norms(self) -> dict[str, str]:
        """Norms that can be folded into the operation before them: name of the norm -> that operation's name.

        A batch norm folds into a convolution or linear layer whose result goes nowhere else. Where a weight is
        used several times, each use must be followed by the same norm; where a norm is used several times, all of its
        uses must fold; and nothing else may read what these layers store. What counts is the flow of data, not the
        order in which modules are listed.
        """
        by_name, readers, pairs = self.by_name, self._readers(), self._norms_after_layers()
        while True:
            followers = {layer: by_name[norm] for norm, layer in pairs.items()}
            foldable = {n: x for n, x in pairs.items() if _folds(by_name[n], by_name[x], followers, readers)}
            if len(foldable) == len(pairs):
                return pairs
            pairs = foldable  # a norm that stays may keep others from folding

    def _norms_after_layers(self) -> dict[str, str]:
        """Each norm whose input is the result of one convolution or linear layer, and goes nowhere else."""
        by_name, consumers = self.by_name, self.consumers()
        pairs: dict[str, str] = {}
        for operation in self.operations:
            if operation.kind != "norm":
                continue
            source = by_name.get(_origin(operation.sources[0], by_name, consumers)) if operation.sources else None
            if source is None or not source.makes_channels or len(consumers[source.name]) != 1:
                continue
            if source.output[:2] == operation.output[:2]:
                pairs[operation.name] = source.name
        return pairs

    def _readers(self) -> dict[str, list[Operation]]:
        """For each stored tensor the operations that use it, or what is made of it."""
        readers: dict[str, list[Operation]] = {}
        for operation in self.operations:
            names = {name for tensor in operation.tensors for name in (tensor, *self.stored[tensor].made_of)}
            for name in names:
                readers.setdefault(name, []).append(operation)
        return readers

    def norms_folded_forward(self) -> dict[str, str]:
        """Each norm with the first convolution or linear layer that its result reaches, whatever calculates between."""
        reached: dict[str, set[str]] = {}
        pairs: dict[str, str] = {}
        for operation in self.operations:
            norms = {norm for source in operation.sources for norm in reached.get(source, ())}
            if operation.kind in ("conv", "conv_transpose", "linear"):
                for norm in norms - pairs.keys():
                    pairs[norm] = operation.name
                norms = set()
            reached[operation.name] = norms | ({operation.name} if operation.kind == "norm" else set())
        return pairs


def _folds(
    norm: Operation, layer: Operation, followers: Mapping[str, Operation], readers: Mapping[str, list[Operation]]
) -> bool:
    """Whether `norm` folds into `layer`, if all norms of `followers` fold into the layers whose names they stand by."""
    users = [operation for operation in readers.get(layer.weight or "", []) if operation.weight == layer.weight]
    if layer.is_module:  # nothing else may read what the layer stores
        users = [user for name in (layer.weight, layer.bias) if name for user in readers[name]]
    if any(user.name not in followers or followers[user.name].tensors != norm.tensors for user in users):
        return False
    if not norm.is_module:
        return True
    folded = {follower.name for follower in followers.values()}
    uses = [user for name in norm.tensors for user in readers[name]]
    return all(user.kind == "norm" and (user.module != norm.module or user.name in folded) for user in uses)


def _origin(name: str, by_name: Mapping[str, Operation], consumers: Mapping[str, list[str]]) -> str:
    """The operation whose values `name` passes on unchanged, in the same places, to one user only."""
    while name in by_name and by_name[name].function in ("clone", "alias", "detach", "dropout", "contiguous"):
        if len(consumers[name]) != 1 or len(by_name[name].sources) != 1:
            break
        name = by_name[name].sources[0]
    return name


def merge_traces(traces: list[tuple[Trace, int]]) -> Trace:
    """One trace of many examples: each operation with the share of the examples that executed it."""
    total = sum(count for _, count in traces)
    merged: dict[str, Operation] = {}
    shares: dict[str, int] = {}
    stored: dict[str, Stored] = {}
    results: dict[str, None] = {}
    for trace, count in traces:
        renamed: dict[str, str] = {}
        for name, tensor in trace.stored.items():
            if name not in stored or tensor.used:
                stored[name] = tensor
        for operation in trace.operations:
            earlier = merged.get(operation.name)
            if earlier is not None and (earlier.function, earlier.output) != (operation.function, operation.output):
                # Another path through the same module: a name of its own keeps both countable.
                renamed[operation.name] = f"{operation.name} {list(operation.output)}"
                operation = replace(operation, name=renamed[operation.name])
                earlier = merged.get(operation.name)
            own = (renamed.get(source, source) for source in operation.sources)
            sources = dict.fromkeys((*(earlier.sources if earlier else ()), *own))
            merged[operation.name] = replace(operation, sources=tuple(sources))
            shares[operation.name] = shares.get(operation.name, 0) + count
        results.update((renamed.get(name, name), None) for name in trace.results)
    operations = tuple(replace(operation, share=shares[name] / total) for name, operation in merged.items())
    first, paths = traces[0][0], tuple(trace for trace, _ in traces)
    return Trace(operations, stored, tuple(results), first.input_size, total, first.notes, paths=paths)
