"""Compiled kernels for what a CPU does most: training's inverted residuals and augmentation policies.

Plain C, built when netpress is installed where a compiler is at hand. Nothing needs them: wherever
they are missing, the same is computed by torch, slower. Each kernel has a torch twin that tests compare it with.

- `library`: the compiled library, if there is one
- `policies`: all drawn steps of augmentation policies, image by image
- `vectors.h`: vectors of floats for each kind of processor
"""
