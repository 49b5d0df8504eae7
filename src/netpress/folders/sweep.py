"""A sweep's folder: its recipe, one run folder a member, and the table of what they came to.

runs/NAME/recipe.toml                  what the members have in common, and the [sweep] table
          MEMBER/                      one run folder each, see `netpress.folders.run`
          sweep.csv sweep.md sweep.html    the table, written again after each member
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netpress.errors import UserError
from netpress.files import atomic_write
from netpress.folders.holding import held, refuse_other_contents, remove_written
from netpress.folders.run import RECIPE, Resolve, RunFolder

CSV = "sweep.csv"
MARKDOWN = "sweep.md"
PAGE = "sweep.html"


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep. Making the object touches nothing on disk."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / RECIPE

    @property
    def csv(self) -> Path:
        return self.path / CSV

    @property
    def markdown(self) -> Path:
        return self.path / MARKDOWN

    @property
    def page(self) -> Path:
        return self.path / PAGE

    @property
    def holds_sweep(self) -> bool:
        return RunFolder(self.path).holds_sweep

    def member(self, name: str) -> RunFolder:
        """The run folder of the member called `name`, whether it is there or not."""
        return RunFolder(self.path / name)

    @contextmanager
    def claimed(
        self, recipe: str, members: Mapping[str, str], fresh: bool = False, resolve: Resolve = str
    ) -> Iterator[None]:
        """Make this the folder of the sweep of `recipe`, a TOML text, and keep other processes out of it.

        `members` has the recipe of each by its name, `resolve` is as for a run. With `fresh` the members that are here
        are removed. Raises UserError where the folder holds something else, or a member of another recipe; Failure
        where another process holds it.
        """
        refuse_other_contents(self.path, RECIPE, "sweep")
        with held(self.path):
            if self.recipe.exists() and not self.holds_sweep:
                raise UserError(f"--out {self.path}: holds a single run, not a sweep; choose another folder")
            if fresh:
                self.clear()
            for name, text in members.items():
                if self.member(name).is_of_another(text, resolve):
                    raise UserError(
                        f"{self.member(name).recipe}: member {name} was begun with another recipe; "
                        "choose another --out, or give --fresh to begin anew in its place"
                    )
            atomic_write(self.recipe, recipe)
            yield

    def clear(self) -> None:
        """Remove what a sweep writes, and nothing else; its recipe last, so that an interrupted clearing is seen."""
        for path in sorted(recipe.parent for recipe in self.path.glob(f"*/{RECIPE}")):
            with held(path):
                RunFolder(path).clear()
            remove_written(path, ())
        for name in (CSV, MARKDOWN, PAGE, RECIPE):
            (self.path / name).unlink(missing_ok=True)
