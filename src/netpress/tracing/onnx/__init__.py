"""ONNX files, read into modules that the tracer reads."""
