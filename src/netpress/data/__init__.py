"""Images: where they come from, how they are divided, augmented, mixed and batched."""

from netpress.data.augment import AugmentSettings, augment
from netpress.data.batches import normalize, shrink, shuffled_batches
from netpress.data.dataset import Dataset, load_dataset, survey_dataset
from netpress.data.images import Images
from netpress.data.layout import has_test_folder
from netpress.data.mixing import Mixed, MixSettings, mix
from netpress.data.record import DataRecord
from netpress.data.settings import DATASETS, DatasetReader, DataSettings, Survey

__all__ = [
    "DATASETS",
    "AugmentSettings",
    "DataRecord",
    "DataSettings",
    "Dataset",
    "DatasetReader",
    "Images",
    "MixSettings",
    "Mixed",
    "Survey",
    "augment",
    "has_test_folder",
    "load_dataset",
    "mix",
    "normalize",
    "shrink",
    "shuffled_batches",
    "survey_dataset",
]
