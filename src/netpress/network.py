"""A network is data: an architecture, tensors and number formats, in one `.netpress` file.

The file is a safetensors file. Its metadata holds one JSON text under the key `netpress`:

    {"version": 1,
     "architecture": {"family": "c_efficientnet", "settings": {...}, "edits": [...]},
     "input": {...}, "classes": [...], "facts": {...},
     "formats": {tensor or activation name: number format},
     "tensors": {name: {"shape": [...], ...}},
     "checksum": sha256 of all of the above and of every tensor's bytes}

What lies in the file of each tensor is `netpress.numerics.archive`'s business: packed values, masks, scales.

Loading builds the family on the meta device, replays the edits, compares every name and
shape with the file, and only then reads tensors: a file that claims to be huge costs nothing.
"""

import copy as copying
import hashlib
import json
from collections.abc import Iterator
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
from netpress.numerics.archive import decode_state, encode_state, inspect_state
from netpress.settings import SettingsError, parse

SUFFIX = ".netpress"
VERSION = 1
KEY = "netpress"


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
    state = {name: tensor.detach().cpu() for name, tensor in network.module.state_dict().items()}
    buffers = {name for name, _ in network.module.named_buffers(remove_duplicate=False)}
    tensors, described = encode_state(state, buffers, network.masks, network.formats)
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
        state, network.masks = decode_state(description["tensors"], description["formats"], stored)
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
        layers = inspect_state(description["tensors"], description["formats"], stored)
        totals = {key: sum(row[key] for row in layers) for key in ("tensor_bits", "mask_bits", "alignment_bits")}
        rest = {key: description[key] for key in ("architecture", "input", "classes", "facts")}
    return {"file_bytes": path.stat().st_size, **totals, **rest, "layers": layers}


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


_DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, SettingsError)


@contextmanager
def _refuse_damage(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file's contents are put together is the file's fault, said in one line."""
    try:
        yield
    except _DAMAGE as error:
        said = " ".join(str(error).split())
        shown = said if len(said) <= 200 else f"{said[:200]}..."
        raise Failure(f"{path}: this network file is damaged or of another version ({shown})") from error


def _check_shapes(module: nn.Module, entries: dict[str, dict[str, Any]]) -> None:
    built = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    for name in sorted(built.keys() | found.keys()):
        if built.get(name) != found.get(name):
            raise ValueError(f"{name}: the file has {found.get(name)}, the architecture {built.get(name)}")
