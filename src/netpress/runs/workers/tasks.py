"""A task: one recipe to run into one folder, written so that any process that sees the same folders can run it.

    {"recipe": "name = ...", "folder": "runs/sweep/seed-1", "options": {"data": "data", "threads": 1, ...}}

is what a worker is given, as one line of JSON. It says nothing of what others do.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from netpress.files import parse_toml
from netpress.process.console import Console
from netpress.recipe.schema import Recipe, check_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe

PATHS = ("data", "answers", "cache")
PLAIN = (
    "device",
    "fresh",
    "save_every_seconds",
    "threads",
    "allow_import",
    "answers_limit",
    "cache_limit",
    "tensorboard",
)


@dataclass(frozen=True)
class Task:
    """A recipe to run into a folder."""

    name: str
    recipe: Recipe
    folder: Path
    options: RunOptions
    after: tuple[str, ...] = ()
    """Tasks to wait for, whatever they come to: what they make is copied, not made twice."""

    def run(self) -> None:
        """Run it here. Raises UserError and Failure as `run_recipe`."""
        run_recipe(self.recipe, self.folder, self.options)

    def with_options(self, **changes: Any) -> "Task":
        """The same with other options."""
        return replace(self, options=replace(self.options, **changes))

    def as_json(self) -> str:
        """One line with absolute paths, of which `read_task` makes it again; without console and what it waits for."""
        options: dict[str, Any] = {name: getattr(self.options, name) for name in PLAIN}
        for name in PATHS:
            path = getattr(self.options, name)
            options[name] = None if path is None else str(path.absolute())
        folder, recipe = str(self.folder.absolute()), self.recipe.text
        return json.dumps({"name": self.name, "recipe": recipe, "folder": folder, "options": options})


def read_task(line: str, console: Console) -> Task:
    """The task in a line that `Task.as_json` wrote, to speak through `console`."""
    told = json.loads(line)
    options = dict(told["options"])
    for name in PATHS:
        options[name] = None if options[name] is None else Path(options[name])
    recipe = check_recipe(parse_toml(told["recipe"], told["name"]))
    return Task(told["name"], recipe, Path(told["folder"]), RunOptions(console=console, **options))
