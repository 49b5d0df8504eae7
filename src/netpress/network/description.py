"""The JSON in a network file: reading it, and validating every field, as a recipe's fields are.

    values, stored = read_file(path)            plain values, and the tensors beside them; the checksum is compared
    description = check_description(values)     types, ranges, no unknown key

The checksum finds damage. It does not find lies: whoever forges a file can write a checksum that fits. So nothing is
built or decoded before the whole description is valid, and what it says twice (classes, channels, size) must agree.
`netpress.network.file` checks the tensors.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

import safetensors
import torch
from pydantic import ConfigDict, Field, StringConstraints, model_validator
from torch import Tensor

from netpress.data import DataRecord
from netpress.errors import Failure, UserError, quote
from netpress.files import require_file
from netpress.models.registry import FAMILIES, ModelSettings
from netpress.numerics.block_masks import BlockSize, takes_blocks
from netpress.numerics.formats import NumberFormat
from netpress.settings import Fraction, Natural, Settings, between, parse

VERSION = 1
KEY = "netpress"

Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Length = Annotated[int, between(0, 2**31)]
Plain = str | int | float | bool | None
Dtype = Literal["float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
"""Of tensors as the network holds them. float64 is not among them: no network here computes with it."""

_INTEGERS = {"int64": 64, "int32": 32, "int16": 16, "int8": 8, "uint8": 8}


class DescribedArchitecture(Settings):
    """How to build the module again. Family and edits validate their own settings."""

    family: Name
    settings: dict[str, Any]
    edits: tuple[dict[str, Any], ...] = Field(default=(), max_length=10_000)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.family not in FAMILIES.names():
            raise ValueError(f"{self.family}: no such family of models; there are {', '.join(FAMILIES.names())}")
        return self


class DescribedInput(Settings):
    """What the network eats: see `netpress.network.InputSpec`."""

    channels: Annotated[int, between(1, 4096)]
    height: Annotated[int, between(1, 65_536)]
    width: Annotated[int, between(1, 65_536)]
    mean: tuple[Annotated[float, between(-1e6, 1e6)], ...]
    std: tuple[Annotated[float, between(1e-6, 1e6)], ...]

    @model_validator(mode="after")
    def _one_a_channel(self) -> Self:
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name}: {len(getattr(self, name))} values for {self.channels} channels")
        return self


class DescribedFacts(Settings):
    """Figures measured on the network. Others than these may stand there, each one text, number or truth value."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain] = Field(init=False)

    accuracy: Fraction | None = None
    dataset: Name | None = None
    images: Natural | None = None


class DescribedTensor(Settings):
    """One tensor's entry: see `netpress.network.tensors`."""

    shape: tuple[Length, ...] = Field(max_length=8)
    dtype: Dtype = "float32"
    masked: bool = False
    blocks: BlockSize | None = None
    constant: bool | int | float | None = None

    @model_validator(mode="after")
    def _has_blocks(self) -> Self:
        if self.blocks is not None:
            if not self.masked:
                raise ValueError("blocks without a mask")
            if not takes_blocks(self.shape, self.blocks):
                raise ValueError(f"a tensor of {list(self.shape)} has no blocks of {list(self.blocks)}")
        return self

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.constant is None:
            return self
        if self.masked:
            raise ValueError("a constant has no mask")
        bits = _INTEGERS.get(self.dtype)
        wanted = bool if self.dtype == "bool" else int if bits else float
        if type(self.constant) is not wanted:
            raise ValueError(f"the constant {quote(self.constant)} is not of type {self.dtype}")
        limit = 2.0**128 if bits is None else 2**bits if self.dtype == "uint8" else 2 ** (bits - 1)
        if not (0 if self.dtype == "uint8" else -limit) <= self.constant < limit:
            raise ValueError(f"the constant {quote(self.constant)} is beyond {self.dtype}")
        return self


class Description(Settings):
    """The JSON of a network file, without its checksum."""

    version: Annotated[int, between(VERSION, VERSION)]
    architecture: DescribedArchitecture
    input: DescribedInput
    classes: tuple[Name, ...] = Field(min_length=1, max_length=1_000_000)
    facts: DescribedFacts
    formats: dict[Name, NumberFormat]
    tensors: dict[Name, DescribedTensor]
    data: DataRecord | None = None

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: two have the same name")
        layers = {name.rpartition(".")[0] for name in self.tensors}
        for name, format in self.formats.items():
            if name != "*" and name not in self.tensors and name.removesuffix(".input") not in layers:
                raise ValueError(f"formats.{name}: there is no such tensor, nor a layer whose input this could be")
            if name in self.tensors and self.tensors[name].constant is not None and format.bits < 16:
                raise ValueError(f"formats.{name}: {format.kind}, but it is a constant, of which no number is stored")
        return self

    def model_settings(self) -> ModelSettings:
        """The settings of the architecture. Raises SettingsError, also where they disagree with input and classes."""
        family = FAMILIES[self.architecture.family]
        settings = parse(family.settings, self.architecture.settings, "architecture.settings")
        twice = {
            "classes": (settings.classes, len(self.classes)),
            "channels": (settings.channels, self.input.channels),
            "height": (settings.image_size, self.input.height),
            "width": (settings.image_size, self.input.width),
        }
        for what, (model, beside) in twice.items():
            if model != beside:
                raise ValueError(f"{what}: the architecture says {model}, the file beside it {beside}")
        return settings


def check_description(values: dict[str, Any]) -> Description:
    """The description that plain values make. Raises SettingsError or ValueError that say what is wrong with them."""
    description = parse(Description, values)
    description.model_settings()
    return description


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A network file's description, as the plain values that it holds, and the tensors stored beside it.

    The checksum is compared, and the description validated. Raises UserError for a file that is no network, Failure
    for one that is damaged, forged or of another version.
    """
    require_file(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise UserError(f"{path}: a safetensors file, but not a netpress network")
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values = json.loads(text, parse_constant=_refuse_constant)
        if isinstance(values, dict) and values.get("version") == VERSION:
            expected = values.pop("checksum", None)
            right = expected == checksum(values, stored)
        else:
            right = None
    except OSError as error:
        raise Failure(f"{path}: cannot be read ({error.strerror or error})") from error
    except (safetensors.SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise Failure(f"{path}: not a netpress network, or a damaged one ({' '.join(str(error).split())})") from error
    if right is None:
        raise Failure(f"{path}: written by another version of netpress; this one reads version {VERSION}")
    if not right:
        raise Failure(f"{path}: damaged: its contents do not match its checksum; restore it from a copy")
    return values, stored


def checksum(description: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the description and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
