"""A search's folder: its recipe, one run folder a trial, a journal of what was tried, and the table made of it.

runs/NAME/recipe.toml                  what the trials have in common, and the [search] table
          journal.jsonl                what was tried and what came of it, a line each, only ever added to
          trial-0000/                  one run folder each, see `netpress.folders.run`
          search.csv search.md search.html    the table, written again after each trial
          best.toml                    the recipe of the best trial
"""

from pathlib import Path

from netpress.folders.several import SeveralFolder

JOURNAL = "journal.jsonl"
CSV = "search.csv"
MARKDOWN = "search.md"
PAGE = "search.html"
BEST = "best.toml"


class SearchFolder(SeveralFolder):
    """The folder of a search."""

    kind = "search"
    what = "trial"
    files = (CSV, MARKDOWN, PAGE, BEST, JOURNAL)

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL

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
    def best(self) -> Path:
        return self.path / BEST


def trial_name(number: int) -> str:
    """The folder of a trial."""
    return f"trial-{number:04d}"
