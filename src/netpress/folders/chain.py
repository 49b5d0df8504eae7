"""A chain's folder: its recipe, one run folder a network, and what they came to side by side.

runs/NAME/recipe.toml        what the networks have in common, and each network's table
          NETWORK/           one run folder each, see `netpress.folders.run`
          networks.csv       the table, written again after each network
          report.html        the page: who teaches whom, and the table
          network.netpress   the network that the recipe is for
          predictions.safetensors    the class that it gives to each test image
          score.json         its accuracy and score card: the chain is finished
"""

from pathlib import Path

from netpress.folders.run import PREDICTIONS, REPORT, SCORE
from netpress.folders.several import SeveralFolder
from netpress.folders.stage import NETWORK

CSV = "networks.csv"


class ChainFolder(SeveralFolder):
    """The folder of a chain of networks."""

    kind = "chain"
    what = "network"
    files = (CSV, REPORT, SCORE, PREDICTIONS, NETWORK)

    def is_done(self, name: str) -> bool:
        """Whether the network called `name` is there and needs no run."""
        return self.member(name).is_finished and self.member(name).network.is_file()

    @property
    def csv(self) -> Path:
        return self.path / CSV
