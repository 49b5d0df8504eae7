"""Training steps on a CPU, faster than module by module, with the same results up to rounding.

    with accelerate(module):
        ...                     steps; `module` is what it was afterwards

- `swapping`: which modules are swapped for faster ones, and how they come back
- `conditions`: when a faster one may be used
- `widening`: a 1x1 convolution, its norm and its activation in one
- `inverted_residual`: a whole inverted residual in one, by compiled kernels
- `quantized`: quantized layers, with compiled rounding
- `norms`, `rows`: what these two share
"""

from netpress.training.accelerated.swapping import accelerate

__all__ = ["accelerate"]
