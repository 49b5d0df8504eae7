"""One way to make things known by name: families of models, edits, stages, conventions, data sets.

    FAMILIES = Registry[Family]("model", {"densenet": "netpress.models.densenet"})

    FAMILIES.add("densenet", Family(...))     in netpress/models/densenet.py
    FAMILIES["densenet"]                      imports that file, where it was not imported yet

What comes with netpress is listed with the module that adds it, so that its name is known before torch is imported.
Others are added by whoever imports their module.
"""

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from netpress.errors import UserError, quote

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries of one sort by name, in the order of `built_in`, then as they were added."""

    def __init__(self, what: str, built_in: Mapping[str, str] | None = None) -> None:
        """`what` is the word for one of them in messages; `built_in` maps names to the modules that add them."""
        self.what = what
        self.built_in = dict(built_in or {})
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> Entry:
        """Make `entry` known as `name`, and return it. Raises ValueError where there is one of that name."""
        if name in self._entries:
            raise ValueError(f"the {self.what} {name} is registered twice")
        self._entries[name] = entry
        return entry

    def names(self) -> list[str]:
        """All names, without importing anything."""
        return list(dict.fromkeys([*self.built_in, *self._entries]))

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> Entry:
        """The entry called `name`. Raises UserError, with what there is, where there is none."""
        if name not in self._entries and name in self.built_in:
            importlib.import_module(self.built_in[name])
        if name not in self._entries:
            raise UserError(f"{quote(name)}: no such {self.what}; {suggest(name, self.names())}")
        return self._entries[name]

    def all(self) -> dict[str, Entry]:
        """All entries by name; imports what is not imported yet."""
        return {name: self[name] for name in self.names()}


def suggest(name: str, names: list[str]) -> str:
    """What a person may have meant by a wrong name, and what there is."""
    close = difflib.get_close_matches(name, names, 1)
    return (f"did you mean {close[0]}? " if close else "") + f"choose one of {', '.join(names)}"
