"""What a network's file says of its images: how they were read and divided."""

from typing import Annotated, Any

from pydantic import StringConstraints, field_validator

from netpress.data.settings import DataSettings
from netpress.settings import Natural, Settings

BEFORE = {"resize": "squash", "reduced_decoding": False}
"""How the images of a folder were read before there was a setting for it."""


class DataRecord(Settings):
    """What reads the same images again and divides them as they were: in a network's file under the key `data`."""

    settings: DataSettings
    """The [data] table as it stood; `split_seed` is left out, since `seed` says it."""
    seed: Natural
    """The seed that divided the images."""
    checksum: Annotated[str, StringConstraints(max_length=200)]
    """SHA-256 over pixels and labels of the training, validation and test images: `Dataset.checksum`."""

    @field_validator("settings", mode="before")
    @classmethod
    def _as_before(cls, values: Any) -> Any:
        """What a file does not say was not there when it was written, and the images were read as they were then."""
        if isinstance(values, dict) and values.get("dataset") == "folder":
            return BEFORE | values
        return values

    def as_json(self) -> dict[str, Any]:
        """Plain values that `parse(DataRecord, ...)` takes back."""
        return self.model_dump(mode="json", exclude_none=True)
