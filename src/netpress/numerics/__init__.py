"""Numbers as they are stored and computed: formats, rounding, packing into bits, quantized layers."""
