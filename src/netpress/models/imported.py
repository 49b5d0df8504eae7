"""A network of a user's own: any `nn.Module` class, by its import path.

    [model]
    family = "import"
    target = "my_package.networks:TinyNet"
    arguments = {width = 16}

Importing a module runs all the code in it, whatever the class is, and that of the packages it lies in. What can be told
before is: whether there is such a module, and whether its text defines such a class. Only a class derived
from `nn.Module` is ever called, with these arguments by keyword.
"""

import ast
import importlib
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, StringConstraints
from torch import nn

from netpress.errors import UserError, quote
from netpress.models.lazy import check_initialized
from netpress.models.registry import IMPORTED, ModelSettings, register_family


class ImportedSettings(ModelSettings):
    """Your own nn.Module, by its import path."""

    target: Annotated[str, StringConstraints(max_length=1000)]
    """`package.module:Class`, importable from here; the current directory is searched too."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What the class is called with, by keyword. It must itself fit `classes`, `channels` and `image_size`."""


def build(settings: ImportedSettings) -> nn.Module:
    """Import the class and call it. Raises UserError, naming the target, for whatever goes wrong on the way."""
    module_name, colon, class_name = settings.target.partition(":")
    where = f"model import, target {quote(settings.target)}"
    names = [*module_name.split("."), *class_name.split(".")]
    if not colon or not all(name.isidentifier() for name in names):
        raise UserError(f"{where}: write package.module:Class")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # the command's own directory is not searched when it is an installed script
    if module_name not in sys.modules:
        _look_before(module_name, class_name.split(".")[0], where)
    try:
        found: Any = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise UserError(f"{where}: cannot be imported: {error}") from error
    except AttributeError as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:  # the user's own code, at import
        raise UserError(f"{where}: importing it raised {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"{where}: it is not a class derived from torch.nn.Module")
    try:
        module: nn.Module = found(**settings.arguments)
    except UserError:
        raise
    except Exception as error:  # the user's own code, at construction
        raise UserError(f"{where}: calling it raised {type(error).__name__}: {error}") from error
    check_initialized(module, where)
    return module


def _look_before(module_name: str, name: str, where: str) -> None:
    """Raise UserError, before any of the module's code runs, where nothing in its text could make such a class."""
    spec = _find(module_name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        if _find(module_name.split(".")[0]) is None:
            raise UserError(
                f"{where}: cannot be imported: there is no module {module_name}, neither here nor where Python looks"
            )
        return  # compiled, or made by the package around it: nothing to read
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        raise UserError(f"{where}: {spec.origin} cannot be read as Python: {error}") from None
    bindings = [node for node in ast.walk(tree) if name in _names_of(node)]
    if bindings and all(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in bindings):
        raise UserError(f"{where}: {name} is a function, not a class derived from torch.nn.Module")
    unreadable = any(_UNREADABLE & _names_of(node) for node in ast.walk(tree))
    if not bindings and not unreadable and _find(f"{module_name}.{name}") is None:
        raise UserError(f"{where}: {spec.origin} defines no {name}")


_UNREADABLE = {"*", "__getattr__", "globals", "vars", "exec", "setattr"}
"""What can give a module a name that its text does not show."""


def _names_of(node: ast.AST) -> set[str]:
    """The names that a piece of code binds, or calls upon."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    return {node.id} if isinstance(node, ast.Name) else set()


def _find(module_name: str) -> ModuleSpec | None:
    """Where a module is, found as an import would, without importing the packages that it lies in."""
    spec: ModuleSpec | None = None
    path: list[str] | None = None
    name = ""
    for part in module_name.split("."):
        name = f"{name}.{part}" if name else part
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((one for one in found if one is not None), None)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec


def keep_weights(module: nn.Module, settings: ImportedSettings, generator: torch.Generator) -> None:
    """Leave the weights as the class's own constructor made them."""


register_family(IMPORTED, ImportedSettings, build, initialize=keep_weights)
