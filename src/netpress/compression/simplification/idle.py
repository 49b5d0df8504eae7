"""Modules that are executed although nothing that the network answers depends on them."""

from torch import nn

from netpress.tracing.operations import Trace


def idle_modules(module: nn.Module, traced: Trace) -> list[str]:
    """The outermost modules all of whose operations feed nothing, in order of definition."""
    dead = traced.dead()
    busy: dict[str, bool] = {}
    for operation in traced.operations:
        useful = operation.name not in dead and operation.kind != "constant"
        path = operation.module
        while path:
            busy[path] = busy.get(path, False) or useful
            path = path.rpartition(".")[0]
    found: list[str] = []
    for name, _ in module.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name in busy and not busy[name] and not inside:
            found.append(name)
    return found
