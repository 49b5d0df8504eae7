"""Reads recipes: a shipped one by its name, one's own by its path, and values from Python.

    read_recipe("digits", ["stages.0.epochs=2"], seed=1)

A recipe that begins with `extends = "kaist-v1"` takes from `kaist-v1` whatever it does not say itself.
"""

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.files import is_folder, is_there, parse_toml, read_file
from netpress.recipe.networks import join, state_networks
from netpress.recipe.overrides import apply_overrides, set_for_all, split_path
from netpress.recipe.scaling import has_epochs, scale_recipe
from netpress.recipe.schema import Recipe, check_recipe
from netpress.settings import DEEPEST

LARGEST_RECIPE = 1 << 20  # bytes
SEED_PATHS = (["seed"], ["**", "seed"])


def read_recipe(
    recipe: str | dict[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    epochs_scale: float = 1.0,
) -> Recipe:
    """A recipe with `key=value` overrides, a seed and a multiple of its epochs applied.

    `recipe` is the name of a shipped one, the path of a file, plain values, or a Recipe, which is never changed itself.
    Raises SettingsError with every problem at once, each with its path, or UserError if there is no such recipe, and
    where a seed or a scale would change nothing.
    """
    if overrides or seed is not None or not isinstance(recipe, Recipe):
        values, source = read_values(recipe, overrides, seed)
        recipe = check_recipe(values, source)
    if epochs_scale != 1 and recipe.sweep is None and not has_epochs(recipe):
        raise UserError(f"--epochs-scale {epochs_scale}: this recipe trains nothing, so it has no epochs")
    return scale_recipe(recipe, epochs_scale)


def read_values(
    recipe: str | dict[str, Any] | Recipe, overrides: Sequence[str] = (), seed: int | None = None
) -> tuple[dict[str, Any], str]:
    """The plain values of a recipe with overrides and seed applied, unchecked, and where they come from.

    Raises UserError as `read_recipe` does.
    """
    if isinstance(recipe, Recipe):
        recipe = recipe.values
    values, source = load_values(recipe) if isinstance(recipe, str) else (_own_values(recipe), "")
    if overrides or seed is not None:
        state_networks(values)
    apply_overrides(values, overrides)
    if seed is not None:
        if any(split_path(override.partition("=")[0].strip()) in SEED_PATHS for override in overrides):
            raise UserError("--seed and --set seed say the same; give one of them")
        set_for_all(values, ["seed"], seed, f"--seed {seed}")
    return values, source


def _own_values(values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a recipe given as values, as if it had been read from a file: lists for tuples, `extends` followed."""
    return extend({key: _copy(value, 1) for key, value in values.items()}, "recipe")


def _copy(value: Any, depth: int) -> Any:
    """A copy with lists for tuples. What is too deep for settings stays as it is, and is refused as settings are."""
    if depth > DEEPEST:
        return value
    if isinstance(value, dict):
        return {key: _copy(entry, depth + 1) for key, entry in value.items()}
    return [_copy(entry, depth + 1) for entry in value] if isinstance(value, list | tuple) else value


def load_values(name: str, extended_by: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    """The plain values of a recipe, with those of the recipe that it extends, and where they come from.

    `extended_by` are the recipes on the way here, so that a circle is found. Raises UserError.
    """
    path = Path(name)
    if path.suffix == ".toml" or (is_there(path) and not is_folder(path)):
        if not is_there(path):
            raise UserError(f"{path}: no such recipe file")
        data, source, place = read_file(path, LARGEST_RECIPE), str(path), str(path.resolve())
    elif name in shipped():
        data, source = (resources.files("netpress.recipes") / f"{name}.toml").read_bytes(), f"recipe {name}"
        place = source
    else:
        none = f"{name}: no recipe of this name and no such file"
        if is_folder(name):
            inside = path / "recipe.toml"
            own = f"{inside} is the recipe of the run in it" if is_there(inside) else "--data takes folders of images"
            none = f"{name}: is a folder, not a recipe; {own}"
        raise UserError(f"{none}; shipped are {', '.join(shipped())}")
    if place in extended_by:
        raise UserError(f"{source}: extends itself")
    return extend(parse_toml(data, source), source, path.parent, (*extended_by, place)), source


def extend(
    values: dict[str, Any], source: str, folder: Path = Path(), extended_by: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`values` on top of those of the recipe that they name in `extends`, a shipped one or a file seen from `folder`.

    Tables are joined as `netpress.recipe.networks.join` says: a list, such as the stages, replaces the other.
    The other's name, description and [sweep] are its own. Raises UserError where there is no such recipe.
    """
    if "extends" not in values:
        return values
    name = values["extends"]
    if not isinstance(name, str):
        raise UserError(f"{source}: extends: {name!r} is not the name of a recipe")
    try:
        other, _ = load_values(str(folder / name) if name.endswith(".toml") else name, extended_by)
    except UserError as error:
        raise UserError(f"{source}: extends: {error}") from None
    inherited = {key: value for key, value in other.items() if key not in ("name", "description", "sweep")}
    return join(inherited, {key: value for key, value in values.items() if key != "extends"})


def shipped() -> dict[str, str]:
    """The recipes that come with netpress: name -> description."""
    files = sorted(resources.files("netpress.recipes").iterdir(), key=lambda entry: entry.name)
    texts = {file.name: file.read_text(encoding="utf-8") for file in files if file.name.endswith(".toml")}
    return {name.removesuffix(".toml"): tomllib.loads(text).get("description", "") for name, text in texts.items()}
