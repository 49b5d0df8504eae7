"""The [sweep] table of a recipe: which runs it stands for.

    [sweep]
    seeds = [0, 1, 2]
    [sweep.grid]
    "model.expansion" = [2.0, 4.0]

is six runs: every value of the grid with every seed. `netpress.runs.sweep` makes and runs them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from netpress.settings import Natural, Positive, Settings

LONGEST_NAME = 200  # letters: names become folders, which no system lets be longer than 255

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

    @property
    def paths(self) -> list[str]:
        """Every setting path that differs between members, but for that of the seeds."""
        return [*self.grid, *(path for changes in self.variants.values() for path in changes)]

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not (self.variants or self.grid or self.seeds):
            raise ValueError("needs variants, a grid or seeds")
        for path, entries in self.grid.items():
            if not entries:
                raise ValueError(f'grid."{path}": needs at least one value')
        for path in self.paths:
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


def find_unquoted_paths(values: Mapping[str, Any]) -> list[str]:
    """Problems of [sweep], [fit], [search] as written: TOML takes an unquoted model.expansion for a table of tables."""
    sweep, search = values.get("sweep"), values.get("search")
    grid, variants = (sweep.get(key) if isinstance(sweep, dict) else None for key in ("grid", "variants"))
    places = [("sweep.grid", grid), ("fit", values.get("fit"))]
    if isinstance(variants, dict):
        places += [(f"sweep.variants.{name}", changes) for name, changes in variants.items()]
    space = search.get("space") if isinstance(search, dict) else None
    if isinstance(space, dict):
        ranges = {path for path, value in space.items() if isinstance(value, dict) and "low" in value}
        places.append(("search.space", {path: value for path, value in space.items() if path not in ranges}))
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
