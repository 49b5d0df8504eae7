"""The facts that a page tells of a run, read from the run's folder.

A run that is under way, or damaged in part, still gives a page: nothing here raises for a missing or broken piece.
What could not be read stands in `RunFacts.problems`, and the page shows it. Only a folder without a run is an error.
"""

import json
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.folders.run import RunFolder
from netpress.folders.stage import DONE


@dataclass(frozen=True)
class StageFacts:
    """One stage: what was asked of it, how far it is, and what it came to."""

    name: str
    kind: str
    settings: dict[str, Any]
    state: str
    """done, under way, or not begun."""
    done: dict[str, Any]
    """The stage's done.json; empty before it is done."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """One line of figures an epoch, in order."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Lines of figures of anything else than an epoch: the rounds of a pruning, the amounts of a sweep."""

    @property
    def seconds(self) -> float | None:
        """How long it computed: from done.json, before that from what it logged."""
        total = number(self.done.get("seconds"))
        return total if total is not None else add(number(line.get("seconds")) for line in self.epochs)


@dataclass(frozen=True)
class RunFacts:
    """All that the page tells."""

    folder: Path
    name: str
    recipe: dict[str, Any]
    recipe_text: str
    environment: dict[str, Any]
    stages: list[StageFacts]
    score: dict[str, Any] | None
    """score.json; None while the run is not finished."""
    problems: list[str]
    judgement: dict[str, Any] = field(default_factory=dict)
    """judgement.json; empty where the run has none."""
    data: dict[str, Any] = field(default_factory=dict)
    """data.json: what the images were found to be; empty where the run has none."""

    @property
    def finished(self) -> bool:
        return self.score is not None

    @property
    def dataset(self) -> str:
        data = self.recipe.get("data")
        name = data.get("dataset") if isinstance(data, dict) else None
        return str((self.score or {}).get("dataset") or name or "")

    @property
    def title(self) -> str:
        """What the user called the run: the name of its folder."""
        return self.folder.resolve().name or self.name

    @property
    def images(self) -> str:
        """The data set as its user knows it: a folder of images by its own name."""
        if self.dataset != "folder":
            return self.dataset
        name = self.environment.get("data_folder")
        return f"the folder {name}" if name else "a folder of images"

    @property
    def seconds(self) -> float | None:
        return add(stage.seconds for stage in self.stages)


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def add(values: Iterable[float | None]) -> float | None:
    """The sum of the numbers among `values`; None where there is no number."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) if numbers else None


def read_run(folder: RunFolder) -> RunFacts:
    """The facts of the run in `folder`. Raises UserError if the folder is missing or holds no run."""
    if not folder.path.is_dir():
        there = "is a file" if folder.path.exists() else "no such folder"
        raise UserError(f"{folder.path}: {there}; give the folder of a run (what `netpress run` wrote)")
    if not folder.holds_run:
        raise UserError(f"{folder.path}: holds no run (there is no {folder.recipe.name} in it)")
    problems: list[str] = []
    text, recipe = _read_recipe(folder.recipe, problems)
    lines = _read_lines(folder.metrics, problems)
    return RunFacts(
        folder=folder.path,
        name=str(recipe.get("name") or folder.path.resolve().name),
        recipe=recipe,
        recipe_text=text,
        environment=_read_object(folder.environment, problems) or {},
        stages=_read_stages(folder, recipe, lines, problems),
        score=_read_object(folder.score, problems),
        problems=problems,
        judgement=_read_object(folder.judgement, problems) or {},
        data=_read_object(folder.data, problems) or {},
    )


def _read_recipe(path: Path, problems: list[str]) -> tuple[str, dict[str, Any]]:
    text = path.read_bytes().decode("utf-8", "replace")
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path.name} is not valid TOML: {error}")
        return text, {}


def _read_object(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """The JSON object in `path`; None where there is no such file or, noted as a problem, no such object."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        problems.append(f"{_short_name(path)} cannot be read: {error}")
        return None
    if not isinstance(value, dict):
        problems.append(f"{_short_name(path)} holds no JSON object")
        return None
    return value


def _short_name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.name == DONE else path.name


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines, damaged = [], 0
    for text in path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]:  # the rest was cut short
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict):
            lines.append(line)
        else:
            damaged += 1
    if damaged:
        problems.append(f"{path.name}: {damaged} of {damaged + len(lines)} lines cannot be read")
    return lines


def _read_stages(
    folder: RunFolder, recipe: dict[str, Any], lines: list[dict[str, Any]], problems: list[str]
) -> list[StageFacts]:
    entries = recipe.get("stages")
    tables = [table for table in entries if isinstance(table, dict)] if isinstance(entries, list) else []
    settings = {f"{index:02d}-{table.get('kind', '')}": table for index, table in enumerate(tables, 1)}
    begun = {stage.name for stage in folder.stages()}
    stages = []
    for name in sorted({*settings, *begun}):
        done = _read_object(folder.stage(name).done, problems)
        state = "done" if done is not None else "under way" if name in begun else "not begun"
        own = [line for line in lines if str(line.get("stage", "")).split("/")[0] == name]
        stages.append(
            StageFacts(
                name=name,
                kind=name.partition("-")[2],
                settings=settings.get(name, {}),
                state=state,
                done=done or {},
                epochs=[line for line in own if number(line.get("epoch")) is not None],
                steps=[line for line in own if "epoch" not in line],
            )
        )
    return stages
