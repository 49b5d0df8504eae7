"""Compiled kernels for what a CPU does most: training's inverted residuals and augmentation policies.

Plain C, built when netpress is installed where a compiler is at hand. Nothing needs them: wherever
they are missing, the same is computed by torch, slower. Each kernel has a torch twin that tests compare it with.

- `library`: the compiled library, if there is one
- `blocks`: the passes of an inverted residual. blocks.h says what they are; their C is in forward.h and backward.h, on
  the products of matrices.h and the vectors of vectors.h, compiled for three kinds of processor (blocks_512.c,
  blocks_256.c, blocks_any.c); blocks.c runs one on threads
- `policies`: augmentation policies, image by image in the cache
"""
