"""Images: where they come from, how they are divided, augmented, mixed and batched."""

from netpress.data.augment import AugmentSettings, augment
from netpress.data.batches import normalize, shuffled_batches
from netpress.data.dataset import Dataset, default_folder, load_dataset
from netpress.data.images import Images
from netpress.data.mixing import Mixed, MixSettings, mix
from netpress.data.settings import DATASETS, DataSettings

__all__ = [
    "DATASETS",
    "AugmentSettings",
    "DataSettings",
    "Dataset",
    "Images",
    "MixSettings",
    "Mixed",
    "augment",
    "default_folder",
    "load_dataset",
    "mix",
    "normalize",
    "shuffled_batches",
]
