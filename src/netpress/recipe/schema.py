"""A recipe: what data, what model, which stages in which order, and how to score.

The settings of each part live beside its code; they meet here. A recipe is TOML:

    name = "first"
    [data]
    dataset = "digits"
    [model]
    family = "c_efficientnet"
    preset = "tiny"
    [[stages]]
    kind = "train"
    epochs = 10

`extends = "kaist-v1"` at the top takes all that is not said here from another recipe.
"""

import functools
import operator
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, create_model, model_validator

from netpress.data import DataSettings
from netpress.errors import UserError
from netpress.files import atomic_write, is_folder, is_there, parse_toml, read_file
from netpress.models.registry import choose_model, families, family_named
from netpress.recipe.overrides import apply_override
from netpress.scoring import ScoreSettings
from netpress.settings import Natural, Positive, Settings, SettingsError, find_unreadable, parse
from netpress.stage import STAGES

LARGEST_RECIPE = 1 << 20  # bytes
MOST_STAGES = 32
LONGEST_NAME = 200  # letters: names become folders, which no system lets be longer than 255
LARGEST_SCALE = 1e6  # of --epochs-scale


VariantName = Annotated[str, StringConstraints(max_length=LONGEST_NAME, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Sweep(Settings):
    """Several runs from one recipe: every variant at every point of the grid with every seed."""

    variants: dict[VariantName, dict[str, Any]] = Field(default_factory=dict)
    """Name -> changes: setting paths in quotes, each with the value that replaces what the recipe has there."""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Setting path in quotes -> the values that it takes, all combinations of them."""
    seeds: tuple[Natural, ...] = ()
    """Seeds that everything is run with, for a mean and its spread; without them, the recipe's own."""
    every_stage: bool = False
    """Rows in the table also for what each stage before the last, and each round of a pruning, leaves."""
    epochs_scale: Positive = 1.0
    """Multiplies every number of epochs of every member, as --epochs-scale does."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not (self.variants or self.grid or self.seeds):
            raise ValueError("needs variants, a grid or seeds")
        for path, entries in self.grid.items():
            if not entries:
                raise ValueError(f'grid."{path}": needs at least one value')
        changed = [*self.grid, *(path for changes in self.variants.values() for path in changes)]
        for path in changed:
            if path == "name" or path == "sweep" or path.startswith("sweep."):
                raise ValueError(f"{path} cannot be swept")
            if path == "seed" and self.seeds:
                raise ValueError("seed is swept twice: by seeds and by its path")
        for path in self.grid:
            for name, changes in self.variants.items():
                twice = next((other for other in changes if overlap(other, path)), None)
                if twice is not None:
                    raise ValueError(f'variants.{name}."{twice}" and grid."{path}" set the same')
        return self


def find_unquoted_paths(sweep: Any) -> list[str]:
    """Problems of a [sweep] table as written: TOML takes an unquoted model.expansion for a table of tables."""
    grid, variants = (sweep.get(key) if isinstance(sweep, dict) else None for key in ("grid", "variants"))
    places = [("sweep.grid", grid)]
    if isinstance(variants, dict):
        places += [(f"sweep.variants.{name}", changes) for name, changes in variants.items()]
    return [
        f'{place}.{path}: write paths in quotes, such as "model.expansion" = ...'
        for place, changes in places
        if isinstance(changes, dict)
        for path, value in changes.items()
        if "." not in path and isinstance(value, dict)
    ]


def overlap(first: str, second: str) -> bool:
    """Whether one of two setting paths lies within the other."""
    return f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}.")


class Recipe(Settings):
    """A whole recipe, resolved: every setting stated. `stages` holds each stage's own settings."""

    name: str = Field(min_length=1, max_length=LONGEST_NAME, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run's folder."""
    description: str = ""
    seed: Natural = 0
    """Decides every random choice of the run on a CPU."""
    data: DataSettings = DataSettings()
    model: dict[str, Any]
    """`family` with its settings (a `preset` first, then single settings), or `network`: a file to start from."""
    stages: tuple[Settings, ...]
    score: ScoreSettings = ScoreSettings()
    sweep: Sweep | None = None
    """Where there is one, this is not one run but what several have in common: see `netpress.runs.sweep`."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.stages:
            raise ValueError("a recipe needs at least one [[stages]] table")
        if len(self.stages) > MOST_STAGES:
            raise ValueError(f"{len(self.stages)} stages are more than the {MOST_STAGES} that a recipe may have")
        return self


@functools.cache
def recipe_schema() -> type[Recipe]:
    """`Recipe` with `stages` typed as the union of all registered stages, told apart by `kind`."""
    union: Any = functools.reduce(operator.or_, (stage.settings for stage in STAGES.all().values()))
    one: Any = Annotated[union, Field(discriminator="kind")]
    return create_model("Recipe", __base__=Recipe, stages=(tuple[one, ...], ...))


@dataclass(frozen=True)
class ModelTable:
    """The [model] table understood: a family and the settings that the user fixed, or a network file."""

    family: str | None
    settings: dict[str, Any]
    network: str | None = None

    @property
    def own_class(self) -> str | bool:
        """What `allow_import` is for what a run of it made: the class that the recipe itself names, where it does."""
        return str(self.settings.get("target")) if self.family == "import" else False


def understand_model(table: dict[str, Any]) -> ModelTable:
    """Check the [model] table against the family that it names. Raises SettingsError."""
    table = dict(table)
    if "network" in table:
        network = table.pop("network")
        if table or not isinstance(network, str):
            raise SettingsError(["model.network: must be the path of a network, and stands alone in [model]"])
        return ModelTable(None, {}, network)
    name = table.pop("family", None)
    if not isinstance(name, str):
        raise SettingsError(["model.family: is missing; `netpress list models` shows the families"])
    presets = table.pop("preset", [])
    presets = [presets] if isinstance(presets, str) else presets
    if not isinstance(presets, list | tuple) or not all(isinstance(preset, str) for preset in presets):
        raise SettingsError(["model.preset: must be the name of a preset, or a list of names"])
    try:
        choose_model(name, presets, table, "model")
    except UserError as error:
        problems = error.problems if isinstance(error, SettingsError) else [f"model: {error}"]
        problems[0] += _explain_family(name, presets, table)
        raise SettingsError(problems) from None
    known = family_named(name).presets
    settings: dict[str, Any] = {}
    for preset in presets:
        settings |= known[preset]
    settings |= table
    return ModelTable(name, settings)


def _explain_family(name: str, presets: Sequence[str], settings: dict[str, Any]) -> str:
    """What to do where a model's presets and settings are those of another family; nothing where they are not."""
    known = families()
    if name not in known:
        return ""
    strange = [preset for preset in presets if preset not in known[name].presets]
    strange += [key for key in settings if key not in known[name].settings.model_fields]

    def has(other: str, word: str) -> bool:
        return word in known[other].presets or word in known[other].settings.model_fields

    meant = [other for other in known if strange and all(has(other, word) for word in strange)]
    if not meant:
        return ""
    return (
        f" ({', '.join(strange)}: of {' or '.join(meant)}; a table for another family is replaced as a whole: "
        f"--set 'model={{family = \"{name}\"}}')"
    )


def read_recipe(name: str, overrides: Sequence[str] = (), seed: int | None = None, epochs_scale: float = 1.0) -> Recipe:
    """The recipe called `name` (shipped) or stored in the file `name`, with `key=value` overrides applied.

    Raises SettingsError with every problem at once, each with its path, or UserError if there is no such recipe.
    """
    values, source = read_values(name, overrides, seed)
    return scale_recipe(check_recipe(values, source), epochs_scale)


def read_values(name: str, overrides: Sequence[str] = (), seed: int | None = None) -> tuple[dict[str, Any], str]:
    """The plain values of a recipe with overrides applied, unchecked, and where they come from."""
    values, source = load_values(name)
    for override in overrides:
        apply_override(values, override)
    if seed is not None:
        values["seed"] = seed
    return values, source


def check_recipe(values: dict[str, Any], source: str = "") -> Recipe:
    """Validate a recipe given as plain values. Raises SettingsError with all problems."""
    problems = find_unquoted_paths(values.get("sweep"))
    model = values.get("model")
    if isinstance(model, dict):
        try:
            understand_model(model)
        except SettingsError as error:
            problems += error.problems
    try:
        recipe = parse(recipe_schema(), values)
    except SettingsError as error:
        raise SettingsError(list(dict.fromkeys(error.problems + problems)), source) from None
    if problems:
        raise SettingsError(problems, source)
    return recipe


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
        raise UserError(f"{name}: no recipe of this name and no such file; shipped are {', '.join(shipped())}")
    if place in extended_by:
        raise UserError(f"{source}: extends itself")
    values = parse_toml(data, source)
    if problem := find_unreadable(values):
        raise SettingsError([problem], source)
    return extend(values, source, path.parent, (*extended_by, place)), source


def extend(
    values: dict[str, Any], source: str, folder: Path = Path(), extended_by: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`values` on top of those of the recipe that they name in `extends`, a shipped one or a file seen from `folder`.

    Tables are joined key by key; a list, such as the stages, replaces the other. The other's name, description and
    [sweep] are its own. Raises UserError where there is no such recipe.
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
    return _join(inherited, {key: value for key, value in values.items() if key != "extends"})


def _join(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    joined = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        joined[key] = _join(below[key], value) if both else value
    return joined


def shipped() -> dict[str, str]:
    """The recipes that come with netpress: name -> description."""
    found = {}
    for file in sorted(resources.files("netpress.recipes").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".toml"):
            found[file.name.removesuffix(".toml")] = tomllib.loads(file.read_text(encoding="utf-8")).get(
                "description", ""
            )
    return found


def scale_recipe(recipe: Recipe, factor: float) -> Recipe:
    """`recipe` with every number of epochs times `factor`, those left to their defaults too, and each round at least 1.

    Schedules follow, since they are told by shares of a round; a warm-up, told in epochs, is multiplied too. Shortened,
    a rate that changed once an epoch changes at every step: a round of one epoch would have but the lowest.
    Raises UserError unless `factor` is above 0.
    """
    if not 0 < factor <= LARGEST_SCALE:
        raise UserError(f"--epochs-scale {factor}: must be above 0 and at most {LARGEST_SCALE:,.0f}")
    if factor == 1:
        return recipe
    return check_recipe(_scale_epochs(recipe.model_dump(mode="json", exclude_none=True), factor))


def _scale_epochs(values: Any, factor: float) -> Any:
    if isinstance(values, list):
        return [_scale_epochs(entry, factor) for entry in values]
    if not isinstance(values, dict):
        return values
    scaled = {key: _scale_epochs(entry, factor) for key, entry in values.items()}
    if isinstance(scaled.get("epochs"), int):
        scaled["epochs"] = max(scaled.get("rounds", 1), round(scaled["epochs"] * factor))
        if "schedule" in scaled:  # epochs are rounded: a warm-up keeps at most its share of a round
            before, after = (table["epochs"] // table["rounds"] for table in (values, scaled))
            longest = values["schedule"]["warmup"] * after / before
            scaled["schedule"]["warmup"] = min(scaled["schedule"]["warmup"], longest)
    if isinstance(scaled.get("warmup"), float):
        scaled["warmup"] *= factor
    if factor < 1 and scaled.get("per") == "epoch":
        scaled["per"] = "step"
    return scaled


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
