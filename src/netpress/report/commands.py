"""The commands with which one goes on from a run."""

import shlex
from dataclasses import dataclass

from netpress.report.facts import RunFacts

COMES_ALONG = ("digits",)
"""Data sets that need no --data."""


@dataclass(frozen=True)
class Command:
    """A command to copy, and what it is for."""

    line: str
    purpose: str


def list_commands(run: RunFacts) -> list[Command]:
    """What to do with a finished run, or how to finish it; names as seen from the folder that holds the run's."""
    place = shlex.quote(run.title)
    images = "" if run.dataset in COMES_ALONG else " --data DIR"
    if not run.finished:
        return [Command(f"netpress report {place}", "write this page again, with what was done since")]
    commands = [
        Command(f"netpress predict {place} photo.jpg --top 5", "ask the network which class new images are of"),
        Command(f"netpress evaluate {place}{images} --confusion --mistakes 10", "measure it again, and list mistakes"),
        Command(f"netpress export onnx {place} --out {place}.onnx{images}", "write ONNX, run it, and compare answers"),
        Command(f"netpress compare {place} OTHER-RUN --out comparison.html", "see it beside another run or network"),
    ]
    if not any(stage.kind == "quantize" for stage in run.stages):
        line = f"netpress apply quantize {place}{images} --out {place}-int8.netpress"
        commands.append(Command(line, "make a network of 8-bit integers of it"))
    return commands
