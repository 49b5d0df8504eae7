"""Writing a network to its file, and reading it.

    save(network, "net.netpress")
    network = load("net.netpress")

The file is a safetensors file. Its metadata holds one JSON text under the key `netpress`:

    {"version": 1,
     "architecture": {"family": "c_efficientnet", "settings": {...}, "edits": [...]},
     "input": {...}, "classes": [...], "facts": {...},
     "formats": {tensor or activation name: number format},
     "tensors": {name: {"shape": [...], ...}},
     "data": {"settings": {...}, "seed": ..., "checksum": ...},   where it is known
     "checksum": sha256 of all of the above and of every tensor's bytes}

`netpress.network.tensors` says what the file stores of each tensor: packed values, the mask, scales.

Loading takes five steps. It validates the JSON (`netpress.network.description`), builds the family on the meta
device, replays the edits, compares every name, shape and type with the file, and only then decodes the tensors. So a
file that claims to be huge costs nothing.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from netpress.errors import Failure, UserError, quote, shorten
from netpress.files import atomic_write, is_there, refuse_other_tools
from netpress.folders.stage import NETWORK
from netpress.models.bounds import TooLarge, bounded_building
from netpress.models.registry import IMPORTED, parse_model
from netpress.network.description import KEY, VERSION, Description, check_description, checksum, read_file
from netpress.network.formats import other_formats
from netpress.network.network import Architecture, InputSpec, Network, build, check_finite, check_masks, create
from netpress.network.tensors import decode_state, encode_state, inspect_state, pattern_of
from netpress.numerics.layers import quantized_layers
from netpress.settings import SettingsError

SUFFIX = ".netpress"


def resolve(text: str, *, allow_import: bool | str = False) -> Network:
    """The network that a person means by `text`: a file, a run folder, or NAME[:SETTINGS] of a new model.

    `allow_import` as for `load`; it is not asked where `text` itself names the class to import.
    """
    path = Path(text)
    refuse_other_tools(path)
    if is_there(path):
        return load(find_file(path), allow_import=allow_import)
    if path.suffix == SUFFIX or "/" in text.partition(":")[0]:
        raise UserError(f"{text}: no such file")
    try:
        choice = parse_model(text)
    except UserError as error:
        if ":" in text:
            raise
        raise UserError(f"{error}; nor is there a file or a run folder of this name") from None
    return create(choice.family.name, choice.settings.model_dump(mode="json"))


def find_file(path: Path) -> Path:
    """The network file that `path` means: itself, or the one in a run's or a stage's folder. Raises UserError."""
    if not path.is_dir():
        return path
    file = path / NETWORK
    if not file.exists():
        raise UserError(f"{path}: no {NETWORK} in this folder; is the run finished?")
    return file


def save(network: Network, path: Path | str) -> None:
    """Write the network to `path`, all or nothing.

    Raises Failure if the disk is full, or for a network that could not be loaded again: values that are not finite or
    not of their format, tensors that its architecture does not have, masks that belong to no parameter, classes or
    facts that no file may hold.
    """
    check_finite(network)
    try:
        check_masks(network)
        tensors, description = _encode(network)
        check_description(description)
        other_formats(network.module, description["formats"])  # refuses those of tensors that are not there
        if network.architecture.family != IMPORTED:
            _check_tensors(build(network.architecture), description["tensors"])
    except (SettingsError, Failure, ValueError) as error:
        raise Failure(f"{path}: this network cannot be saved: {_in_one_line(error)}") from None
    # Shared parameters would make safetensors refuse; each name gets its own bytes.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    description["checksum"] = checksum(description, tensors)
    atomic_write(Path(path), safetensors.torch.save(tensors, {KEY: json.dumps(description, separators=(",", ":"))}))


def _encode(network: Network) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that the file stores, and the description beside them, without its checksum."""
    formats = network.formats
    state = {name: tensor.detach().cpu() for name, tensor in network.module.state_dict().items()}
    buffers = {name for name, _ in network.module.named_buffers(remove_duplicate=False)}
    tensors, entries = encode_state(state, buffers, network.masks, formats, network.whole_patterns())
    description: dict[str, Any] = {
        "version": VERSION,
        "architecture": asdict(network.architecture),
        "input": asdict(network.input),
        "classes": list(network.classes),
        "facts": network.facts,
        "formats": formats,
        "tensors": entries,
    }
    if network.data is not None:
        description["data"] = network.data.as_json()
    return tensors, description


def check_out(path: Path) -> None:
    """Raise UserError where writing a network to `path` would take the place of something that is no network file."""
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; name the file to write")
    if not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(8 + 64)  # the length of the description, and its beginning
    if f'"{KEY}"'.encode() not in head:
        raise UserError(f"--out {path}: is there and is no network file; move it away, or choose another name")


def load(path: Path | str, *, allow_import: bool | str = False) -> Network:
    """The network stored at `path`, rebuilt exactly as it was saved, in evaluation mode.

    A network of a user's own class (family `import`) is rebuilt by importing that class, which runs its module's
    code: that is refused unless `allow_import` is true, or names that very class (see `own_class`).
    Raises UserError for a file that is not a network, Failure for one that is damaged or forged.
    """
    path = Path(path)
    values, stored = read_file(path)
    with _refuse_damage(path):
        description = check_description(values)
    own = description.architecture.family == IMPORTED
    if own:
        _refuse_import(path, description, allow_import)
    with _refuse_damage(path):
        network = _rebuild(description, values, len(stored))
        _check_tensors(network.module, values["tensors"])
        state, network.masks = decode_state(values["tensors"], values["formats"], stored)
        patterns = {name: pattern_of(entry) for name, entry in values["tensors"].items()}
        network.patterns = {name: pattern for name, pattern in patterns.items() if pattern is not None}
        # In memory of their own: views of a file may lie unaligned, and Windows could not write that file anew.
        state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
        network.module.load_state_dict(state, assign=True)
        check_masks(network)
        _check_numbers(network)
        network.other_formats = other_formats(network.module, values["formats"])
    return network


def own_class(network: Network) -> str | bool:
    """What `allow_import` is for files that are made of this network: the user's own class that it is built by."""
    architecture = network.architecture
    return str(architecture.settings.get("target")) if architecture.family == IMPORTED else False


def describe(path: Path | str) -> dict[str, Any]:
    """The JSON that a network file carries, validated, without building anything. Raises as `load`."""
    path = Path(path)
    values, _ = read_file(path)
    with _refuse_damage(path):
        check_description(values)
    return values


def inspect_file(path: Path | str) -> dict[str, Any]:
    """What a network file holds, as plain values: its description, and for each tensor the bits it takes.

    `tensor_bits` counts whole bytes of every stored part, masks included. `alignment_bits` of them only fill up
    last bytes; all others are values, scales, zero points and masks, as a score counts them.
    `file_bytes` adds names, JSON and the checksum. Every part's size is checked. Raises as `load`.
    """
    path = Path(path)
    description, stored = read_file(path)
    with _refuse_damage(path):
        check_description(description)
        layers = inspect_state(description["tensors"], description["formats"], stored)
        totals = {key: sum(row[key] for row in layers) for key in ("tensor_bits", "mask_bits", "alignment_bits")}
        rest = {key: description.get(key) for key in ("architecture", "input", "classes", "facts", "data")}
    return {"file_bytes": path.stat().st_size, **totals, **rest, "layers": layers}


def _refuse_import(path: Path, description: Description, allow_import: bool | str) -> None:
    target = description.architecture.settings.get("target")
    if allow_import is not True and allow_import != target:
        raise UserError(
            f"{path}: this network is built by code of its author's own ({quote(target)}); "
            "if you trust it, say so with --allow-import (allow_import=True)"
        )


def _rebuild(description: Description, values: dict[str, Any], stored: int) -> Network:
    architecture = Architecture(**values["architecture"])
    with bounded_building(8 * stored + 1000, 2**62, "far beyond its tensors"):
        module = build(architecture)
    fields = description.input
    spec = InputSpec(fields.channels, fields.height, fields.width, fields.mean, fields.std)
    module.eval()
    classes, facts = description.classes, values["facts"]
    return Network(module, architecture, spec, classes, facts=facts, data=description.data)


_BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


@contextmanager
def _refuse_damage(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file's contents are put together is the file's fault, said in one line."""
    try:
        yield
    except (*_BUGS, SettingsError, TooLarge, Failure) as error:
        reason = shorten(_in_one_line(error), 300)
        raise Failure(f"{path}: this network file is damaged or of another version ({reason})") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_tensors(module: nn.Module, entries: dict[str, dict[str, Any]]) -> None:
    """Raise ValueError unless the file has the tensors that the module has, of their shapes and types."""
    in_module = {name: _kind_of(tensor) for name, tensor in module.state_dict().items()}
    in_file = {name: (tuple(entry["shape"]), entry.get("dtype", "float32")) for name, entry in entries.items()}
    for name in sorted(in_module.keys() | in_file.keys()):
        if in_module.get(name) != in_file.get(name):
            raise ValueError(f"{name}: the file has {in_file.get(name)}, the architecture {in_module.get(name)}")


def _kind_of(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    return tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")


def _check_numbers(network: Network) -> None:
    """Raise ValueError for tensors whose values nothing can be calculated with."""
    check_finite(network)
    for name, part in network.module.named_modules():
        variance = part._buffers.get("running_var")
        if variance is not None and bool((variance < 0).any()):
            raise ValueError(f"{name}.running_var: a variance below zero")
    for name, layer in quantized_layers(network.module).items():
        for scale in ("weight_scale", "input_scale"):
            steps = getattr(layer, scale)
            if steps is not None and not bool((steps > 0).all()):
                raise ValueError(f"{name}.{scale}: a scale that is not above zero")
