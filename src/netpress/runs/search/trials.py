"""What a search has tried: a journal that is only ever added to, a line an event.

    {"trial": 3, "values": {"model.expansion": 2.5}}          asked for: it has a folder from here on
    {"trial": 3, "state": "done", "figures": {"accuracy": 0.61, "score": 0.0021, ...}}

A trial without a second line was interrupted and goes on. So a search that is killed anywhere loses nothing and counts
nothing twice. Of the accuracies, those on the images to select on stand here; a search sees no others.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from netpress.errors import Failure
from netpress.files import read_text

IN_VAIN = 100
"""So many questions in a row that bring nothing new to train end the search."""

State = Literal["open", "done", "stopped", "refused", "failed"]


@dataclass(frozen=True)
class Trial:
    """One recipe of the space."""

    number: int
    values: Mapping[str, Any]
    """Setting path -> value."""
    state: State = "open"
    """open: asked for, perhaps running. stopped: ended early, as its accuracy was poor. refused: counted, and over a
    limit or otherwise no run. failed: tried, and could not be brought to its end."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """By objective, of what is done; the accuracy, of what was stopped."""
    message: str = ""
    """Why it was refused or failed, or when it was stopped."""

    @property
    def counts(self) -> bool:
        """Whether it is one of the trials that were asked for."""
        return self.state != "refused"


class Journal:
    """The trials in a journal's file, in the order in which they were asked for."""

    def __init__(self, path: Path) -> None:
        """Reads what is there. Raises Failure for what is no journal."""
        self.path = path
        self.trials: dict[int, Trial] = {}
        self.order: list[int] = []
        """The numbers of the trials that have ended, as they did."""
        whole = ""
        if path.exists():
            text = read_text(path)
            whole, _, broken = text.rpartition("\n")  # a line that is not whole was being written: it did not happen
            for number, line in enumerate(whole.splitlines(), 1):
                try:
                    self._take(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    raise Failure(f"{path}: line {number} is damaged; search into another --out") from None
            if broken:
                with path.open("r+", encoding="utf-8") as file:
                    file.truncate(len(f"{whole}\n".encode()) if whole else 0)

    def ask(self, trial: Trial) -> None:
        """Note that `trial` is tried."""
        self._add({"trial": trial.number, "values": dict(trial.values)})

    def tell(self, trial: Trial) -> None:
        """Note how it ended."""
        event = {"trial": trial.number, "state": trial.state, "figures": dict(trial.figures), "message": trial.message}
        self._add({name: value for name, value in event.items() if value or name == "trial"})

    def history(self) -> list[Trial]:
        """The trials that have ended, in the order in which they did, then those that are open."""
        ended = [self.trials[number] for number in self.order]
        return ended + [trial for trial in self.trials.values() if trial.state == "open"]

    def _add(self, event: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Failure(f"{self.path}: cannot be written ({error.strerror}); free space and search again") from None
        self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        number = int(event["trial"])
        if "values" in event:
            self.trials[number] = Trial(number, event["values"])
            return
        figures, message = event.get("figures", {}), event.get("message", "")
        self.trials[number] = replace(self.trials[number], state=event["state"], figures=figures, message=message)
        self.order.append(number)
