"""A network is data: an architecture, tensors and number formats, in one `.netpress` file.

The file is a safetensors file. Its metadata holds one JSON text under the key `netpress`:

    {"version": 1,
     "architecture": {"family": "c_efficientnet", "settings": {...}, "edits": [...]},
     "input": {...}, "classes": [...], "facts": {...},
     "formats": {tensor or activation name: number format},
     "tensors": {name: {"shape": [...], "dtype": "float32", "masked": true}},
     "checksum": sha256 of all of the above and of every tensor's bytes}

(`dtype` and `masked` are left out where they are float32 and false.) A tensor without format and mask is
stored as it is. Any other is stored in parts, `NAME#values`, `NAME#mask` and so on; its scale is the
tensor `NAME_scale` if the network has one, so that no number is there twice.

Loading builds the family on the meta device, replays the edits, compares every name and
shape with the file, and only then reads tensors: a file that claims to be huge costs nothing.
"""

import copy as copying
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from netpress.data import Dataset, DataSettings
from netpress.devices import generator_for, seed_for
from netpress.errors import Failure, UserError
from netpress.files import atomic_write
from netpress.models.edits import apply_edits
from netpress.models.registry import family_named, parse_model
from netpress.numerics.formats import AnyFormat, Float32, parse_format
from netpress.numerics.packing import alignment_bits, decode_tensor, encode_tensor, pack_mask, part_bits, unpack_mask
from netpress.settings import parse

SUFFIX = ".netpress"
VERSION = 1
KEY = "netpress"
PART = "#"  # between a tensor's name and the name of one of its stored parts


@dataclass(frozen=True)
class InputSpec:
    """What the network eats: `channels` x `height` x `width`, as (pixel / 255 - mean) / std per channel."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


@dataclass
class Architecture:
    """How to build the module again: a family with its settings, then structural edits in order."""

    family: str
    settings: dict[str, Any]
    edits: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Network:
    """A module with what is needed to rebuild, feed, count and ship it.

    `masks` maps a parameter's name to a bool tensor of its shape, True where the weight exists.
    `formats` maps a tensor's or an activation's name to its number format (absent: float32).
    `facts` are figures measured on it, such as `accuracy` (a fraction) and `dataset`.
    """

    module: nn.Module
    architecture: Architecture
    input: InputSpec
    classes: tuple[str, ...]
    masks: dict[str, Tensor] = field(default_factory=dict)
    formats: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def weights(self) -> dict[str, nn.Parameter]:
        """Parameters of more than one dimension: what pruning may touch and a mask may describe."""
        return {name: weight for name, weight in self.module.named_parameters() if weight.dim() > 1}


def create(
    family: str,
    settings: dict[str, Any],
    *,
    classes: tuple[str, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    seed: int = 0,
) -> Network:
    """A new network with initial weights that depend on `seed` alone."""
    entry = family_named(family)
    parsed = parse(entry.settings, settings, "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "build"))  # modules' own constructors draw from the global generator
        module = entry.build(parsed)
    entry.initialize(module, parsed, generator_for(seed, "initialize"))
    channels = parsed.channels
    spec = InputSpec(
        channels, parsed.image_size, parsed.image_size, mean or (0.5,) * channels, std or (0.25,) * channels
    )
    names = classes or tuple(str(index) for index in range(parsed.classes))
    return Network(module, Architecture(family, parsed.model_dump(mode="json")), spec, names)


def resolve(text: str, *, allow_import: bool = False) -> Network:
    """The network that a person means by `text`: a file, a run folder, or NAME[:SETTINGS] of a new model."""
    path = Path(text)
    if path.is_dir():
        file = path / f"network{SUFFIX}"
        if not file.exists():
            raise UserError(f"{path}: no network{SUFFIX} in this folder; is the run finished?")
        return load(file, allow_import=allow_import)
    if path.exists():
        return load(path, allow_import=allow_import)
    if path.suffix == SUFFIX or "/" in text.partition(":")[0]:
        raise UserError(f"{text}: no such file")
    choice = parse_model(text)
    return create(choice.family.name, choice.settings.model_dump(mode="json"))


def data_settings(network: Network, dataset: str) -> DataSettings:
    """Settings that read `dataset` as this network takes it: images of its size, where the size can be chosen.

    Raises SettingsError for an unknown data set.
    """
    values: dict[str, Any] = {"dataset": dataset}
    if not dataset.startswith("cifar"):
        values["image_size"] = network.input.height
    return parse(DataSettings, values, "data")


def check_fit(network: Network, dataset: Dataset) -> None:
    """Raise UserError unless `network` takes the images of `dataset` and tells its classes apart."""
    if len(network.classes) != len(dataset.classes):
        raise UserError(
            f"the network tells {len(network.classes)} classes apart, {dataset.name} has {len(dataset.classes)}"
        )
    size = tuple(dataset.test.images.shape[1:])
    if network.input.size != size:
        raise UserError(
            f"the network takes images of {network.input.size} (channels, height, width), {dataset.name} has {size}"
        )


def copy(network: Network) -> Network:
    """An independent copy: changing one leaves the other as it was."""
    return copying.deepcopy(network)


def save(network: Network, path: Path | str) -> None:
    """Write the network to `path`, all or nothing. Raises Failure if the disk is full."""
    tensors: dict[str, Tensor] = {}
    described: dict[str, dict[str, Any]] = {}
    state = {name: tensor.detach().cpu() for name, tensor in network.module.state_dict().items()}
    for name, tensor in state.items():
        mask = network.masks.get(name)
        entry: dict[str, Any] = {"shape": list(tensor.shape)}
        if tensor.dtype != torch.float32:
            entry["dtype"] = str(tensor.dtype).removeprefix("torch.")
        if mask is not None:
            entry["masked"] = True
        described[name] = entry
        if name not in network.formats and mask is None:
            tensors[name] = tensor.contiguous()
        else:
            mask = None if mask is None else mask.cpu()
            parts = encode_tensor(tensor, _format(name, network.formats), mask, *_own_grid(name, state))
            if mask is not None:
                parts["mask"] = pack_mask(mask)
            tensors |= {f"{name}{PART}{part}": value.contiguous() for part, value in parts.items()}
    description = {
        "version": VERSION,
        "architecture": asdict(network.architecture),
        "input": asdict(network.input),
        "classes": list(network.classes),
        "facts": network.facts,
        "formats": network.formats,
        "tensors": described,
    }
    # Shared parameters would make safetensors refuse; each name gets its own bytes.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    description["checksum"] = _checksum(description, tensors)
    atomic_write(Path(path), safetensors.torch.save(tensors, {KEY: json.dumps(description, separators=(",", ":"))}))


def load(path: Path | str, *, allow_import: bool = False) -> Network:
    """The network stored at `path`, rebuilt exactly as it was saved.

    A network of a user's own class (family `import`) is rebuilt by importing that class, which runs
    its code: that is refused unless `allow_import` is given.
    Raises UserError for a file that is not a network, Failure for one that is damaged.
    """
    path = Path(path)
    description, stored = _read(path)
    with _refuse_damage(path):
        network = _rebuild(path, description, allow_import, len(stored))
        _check_shapes(network.module, description["tensors"])
        state, network.masks = _restore(description, stored)
        network.module.load_state_dict(state, assign=True)
    return network


def describe(path: Path | str) -> dict[str, Any]:
    """The JSON that a network file carries, checked against its checksum, without building anything."""
    return _read(Path(path))[0]


def inspect_file(path: Path | str) -> dict[str, Any]:
    """What a network file holds, as plain values: its description, and for each tensor the bits it takes.

    `tensor_bits` counts whole bytes of every stored part, masks included. `alignment_bits` of them only fill up
    last bytes; all others are values, scales, zero points and masks, as a score counts them.
    `file_bytes` adds names, JSON and the checksum. Every part's size is checked. Raises as `load`.
    """
    path = Path(path)
    description, stored = _read(path)
    with _refuse_damage(path):
        _, masks = _restore(description, stored)
        layers = [_inspect_tensor(name, description, masks, stored) for name in description["tensors"]]
        totals = {key: sum(row[key] for row in layers) for key in ("tensor_bits", "mask_bits", "alignment_bits")}
        rest = {key: description[key] for key in ("architecture", "input", "classes", "facts")}
    return {"file_bytes": path.stat().st_size, **totals, **rest, "layers": layers}


def _inspect_tensor(
    name: str, description: dict[str, Any], masks: dict[str, Tensor], stored: dict[str, Tensor]
) -> dict[str, Any]:
    entry, parts, mask = description["tensors"][name], _parts_of(name, stored), masks.get(name)
    chosen = _format(name, description["formats"])
    plain = name not in description["formats"]
    tensor_bits = part_bits(parts) if parts else part_bits({name: stored[name]})
    return {
        "name": name,
        "shape": "x".join(str(length) for length in entry["shape"]) or "1",
        "format": entry.get("dtype", "float32") if plain else chosen.kind,
        "bits": _dtype(entry).itemsize * 8 if plain else chosen.bits,
        "values": torch.Size(entry["shape"]).numel() if mask is None else int(mask.sum()),
        "tensor_bits": tensor_bits,
        "mask_bits": 0 if mask is None else mask.numel(),
        "alignment_bits": alignment_bits(parts, chosen, entry["shape"], mask),
    }


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise UserError(f"{path}: a safetensors file, but not a netpress network")
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        description = json.loads(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise Failure(f"{path}: not a netpress network, or a damaged one ({error})") from error
    except OSError as error:
        raise Failure(f"{path}: cannot be read ({error.strerror or error})") from error
    if not isinstance(description, dict) or description.get("version") != VERSION:
        raise Failure(f"{path}: written by another version of netpress; this one reads version {VERSION}")
    if description.pop("checksum", None) != _checksum(description, stored):
        raise Failure(f"{path}: damaged: its contents do not match its checksum; restore it from a copy")
    return description, stored


def _checksum(description: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _rebuild(path: Path, description: dict[str, Any], allow_import: bool, stored: int) -> Network:
    architecture = Architecture(**description["architecture"])
    if architecture.family == "import" and not allow_import:
        raise UserError(
            f"{path}: this network is built by code of its author's own "
            f"({architecture.settings.get('target')}); if you trust it, say so with --allow-import"
        )
    with _bounded_building(8 * stored + 1000):
        module = build(architecture)
    fields = description["input"]
    spec = InputSpec(fields["channels"], fields["height"], fields["width"], tuple(fields["mean"]), tuple(fields["std"]))
    classes = tuple(description["classes"])
    return Network(module, architecture, spec, classes, formats=description["formats"], facts=description["facts"])


def build(architecture: Architecture) -> nn.Module:
    """The module of an architecture, edits replayed, without weights (on the meta device where it can be)."""
    entry = family_named(architecture.family)
    settings = parse(entry.settings, architecture.settings, "model")
    device = "cpu" if architecture.family == "import" else "meta"  # others' constructors may compute with values
    with torch.device(device):
        module = entry.build(settings)
        apply_edits(module, architecture.edits)
    return module


@contextmanager
def _bounded_building(limit: int) -> Iterator[None]:
    """Stop a module that registers more than `limit` parts: settings that claim a billion layers cost little."""
    count = 0

    def note(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise ValueError(f"its settings ask for more than {limit:,} layers and parameters, far beyond its tensors")

    hooks = (register_module_parameter_registration_hook(note), register_module_module_registration_hook(note))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _restore(description: dict[str, Any], stored: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every tensor and every mask that the description names, from their parts. Sizes are checked before use."""
    entries: dict[str, dict[str, Any]] = description["tensors"]
    formats = description["formats"]
    state: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    missing = set(stored)
    for name in sorted(entries, key=lambda name: _scaled_by(name, entries) is not None):  # scales come first
        entry = entries[name]
        parts = _parts_of(name, stored)
        missing -= {name, *(f"{name}{PART}{part}" for part in parts)}
        if entry.get("masked"):
            masks[name] = unpack_mask(parts.pop("mask"), tuple(entry["shape"]))
        if name not in formats and not entry.get("masked"):
            tensor = stored[name]
            if list(tensor.shape) != entry["shape"]:
                raise ValueError(f"{name}: its shape is {list(tensor.shape)}, not {entry['shape']}")
        else:
            # Earlier files hold a scale twice: as a tensor and among the parts.
            grid = (None, None) if "scale" in parts else _own_grid(name, state)
            try:
                tensor = decode_tensor(parts, _format(name, formats), tuple(entry["shape"]), masks.get(name), *grid)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        state[name] = tensor.to(_dtype(entry))
    if missing:
        raise ValueError(f"{sorted(missing)[0]}: nothing says what it is")
    return state, masks


def _format(name: str, formats: Mapping[str, Any]) -> AnyFormat:
    return parse_format(formats.get(name) or Float32(), f"formats.{name}")


def _dtype(entry: dict[str, Any]) -> torch.dtype:
    dtype = getattr(torch, entry.get("dtype", "float32"))
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{entry['dtype']} is no type of numbers")
    return dtype


def _parts_of(name: str, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = ("values", "present", "scale", "zero_point", "mask")
    return {part: stored[f"{name}{PART}{part}"] for part in parts if f"{name}{PART}{part}" in stored}


def _scaled_by(name: str, tensors: Mapping[str, Any]) -> str | None:
    return f"{name}_scale" if f"{name}_scale" in tensors else None


def _own_grid(name: str, state: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Scale and zero point of a tensor where the network keeps them as tensors of their own."""
    return state.get(f"{name}_scale"), state.get(f"{name}_zero_point")


@contextmanager
def _refuse_damage(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file's contents are put together is the file's fault, said in one line."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        shown = said if len(said) <= 200 else f"{said[:200]}..."
        raise Failure(f"{path}: this network file is damaged or of another version ({shown})") from error


def _check_shapes(module: nn.Module, entries: dict[str, dict[str, Any]]) -> None:
    built = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    for name in sorted(built.keys() | found.keys()):
        if built.get(name) != found.get(name):
            raise ValueError(f"{name}: the file has {found.get(name)}, the architecture {built.get(name)}")
