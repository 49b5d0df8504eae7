"""A search's folder: its recipe, one run folder a trial, a journal of what was tried, and the table made of it.

runs/NAME/recipe.toml                  what the trials have in common, and the [search] table
          journal.jsonl                what was tried and what came of it, a line each, only ever added to
          trial-0000/                  one run folder each, see `netpress.folders.run`
          search.csv search.md search.html    the table, written again after each trial
          best.toml                    the recipe of the best trial
"""

from pathlib import Path

from netpress.folders.several import TabledFolder

JOURNAL = "journal.jsonl"
BEST = "best.toml"


class SearchFolder(TabledFolder):
    """The folder of a search."""

    kind = "search"
    what = "trial"
    files = ("search.csv", "search.md", "search.html", BEST, JOURNAL)

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL

    @property
    def best(self) -> Path:
        return self.path / BEST


def trial_name(number: int) -> str:
    """The folder of a trial."""
    return f"trial-{number:04d}"
