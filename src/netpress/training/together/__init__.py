"""One training by several processes, with the results of one process up to rounding.

The leader runs the training as if it were alone: order, augmentation, mixing, optimizer, averages, masks, evaluation,
files. At each step it hands every process its part of the batch and the present weights, and gathers the gradients.

- `share`: which part of the batch a process has
- `norms`: batch norms over the whole batch
- `draws`: dropout and its kin, drawn for the whole batch
- `swapping`: how these take the place of the plain modules
- `leading`: what the leader does at each step
- `helping`: what the others do
"""
