"""This package reads ONNX files into modules that the tracer can run."""
