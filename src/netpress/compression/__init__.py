"""Masks, pruning, folding and what else makes a trained network smaller. Importing it registers its stages."""

from netpress.compression.folding import FoldSettings, fold
from netpress.compression.gate import PruneToGateSettings, prune_to_gate
from netpress.compression.magnitude import choose_masks, count_removed
from netpress.compression.masks import (
    Density,
    add_masks,
    apply_masks,
    densities,
    masks_from_zeros,
    merge_masks,
    select_weights,
    total_density,
)
from netpress.compression.pruning import PruneSettings, prune, prune_once
from netpress.compression.quantization import QuantizeSettings, quantize, quantize_once

__all__ = [
    "Density",
    "FoldSettings",
    "PruneSettings",
    "PruneToGateSettings",
    "QuantizeSettings",
    "add_masks",
    "apply_masks",
    "choose_masks",
    "count_removed",
    "densities",
    "fold",
    "masks_from_zeros",
    "merge_masks",
    "prune",
    "prune_once",
    "prune_to_gate",
    "quantize",
    "quantize_once",
    "select_weights",
    "total_density",
]
