"""A checksum of a network: two networks that have the same compute the same."""

import hashlib
import json
from dataclasses import asdict

import torch

from netpress.network.network import Network


def fingerprint(network: Network) -> str:
    """SHA-256 of the architecture, the formats, all tensors and masks, in hexadecimal; not of names of classes.

    It says nothing about code: of `family = "import"`, whose class may change, it covers only the class's name.
    """
    digest = hashlib.sha256(json.dumps([asdict(network.architecture), network.formats], sort_keys=True).encode())
    for name, tensor in sorted((network.module.state_dict() | network.masks).items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
