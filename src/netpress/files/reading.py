"""Files are looked at before they are read: what is no regular file, or is too large, is refused with a sentence.

`read_text` and `read_object` are for files that netpress wrote itself; `read_file` and `require_file` for paths that a
person wrote, which may be anything: a pipe, a device, a name that no system could have.
"""

import json
import stat
from pathlib import Path
from typing import Any

from netpress.errors import Failure, UserError

BEGIN_ANEW = "restore it from a copy, or give --fresh to begin the run anew"


def read_text(path: Path | str) -> str:
    """The whole text of a UTF-8 file. Raises UserError where there is none, Failure where it cannot be read."""
    try:
        return Path(path).read_bytes().decode().replace("\r\n", "\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise Failure(f"{path}: no text in UTF-8 (byte {error.start}); restore it from a copy") from None
    except OSError as error:
        raise Failure(f"{path}: cannot be read ({error.strerror or error})") from None


def read_object(path: Path | str, **fields: type) -> dict[str, Any]:
    """The JSON object that netpress wrote to a file, with at least these fields, each of its type.

    Raises Failure, which says what to do, where the file is damaged.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path}: damaged ({error}); {BEGIN_ANEW}") from None
    if not isinstance(value, dict):
        raise Failure(f"{path}: damaged: it holds no JSON object; {BEGIN_ANEW}")
    for name, kind in fields.items():
        if not isinstance(value.get(name), (int, float) if kind is float else kind):
            raise Failure(f"{path}: damaged: it does not say {name}; {BEGIN_ANEW}")
    return value


def require_file(path: Path | str, what: str = "", limit: int | None = None) -> int:
    """The size in bytes of the regular file at `path`: to be asked before anything opens a path that somebody wrote.

    A device or a pipe would never end, or never begin. `what` stands before the path in messages. Raises UserError
    for what is not there, cannot be looked at, is no regular file, or is larger than `limit` bytes.
    """
    named = f"{what} {path}" if what else str(path)
    try:
        facts = Path(path).stat()
    except FileNotFoundError:
        raise UserError(f"{named}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"{named}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(facts.st_mode):
        raise UserError(f"{named}: is a folder, not a file")
    if not stat.S_ISREG(facts.st_mode):
        raise UserError(f"{named}: is no regular file (a device, a pipe or a socket), so it is not read")
    if limit is not None and facts.st_size > limit:
        raise UserError(f"{named}: has {facts.st_size:,} bytes, more than the {limit:,} that such a file may have")
    return facts.st_size


def is_folder(path: Path | str) -> bool:
    """Whether `path`, any text that somebody wrote, is that of a folder; False for what no system could have."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # a name that is too long, a zero byte
        return False


def is_there(path: Path | str) -> bool:
    """Whether there is anything at `path`, any text that somebody wrote."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def read_file(path: Path | str, limit: int, what: str = "") -> bytes:
    """The bytes of the regular file at `path`, at most `limit`, and never more than its size. Raises UserError."""
    size = require_file(path, what, limit)
    try:
        with Path(path).open("rb") as file:
            return file.read(size)
    except OSError as error:
        named = f"{what} {path}" if what else str(path)
        raise UserError(f"{named}: cannot be read ({error.strerror or error})") from None


def parse_json(data: bytes | str, source: str) -> Any:
    """The value of a JSON text in UTF-8. Raises UserError as `parse_toml` does."""
    try:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
    except RecursionError:
        raise UserError(f"{source}: not a JSON file (its lists or tables lie too deep within each other)") from None
    except ValueError as error:
        raise UserError(f"{source}: not a JSON file ({error})") from None


OTHER_TOOLS = {
    ".onnx": "an ONNX file: `netpress score` counts it, other commands take networks of netpress",
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt"),
        "a file of torch.save, which may run code when it is read; load it in Python into its module and give that to "
        "netpress.score, or write it as ONNX with torch.onnx.export",
    ),
    ".pt2": "a program of torch.export; load it in Python with torch.export.load and give that to netpress.score",
    ".t7": "a file of Lua Torch, which nothing of today reads safely; write the network as ONNX",
    ".tflite": "a TensorFlow Lite file; write the network as ONNX, with tf2onnx --tflite",
    **dict.fromkeys((".h5", ".hdf5", ".keras"), "a Keras file; write the network as ONNX, with tf2onnx --keras"),
    ".pb": "a TensorFlow graph; write the network as ONNX, with tf2onnx --graphdef",
}
"""What files of other tools are, by their suffix, and what to do with them."""


def refuse_other_tools(path: Path) -> None:
    """Raise UserError if `path`, by its name, is a file of another tool, or is not there."""
    advice = OTHER_TOOLS.get(path.suffix.lower())
    if advice is not None:
        raise UserError(f"{path}: {advice}" if is_there(path) else f"{path}: no such file")
