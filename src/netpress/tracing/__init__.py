"""The tracer runs a module or an ONNX file once and lists every operation of its forward pass."""

from netpress.tracing.foreign import check_module
from netpress.tracing.operations import Operation, Stored, Trace
from netpress.tracing.trace import trace

__all__ = ["Operation", "Stored", "Trace", "check_module", "trace"]
