"""Reads the pickled arrays of old data sets, and runs nothing that they name.

A pickle is a small program. It may name any function of any installed package and have it called. This reader knows
only the names by which numpy pickles arrays, and puts recorders in their place, so that not even numpy's code runs on
the file's data. The arrays are made afterwards, from the recorded bytes, once these are checked. `pickle_programs`
refuses beforehand what would take too much memory or time.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from netpress.data.pickle_programs import read_program
from netpress.errors import Failure
from netpress.files import read_file

LARGEST_FILE = 1 << 30  # bytes; CIFAR's largest has 155 million
_READ_ERRORS = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    ImportError,
    MemoryError,
    OverflowError,
    RecursionError,
    AssertionError,
    NotImplementedError,
)


class _Dtype:
    """What a pickle says of a dtype: its code, then in its state the byte order."""

    def __init__(self, code: Any, *flags: Any) -> None:
        if not isinstance(code, str | bytes) or not all(isinstance(flag, int) for flag in flags):
            raise ValueError("a type of numbers that is none")
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.order = order.decode("ascii") if isinstance(order, bytes) else order

    def resolve(self) -> np.dtype:
        if not isinstance(self.code, str) or self.code[:1] not in "uifb" or not self.code[1:].isdigit():
            raise ValueError(f"arrays of {self.code!r} have no place here")
        return np.dtype((self.order if self.order in ("<", ">") else "=") + self.code)


class _Array:
    """What a pickle says of an array: (version, shape, dtype, column by column?, bytes)."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_column, content = state
        if isinstance(content, str):  # Python 2 wrote bytes as text
            content = content.encode("latin1")
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise ValueError("an array of something else than numbers")
        self.array = np.frombuffer(content, dtype.resolve()).reshape(shape, order="F" if by_column else "C")


class _Call:
    """A function that a pickle may call; unlike Python's own, nothing can be attached to it."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a state for a function")

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("an attribute for a function")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Array or shape != (0,):
        raise ValueError("an array that is none")
    return _Array()


class _Reader(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._left = 2 * len(content)  # a text may be encoded once, not again and again
        self._allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): _Call(_reconstruct),
            ("numpy._core.multiarray", "_reconstruct"): _Call(_reconstruct),
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): _Call(self._encode),  # how Python 3 writes bytes in protocol 2
        }

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError("text in another encoding than latin1")
        self._left -= len(text)
        if self._left < 0:
            raise ValueError("more bytes than the file could hold")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array") from None

    def persistent_load(self, key: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def read_arrays(path: Path) -> dict[str, Any]:
    """The dictionary pickled in `path`, its keys as text, its arrays as numpy arrays.

    Raises Failure when the file cannot be read, is damaged, or holds anything else than
    plain containers, texts, numbers and arrays of numbers.
    """
    data = read_file(path, LARGEST_FILE)
    try:
        read_program(data)
        content = _Reader(data).load()
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return {_text(key): value.array if isinstance(value, _Array) else value for key, value in content.items()}
    except _READ_ERRORS as error:
        raise Failure(f"{path}: damaged, or not a data file ({error})") from error


def _text(key: Any) -> str:
    if not isinstance(key, bytes | str):
        raise ValueError(f"a key that is no text but a {type(key).__name__}")
    return key.decode("latin1") if isinstance(key, bytes) else key
