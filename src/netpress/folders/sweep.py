"""A sweep's folder: its recipe, one run folder a member, and the table of what they came to.

runs/NAME/recipe.toml                  what the members have in common, and the [sweep] table
          MEMBER/                      one run folder each, see `netpress.folders.run`; or a chain's
          sweep.csv sweep.md sweep.html    the table, written again after each member
"""

from pathlib import Path

from netpress.folders.chain import ChainFolder
from netpress.folders.run import RunFolder
from netpress.folders.several import SeveralFolder, TabledFolder


class SweepFolder(TabledFolder):
    """The folder of a sweep."""

    kind = "sweep"
    what = "member"
    files = ("sweep.csv", "sweep.md", "sweep.html")

    def member_at(self, path: Path) -> RunFolder | SeveralFolder:
        chain = ChainFolder(path)
        return chain if chain.is_here else RunFolder(path)
