"""Blocks that answer what they are given, because the branch that they add to it is zero for every image."""

from netpress.compression.simplification.channels import Flow
from netpress.network import Network
from netpress.program import operations as ops
from netpress.program.lowering import has_integer_arithmetic, lower


def idle_blocks(network: Network) -> list[str]:
    """The outermost modules of one input that they pass on as it is, in order of definition; none for shapes.

    Raises UserError where no program can be made of the network.
    """
    if any(parameter.is_meta for parameter in network.module.parameters()):
        return []
    flow = Flow(network)
    program, origin = flow.program, _passed_on(flow)
    found: list[str] = []
    for name, _ in network.module.named_modules():
        if not name or any(name.startswith(f"{outer}.") for outer in found):
            continue
        inside = [op for op in program.operations if op.name == name or op.name.startswith(f"{name}.")]
        written = {op.output for op in inside}
        read = {buffer for op in inside for buffer in op.inputs} - written
        others = [op for op in program.operations if op.output not in written]
        given = written & ({buffer for op in others for buffer in op.inputs} | {program.output})
        if len(read) == len(given) == 1 and origin.get(*given, *given) == origin.get(*read, *read):
            found.append(name)
    return found


def _passed_on(flow: Flow) -> dict[str, str]:
    """For each buffer that is only another one and zeros added to it, the name of that one."""
    program = flow.program
    scaled: set[str] = set()  # sums of which a part is brought to another scale first
    if has_integer_arithmetic(flow.network):
        exact = lower(flow.network).operations
        scaled = {op.output for op in exact if any(".aligned" in name for name in op.inputs)}
    origin: dict[str, str] = {}
    for operation in program.operations:
        if not isinstance(operation, ops.Add) or len(operation.inputs) != 2 or operation.output in scaled:
            continue
        for kept, added in (operation.inputs, operation.inputs[::-1]):
            alike = program.buffers[kept].shape == program.buffers[operation.output].shape
            if alike and bool(flow.zero[flow.places(added)].all()):
                origin[operation.output] = origin.get(kept, kept)
    return origin
