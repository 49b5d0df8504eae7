"""What all tests share: one thread, so that parallel tests do not wait for each other."""

import torch

torch.set_num_threads(1)
