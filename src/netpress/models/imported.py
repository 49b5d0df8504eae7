"""A network of a user's own: any `nn.Module` class, by its import path.

    [model]
    family = "import"
    target = "my_package.networks:TinyNet"
    arguments = {width = 16}

Only a class derived from `nn.Module` is ever called, with these arguments by keyword.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from netpress.errors import UserError
from netpress.models.registry import ModelSettings, register_family


class ImportedSettings(ModelSettings):
    """Your own nn.Module, by its import path."""

    target: str
    """`package.module:Class`, importable from here; the current directory is searched too."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What the class is called with, by keyword. It must itself fit `classes`, `channels` and `image_size`."""


def build(settings: ImportedSettings) -> nn.Module:
    """Import the class and call it. Raises UserError, naming the target, for whatever goes wrong on the way."""
    module_name, colon, class_name = settings.target.partition(":")
    where = f"model import, target {settings.target!r}"
    if not (module_name and colon and class_name):
        raise UserError(f"{where}: write package.module:Class")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # the command's own directory is not searched when it is an installed script
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
        return found(**settings.arguments)
    except Exception as error:  # the user's own code, at construction
        raise UserError(f"{where}: calling it raised {type(error).__name__}: {error}") from error


def initialize(module: nn.Module, settings: ImportedSettings, generator: torch.Generator) -> None:
    """Leave the weights as the class's own constructor made them."""


register_family("import", ImportedSettings, build, initialize)
