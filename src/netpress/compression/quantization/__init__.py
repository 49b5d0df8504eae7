"""What the stage `quantize` is made of: settings, which layer gets which formats, scales, widths."""
