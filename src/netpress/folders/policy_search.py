"""The folder of a policy search: the networks of its folds and what was tried on them, kept to go on or to try more.

runs/NAME-policy.json                  the policy that was found
runs/NAME-policy/search.toml           the recipe, with how it is searched
          environment.json             machine, versions, the checksum of the images
          log.txt                      what was said
          fold-1/01-train/             the training without the first part, see `netpress.folders.stage`
          fold-1/round-1.jsonl         the candidates of a round and what came of them, only ever added to
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netpress.files import atomic_write
from netpress.folders.holding import find_written, held, refuse_other_contents, remove_written
from netpress.folders.run import ENVIRONMENT, LOG, RunFolder
from netpress.folders.stage import STAGE_FILES, StageFolder

RECIPE = "search.toml"
ROUNDS = "round-*.jsonl"
FILES = (*STAGE_FILES, ROUNDS, ENVIRONMENT, LOG)


@dataclass(frozen=True)
class PolicySearchFolder:
    """The folder of a search whose policy is written to `result`. Making the object touches nothing on disk."""

    result: Path

    @property
    def path(self) -> Path:
        return self.result.with_suffix("")

    @property
    def recipe(self) -> Path:
        return self.path / RECIPE

    @property
    def top(self) -> RunFolder:
        """The folder as that of a run: the environment and the log lie here under the same names."""
        return RunFolder(self.path)

    def stage(self, fold: int, name: str) -> StageFolder:
        """The folder of a fold's stage; folds are counted from 0, their folders from 1."""
        return StageFolder(self.path / f"fold-{fold + 1}" / name)

    def journal(self, fold: int, number: int) -> Path:
        """The journal of a fold's round, both counted from 0."""
        return self.path / f"fold-{fold + 1}" / f"round-{number + 1}.jsonl"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out. Raises UserError where something else lies here, Failure where one is at work."""
        refuse_other_contents(self.path, RECIPE, "policy search")
        with held(self.path):
            yield

    def begin(self, recipe: str) -> None:
        """Note the recipe, a TOML text, of which more is found from here on."""
        atomic_write(self.recipe, recipe)

    def clear(self) -> None:
        """Remove what a search wrote here, and nothing else; the recipe last, so that an interrupted clearing is seen.

        The policy that was found stays until there is another.
        """
        for fold in sorted(self.path.glob("fold-*")):
            remove_written(fold, FILES)
        for path in (*find_written(self.path, FILES, below=False), self.recipe):
            path.unlink(missing_ok=True)
