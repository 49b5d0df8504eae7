"""A new recipe to edit: what `netpress new` writes."""

import tomllib
from importlib import resources
from pathlib import Path

from netpress.errors import UserError
from netpress.files import atomic_write
from netpress.recipe.reading import extend, shipped
from netpress.recipe.schema import check_recipe


def draft_recipe(name: str, like: str = "digits") -> Path:
    """Write `name`.toml in the current folder: the shipped recipe `like`, comments and all, under a new name.

    Raises UserError if the file is there already, or the name is not one a recipe may have.
    """
    path = Path(name if name.endswith(".toml") else f"{name}.toml")
    if path.exists():
        raise UserError(f"{path}: is there already; choose another name")
    if like not in shipped():
        raise UserError(f"--like {like}: no such recipe; shipped are {', '.join(shipped())}")
    text = (resources.files("netpress.recipes") / f"{like}.toml").read_text(encoding="utf-8")
    lines = [f'name = "{path.stem}"' if line.startswith("name =") else line for line in text.splitlines()]
    text = "\n".join(lines) + "\n"
    check_recipe(extend(tomllib.loads(text), str(path)), str(path))
    atomic_write(path, text)
    return path
