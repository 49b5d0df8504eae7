"""What a recipe may say: data, a model, stages in order, and how to score.

    name = "first"
    [data]
    dataset = "digits"
    [model]
    family = "c_efficientnet"
    preset = "tiny"
    [[stages]]
    kind = "train"
    epochs = 10

The settings of each part stand beside its code; `Recipe` joins them. `check_recipe` makes a Recipe of plain values,
`netpress.recipe.reading` of a file.
"""

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, SerializeAsAny, StringConstraints, create_model, field_validator, model_validator

from netpress.data import DataSettings
from netpress.errors import UserError
from netpress.files import dump_toml, parse_toml
from netpress.models.registry import FAMILIES, choose_model
from netpress.recipe.fitting import check_table, find_wrong_candidates
from netpress.recipe.networks import expand, find_lost_places, find_needs, find_table_problems, put_in_order
from netpress.recipe.policy_schema import PolicySearch
from netpress.recipe.search_schema import Search
from netpress.recipe.sweep_schema import LONGEST_NAME, Sweep, find_unquoted_paths, overlap
from netpress.scoring import Limits, ScoreSettings, choose_settings
from netpress.settings import Natural, Settings, SettingsError, find_unreadable, parse
from netpress.stage import STAGES

MOST_STAGES = 32
MOST_CARDS = 32
MOST_NETWORKS = 64

CardName = Annotated[str, StringConstraints(max_length=LONGEST_NAME, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
NetworkName = Annotated[str, StringConstraints(max_length=LONGEST_NAME, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


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
    score: SerializeAsAny[ScoreSettings] = choose_settings()
    """How the result is counted, and what stages that trade with the score go by."""
    beside: dict[CardName, SerializeAsAny[ScoreSettings]] = Field(default_factory=dict)
    """Name -> further counts of the result. Each is called as its convention, or names one: [beside.wave]."""
    limits: Limits = Limits()
    """What the result may take: a run that would need more is refused before it begins, or fitted."""
    fit: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Setting path in quotes -> values, the preferred first, of which a run with limits takes what keeps them."""
    networks: dict[NetworkName, Any] = Field(default_factory=dict)
    """Name -> recipe of one network: where there are some, this is a chain of networks that can teach each other, and
    `model` and `stages` are what they have in common. See `netpress.recipe.networks`."""
    result: str | None = None
    """Which of several networks the recipe is for; without it, the last one."""
    sweep: Sweep | None = None
    """Where there is one, this is not one run but what several have in common: see `netpress.runs.sweep`."""
    search: Search | None = None
    """Where there is one, this is what the recipes of a search have in common: see `netpress.runs.search`."""
    policy_search: PolicySearch | None = None
    """How `netpress search policy` looks for augmentations of this recipe; a run does not depend on it."""

    @property
    def model_table(self) -> "ModelTable":
        """What the run begins with."""
        return understand_model(self.model)

    @property
    def result_name(self) -> str:
        """Which of several networks is the result."""
        return self.result or list(self.networks)[-1]

    @property
    def needs(self) -> dict[str, dict[str, str]]:
        """Of each of several networks, in an order in which they can be run: which others it needs, and for what."""
        members = {name: member.model_dump(mode="json") for name, member in self.networks.items()}
        needs = {name: find_needs(values, self.networks) for name, values in members.items()}
        return {name: needs[name] for name in put_in_order(needs)}

    @property
    def values(self) -> dict[str, Any]:
        """The recipe as one may write it, as plain values, every setting stated."""
        values = self.model_dump(mode="json", exclude_none=True, exclude={"networks"})
        if self.networks:
            values["networks"] = {name: member.values for name, member in self.networks.items()}
            for member in values["networks"].values():
                del member["name"]  # it follows from that of the whole
        unsaid = ("beside", "fit", "limits", "model", "stages")
        return {key: value for key, value in values.items() if value or key not in unsaid}

    @property
    def text(self) -> str:
        """The recipe as TOML, every setting stated, as a run's folder keeps it. Equal texts are the same recipe."""
        return dump_toml(self.values)

    @field_validator("beside", mode="before")
    @classmethod
    def _called_as_its_convention(cls, tables: Any) -> Any:
        if not isinstance(tables, Mapping):
            raise ValueError("write a table for each count, such as [beside.wave]")
        if len(tables) > MOST_CARDS:
            raise ValueError(f"{len(tables)} counts are more than the {MOST_CARDS} that a recipe may have")
        return {
            name: {"convention": name, **table} if isinstance(table, Mapping) else table
            for name, table in tables.items()
        }

    @field_validator("fit")
    @classmethod
    def _can_be_fitted(cls, table: dict[str, tuple[Any, ...]]) -> Any:
        return check_table(table)

    @model_validator(mode="after")
    def _sets_nothing_twice(self) -> Self:
        swept = [] if self.sweep is None else self.sweep.paths
        for path in self.fit:
            twice = next((other for other in swept if overlap(path, other)), None)
            if twice is not None:
                raise ValueError(f'fit."{path}" and the sweep\'s "{twice}" set the same')
        return self

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.search is not None and (self.sweep is not None or self.fit):
            raise ValueError(f"search: stands in one recipe with {'sweep' if self.sweep else 'fit'}; leave one out")
        return self

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.stages and not self.networks:
            raise ValueError("a recipe needs at least one [[stages]] table")
        if len(self.stages) > MOST_STAGES:
            raise ValueError(f"{len(self.stages)} stages are more than the {MOST_STAGES} that a recipe may have")
        if len(self.networks) > MOST_NETWORKS:
            raise ValueError(f"{len(self.networks)} networks are more than the {MOST_NETWORKS} that a recipe may have")
        if self.result is not None and self.result not in self.networks:
            known = ", ".join(self.networks) or "it has only one"
            raise ValueError(f"result: the recipe has no network called {self.result} ({known})")
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
    hint = _explain_family(name, presets, table)
    try:
        choose_model(name, presets, table, "model")
    except UserError as error:
        problems = error.problems if isinstance(error, SettingsError) else [f"model: {error}"]
        problems[0] += hint
        raise SettingsError(problems) from None
    published = FAMILIES[name].presets
    settings: dict[str, Any] = {}
    for preset in presets:
        settings |= published[preset]
    settings |= table
    return ModelTable(name, settings)


def _explain_family(name: str, presets: Sequence[str], settings: dict[str, Any]) -> str:
    """What to do where a model's presets and settings are those of another family; nothing where they are not."""
    by_name = FAMILIES.all()
    if name not in by_name:
        return ""
    strange = [preset for preset in presets if preset not in by_name[name].presets]
    strange += [key for key in settings if key not in by_name[name].settings.model_fields]

    def has(other: str, word: str) -> bool:
        return word in by_name[other].presets or word in by_name[other].settings.model_fields

    meant = [other for other in by_name if strange and all(has(other, word) for word in strange)]
    if not meant:
        return ""
    return (
        f" ({', '.join(strange)}: of {' or '.join(meant)}; a table for another family is replaced as a whole: "
        f"--set 'model={{family = \"{name}\"}}')"
    )


def check_recipe(values: dict[str, Any], source: str = "") -> Recipe:
    """Validate a recipe given as plain values. Raises SettingsError with all problems."""
    recipe = _check_networks(values, source) if "networks" in values else _check_one(values, source)
    if recipe.fit:  # what it may be changed to is looked at once it is a recipe itself
        problems = find_wrong_candidates(values, check_recipe)
        if problems:
            raise SettingsError(problems, source)
    return recipe


def _check_one(values: dict[str, Any], source: str) -> Recipe:
    """`check_recipe` of one network."""
    problems = find_unquoted_paths(values)
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


def _check_networks(values: dict[str, Any], source: str) -> Recipe:
    """`check_recipe` of several networks: what holds for all, then each with that, then whether an order is possible.

    Of a problem in what holds for all, each network would tell: it is told once.
    """
    unreadable = find_unreadable(values)
    problems = [unreadable] if unreadable else find_table_problems(values["networks"])
    if problems:
        raise SettingsError(problems, source)
    unchecked = {"model": {}, "stages": [], **values, "networks": dict.fromkeys(values["networks"], True)}
    problems = find_unquoted_paths(values)
    try:
        recipe = parse(recipe_schema(), unchecked)
    except SettingsError as error:
        problems += error.problems
    members = {}
    for name, own in expand(values).items() if len(values["networks"]) <= MOST_NETWORKS else ():
        found = find_lost_places(values, values["networks"][name])
        if len(own["name"]) > LONGEST_NAME:
            found.append(f"name: this and the recipe's are together longer than {LONGEST_NAME} letters")
        try:
            members[name] = check_recipe(own) if not found else None
        except SettingsError as error:
            found = [problem for problem in error.problems if problem not in problems]
            found = [problem for problem in found if not problem.startswith("name: ")]  # it follows from the recipe's
        problems += [f"networks.{name}.{problem}" for problem in found]
    if problems:
        raise SettingsError(problems, source)
    recipe = recipe.model_copy(update={"networks": members})
    try:
        _ = recipe.needs
    except ValueError as error:
        raise SettingsError([f"networks: {error}"], source) from None
    return recipe


def resolve_again(text: str) -> str:
    """A recipe that a run folder states, as this version states it; the text as it is, where it is none any more."""
    try:
        return check_recipe(parse_toml(text, "")).text
    except UserError:
        return text
