"""What a name of a network stands for: an earlier network of the same recipe, a file, or a run's folder.

    library = Library(members={"teacher": network})
    library.describe("teacher")        what a check needs, nothing built
    library.load("teacher")            a network of one's own

Stages and recipes name networks, to begin with or to learn from; whoever runs them says here which there are.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from netpress.errors import NetpressError, UserError
from netpress.files import is_folder, is_there
from netpress.folders.stage import NETWORK
from netpress.network.file import describe, resolve
from netpress.network.network import Network, copy


@dataclass(frozen=True)
class Library:
    """The networks that names may stand for. Those of the recipe come before files of the same name."""

    allow_import: bool = False
    """Whether files from elsewhere may name a class to import: what the command was given."""
    members: Mapping[str, Network] = field(default_factory=dict)
    """Name -> network of the same recipe: in a run a finished one, in a plan what its stages would leave."""

    def describe(self, name: str) -> dict[str, Any]:
        """What the file of this network says of it (see `netpress.network.describe`), tensors by their names.

        Raises UserError where there is no such network: a model by its name alone has learned nothing.
        """
        if name in self.members:
            network = self.members[name]
            return {
                "input": asdict(network.input),
                "classes": list(network.classes),
                "architecture": asdict(network.architecture),
                "formats": network.formats,
                "tensors": dict.fromkeys(network.module.state_dict()),
            }
        try:
            return describe(Path(name) / NETWORK if is_folder(name) else Path(name))
        except NetpressError as error:
            raise UserError(f"{error}; give network files or folders of finished runs{self._known}") from None

    def load(self, name: str) -> Network:
        """The network, the caller's own; of a file, or new where only a model has the name (see `resolve`).

        Raises UserError where there is none, or where its file names a class to import and that is not allowed.
        """
        if name in self.members:
            return copy(self.members[name])
        try:
            return resolve(name, allow_import=self.allow_import)
        except UserError as error:
            if self.members and not is_there(Path(name)):
                raise UserError(f"{error}{self._known}") from None
            raise

    @property
    def _known(self) -> str:
        return f"; networks of this recipe before this one: {', '.join(self.members)}" if self.members else ""

    def may_build(self, name: str, family: str) -> bool:
        """Whether the network of this name and family may be built: a recipe's own class needs no leave."""
        return family != "import" or self.allow_import or name in self.members


FILES = Library()
"""No networks but those in files, and none of somebody's own class."""
