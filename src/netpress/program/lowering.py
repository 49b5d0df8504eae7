"""From a network to its program.

The module's forward is traced with symbols (`torch.fx`). Each call of a layer or a function becomes the operations that
`netpress.program.layers` and `netpress.program.rules` say. One blank image runs through them on the way: its values
have the shapes and the types that the buffers state.

What no operation stands for is refused by name, and so is a forward whose flow depends on values.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from netpress.errors import UserError
from netpress.network import Network
from netpress.numerics.layers import QuantizedLayer, quantized_layers
from netpress.program.execution import run
from netpress.program.integer_lowering import to_integers
from netpress.program.layers import layer_operations
from netpress.program.operations import Buffer, IntegerSums, Operation, Permute, Program, Quantize, Reshape
from netpress.program.rules import FUNCTIONS, METHODS, MODULES, PASSED_ON, Call, NoOperation

INPUT = "image"


def lower(network: Network) -> Program:
    """The program of a network, on the device where the network is: of integers alone where that is its arithmetic.

    Raises UserError, naming the layer, for what has no operation; Failure for sums that could reach 2**53.
    """
    program = lower_floats(network)
    return to_integers(program, network.input) if has_integer_arithmetic(network) else program


def has_integer_arithmetic(network: Network) -> bool:
    """Whether what is between the sums is integers, too."""
    return any(layer.formats.arithmetic == "integer" for layer in quantized_layers(network.module).values())


@torch.no_grad()
def lower_floats(network: Network) -> Program:
    """The program of a network whose values between the sums are floats; in integer arithmetic, what simulates it.

    Raises as `lower`.
    """
    module = network.module
    training = module.training
    module.eval()
    try:
        graph = _trace(module)
        device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
        blank = torch.zeros(1, *network.input.size, device=device)
        return _Lowering(module, graph, blank).program()
    finally:
        module.train(training)


class _Tracer(fx.Tracer):
    """Sees quantized layers, like torch's own, as one call."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QuantizedLayer) or super().is_leaf_module(m, module_qualified_name)


def _trace(module: nn.Module) -> fx.Graph:
    name = type(module).__name__
    for path, part in module.named_modules():
        if part._forward_hooks or part._forward_pre_hooks:
            raise UserError(f"{path or name}: hooks run around its forward, which no operation stands for")
    try:
        return _Tracer().trace(module)
    except Exception as error:  # whatever the user's own forward raises when it is given symbols
        raise UserError(
            f"{name}: no program can be made of it, because its forward cannot be traced: {error}"
        ) from error


class _Lowering:
    """A program in the making."""

    def __init__(self, module: nn.Module, graph: fx.Graph, blank: Tensor) -> None:
        self.module, self.graph = module, graph
        self.operations: list[Operation] = []
        self.buffers: dict[str, Buffer] = {}
        self.values: dict[str, Tensor] = {}  # of the blank image, by buffer
        self.origin: dict[str, str] = {}  # whose memory a buffer shares
        self.overwritten: dict[str, str] = {}  # memory that no longer holds its values, and what changed it
        self.results: dict[fx.Node, Any] = {}  # a Buffer, or a constant
        self._keep(Buffer(INPUT, tuple(blank.shape[1:]), "float", 32), blank)

    def program(self) -> Program:
        for node in self.graph.nodes:
            self.results[node] = self._result(node)
            if node.op == "output":
                output = self.results[node]
        if not isinstance(output, Buffer):
            raise UserError(
                f"{type(self.module).__name__}: it answers {type(output).__name__}, not one tensor of logits"
            )
        return Program(self.buffers, tuple(self.operations), INPUT, output.name)

    def _result(self, node: fx.Node) -> Any:
        arguments = fx.map_arg(node.args, self.results.__getitem__)
        options = fx.map_arg(node.kwargs, self.results.__getitem__)
        match node.op:
            case "placeholder":
                if node.prev.op != "root":  # a second input takes what it is by default
                    if not arguments:
                        raise UserError(f"{node.target}: a second input, which no image gives")
                    return arguments[0]
                return self.buffers[INPUT]
            case "get_attr":
                return _attribute(self.module, str(node.target))
            case "output":
                return arguments[0]
            case "call_module":
                return self._module(str(node.target), arguments, options)
        return self._function(node, arguments, options)

    def _module(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        layer = self.module.get_submodule(name)
        if len(arguments) != 1 or options or not isinstance(arguments[0], Buffer):
            raise UserError(f"{name}: {type(layer).__name__} is given something else than one tensor")
        source = arguments[0]
        if isinstance(layer, QuantizedLayer):
            self._refuse_overwritten(name, source)
            for operation in layer_operations(layer, name, source.name, self._unused(name)):
                written = self._add(operation)
            return written
        if type(layer) in PASSED_ON:
            return source
        rule = MODULES.get(type(layer))
        if rule is None:
            raise UserError(f"{name}: no operation stands for {type(layer).__name__}")
        return self._apply(name, lambda: rule(layer, source), (source,))

    def _function(self, node: fx.Node, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        function, title = node.target, getattr(node.target, "__name__", str(node.target))
        stack = list((node.meta.get("nn_module_stack") or {}).keys())
        name = f"{stack[-1]}.{title}" if stack and stack[-1] else title
        sources = [value for value in _flat((arguments, options)) if isinstance(value, Buffer)]
        if not sources:
            return _constant(name, function, arguments, options)
        rule = METHODS.get(str(function)) if node.op == "call_method" else FUNCTIONS.get(function)
        if rule is None:
            raise UserError(f"{name}: no operation stands for this function")
        return self._apply(name, lambda: rule(*arguments, **options), tuple(sources))

    def _apply(self, name: str, rule: Callable[[], Any], sources: tuple[Buffer, ...]) -> Any:
        """What a rule says of a call: a constant, a buffer that is passed on, or an operation, which is added."""
        try:
            call = rule()
        except (NoOperation, TypeError) as error:  # TypeError: arguments that the rule does not know
            raise UserError(f"{name}: no operation stands for this call: {error}") from None
        if not isinstance(call, Call):
            return call
        for source in sources:
            self._refuse_overwritten(name, source)
        names = tuple(buffer.name for buffer in call.inputs)
        operation = call.kind(name, names, self._unused(name), **call.fields)
        written = self._add(operation)
        if call.in_place:
            changed = self.values[names[0]]
            if changed.dtype != self.values[written.name].dtype or changed.shape != self.values[written.name].shape:
                raise UserError(f"{name}: changes a tensor in place into one of another type")
            self.overwritten[self.origin[names[0]]] = name
        return written

    def _refuse_overwritten(self, name: str, source: Buffer) -> None:
        by = self.overwritten.get(self.origin[source.name])
        if by is not None:
            raise UserError(f"{name}: reads {source.name} after {by} has overwritten it")

    def _add(self, operation: Operation) -> Buffer:
        values = run(operation, [self.values[name] for name in operation.inputs])
        self.operations.append(operation)
        shares = isinstance(operation, Reshape | Permute)
        return self._keep(_buffer(operation, values), values, self.origin[operation.inputs[0]] if shares else None)

    def _keep(self, buffer: Buffer, values: Tensor, origin: str | None = None) -> Buffer:
        self.buffers[buffer.name], self.values[buffer.name] = buffer, values
        self.origin[buffer.name] = buffer.name if origin is None else origin
        return buffer

    def _unused(self, name: str) -> str:
        """A buffer's name after what writes it; with a number where that runs more than once."""
        number = 1
        while (name if number == 1 else f"{name} {number}") in self.buffers:
            number += 1
        return name if number == 1 else f"{name} {number}"


def _buffer(operation: Operation, values: Tensor) -> Buffer:
    """What the operation writes, by the values that it made of one image."""
    name, shape = operation.output, tuple(values.shape[1:])
    if isinstance(operation, IntegerSums):
        return Buffer(name, shape, "integer", operation.accumulator_bits)
    if isinstance(operation, Quantize):
        signed = getattr(operation.format, "signed", True)
        zero = 0 if operation.zero_point is None else int(operation.zero_point)
        return Buffer(name, shape, "integer", operation.format.bits, signed, float(operation.scale), zero)
    return Buffer(name, shape, "float", values.element_size() * 8)


def _attribute(module: nn.Module, path: str) -> Any:
    parent, _, name = path.rpartition(".")
    value = getattr(module.get_submodule(parent), name)
    return value.detach() if isinstance(value, Tensor) else value


def _constant(name: str, function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What a call makes of constants alone."""
    try:
        if isinstance(function, str):  # a method of the first argument
            return getattr(arguments[0], function)(*arguments[1:], **options)
        return function(*arguments, **options)
    except Exception as error:
        raise UserError(f"{name}: no operation stands for this call: {error}") from None


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return _flat(list(value.values()))
    if isinstance(value, list | tuple):
        return [part for one in value for part in _flat(one)]
    return [value]
