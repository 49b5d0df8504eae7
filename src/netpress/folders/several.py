"""A folder of several runs: the recipe that they come from, one run folder each, and a table of what they came to.

`netpress.folders.sweep` and `netpress.folders.chain` say what else lies there.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from netpress.errors import UserError
from netpress.files import atomic_write
from netpress.folders.holding import find_written, held, refuse_other_contents, remove_empty
from netpress.folders.run import DRAFT_FILES, RECIPE, Resolve, RunFolder

DRAFT = re.compile(r"\..+\.draft")
"""What a member's folder is called until it is whole: see `RunFolder.begin_with`."""


@dataclass(frozen=True)
class SeveralFolder:
    """The folder of several runs. Making the object touches nothing on disk."""

    path: Path

    kind: ClassVar[str]
    """As `RunFolder.kind` has it."""
    what: ClassVar[str]
    """What one run of several is called in messages."""
    files: ClassVar[tuple[str, ...]]
    """What is written here besides the recipe and the runs."""

    @property
    def recipe(self) -> Path:
        return self.path / RECIPE

    @property
    def top(self) -> RunFolder:
        """The folder itself, as that of a run: some of the same files lie here."""
        return RunFolder(self.path)

    def member(self, name: str) -> RunFolder:
        """The run folder of the member called `name`, whether it is there or not."""
        return RunFolder(self.path / name)

    @property
    def is_here(self) -> bool:
        """Whether several runs of this kind were begun here."""
        return self.top.kind == self.kind

    @contextmanager
    def claimed(
        self, recipe: str, members: Mapping[str, str], fresh: bool = False, resolve: Resolve = str
    ) -> Iterator[None]:
        """Make this the folder of the runs of `recipe`, a TOML text, and keep other processes out of it.

        `members` has the recipe of each by its name, `resolve` is as for a run. With `fresh` the members that are here
        are removed. Raises UserError where the folder holds something else, or a member of another recipe; Failure
        where another process holds it.
        """
        refuse_other_contents(self.path, RECIPE, self.kind)
        with held(self.path):
            if self.recipe.exists() and not self.is_here:
                other = self.top.kind
                there = "a single run" if other == "run" else f"a {other}"
                raise UserError(f"--out {self.path}: holds {there}, not a {self.kind}; choose another folder")
            if fresh:
                self.clear()
                for name, text in members.items():
                    if not self.member(name).is_empty:  # with what the user put there, it is still the member's
                        atomic_write(self.member(name).recipe, text)
            for name, text in members.items():
                if self.member(name).is_of_another(text, resolve):
                    raise UserError(
                        f"{self.member(name).recipe}: {self.what} {name} was begun with another recipe; "
                        "choose another --out, or give --fresh to begin anew in its place"
                    )
            atomic_write(self.recipe, recipe)
            yield

    def members(self) -> "list[RunFolder | SeveralFolder]":
        """The members that were begun here; none behind a link."""
        found = sorted(recipe.parent for recipe in self.path.glob(f"*/{RECIPE}"))
        return [self.member_at(path) for path in found if not path.is_symlink() and RunFolder(path).was_begun]

    def member_at(self, path: Path) -> "RunFolder | SeveralFolder":
        """The folder of a member as what it is."""
        return RunFolder(path)

    def written(self) -> Iterator[Path]:
        """What was written here and by the members, in the order in which it is to be removed."""
        for member in self.members():
            yield from member.written()
        for draft in self._drafts():
            yield from find_written(draft, DRAFT_FILES)
        for name in (*self.files, RECIPE):
            yield from find_written(self.path, (name,), below=False)

    def clear(self) -> None:
        """Remove what was written here, and nothing else; the recipe last, so that an interrupted clearing is seen."""
        for member in self.members():
            with held(member.path):
                member.clear()
            remove_empty(member.path)
        for path in self.written():
            path.unlink(missing_ok=True)
        for draft in self._drafts():
            remove_empty(draft)

    def _drafts(self) -> list[Path]:
        return sorted(path for path in self.path.iterdir() if DRAFT.fullmatch(path.name))


class TabledFolder(SeveralFolder):
    """One whose table is written in three ways, each called by the folder's kind: sweep.csv, sweep.md, sweep.html."""

    @property
    def csv(self) -> Path:
        return self.path / f"{self.kind}.csv"

    @property
    def markdown(self) -> Path:
        return self.path / f"{self.kind}.md"

    @property
    def page(self) -> Path:
        return self.path / f"{self.kind}.html"
