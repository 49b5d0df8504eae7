"""A module or an ONNX file, traced into operations."""

from netpress.tracing.foreign import check_module
from netpress.tracing.operations import Operation, Stored, Trace
from netpress.tracing.trace import trace

__all__ = ["Operation", "Stored", "Trace", "check_module", "trace"]
