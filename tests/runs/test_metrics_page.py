"""docs/runs.md explains every key of metrics.jsonl, and none that nothing writes."""

import re
from pathlib import Path

import pytest

from netpress.folders.removal import find_contents
from netpress.folders.run import RunFolder
from netpress.folders.stage import read_metrics
from netpress.recipe.schema import check_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.pipeline import run_network

ROOT = Path(__file__).parents[2]
ONE_EPOCH = {"epochs": 1, "batch_size": 32}
RECIPE = {
    "name": "all",
    "data": {"dataset": "digits", "train_images": 64, "image_size": 8},
    "model": {"family": "resnet", "blocks": [1], "width": 8},
    "stages": [
        {"kind": "train", **ONE_EPOCH, "orthogonality": {"on": "conv"}},
        {"kind": "prune", "amount": 0.2, "gradual": {}, "train": ONE_EPOCH},
        {"kind": "prune_to_gate", "gate": 0.0, "step": 0.4},
        {"kind": "factorize", "keep": 0.6, "rounds": 3, "images": 64, "train": ONE_EPOCH, "regrow": {"share": 0.5}},
        {"kind": "simplify"},
        {"kind": "activations", "to": "clamp", "replaces": ["relu"]},
        {"kind": "fold"},
        {"kind": "quantize", "falling": [10], "train": ONE_EPOCH | {"epochs": 2, "rounds": 2}},
    ],
}
LINES = {  # of the page: which lines a section is of, by the stages that write them
    "Every line": ".*",
    "A line an epoch: the stage train, and trainings within other stages": ".*",
    "A line a round: prune": r"\d\d-prune",
    "A line a round: prune_channels and factorize": r"\d\d-(prune_channels|factorize)",
    "A line a look: prune_to_gate": r"\d\d-prune_to_gate",
    "One line: fold, simplify, activations and quantize": r"\d\d-(fold|simplify|activations|quantize)",
}


def sections() -> dict[str, set[str]]:
    """The keys that the page explains, by section."""
    page = (ROOT / "docs/runs.md").read_text(encoding="utf-8")
    parts = re.split(r"^### ", page.partition("## TensorBoard")[0], flags=re.MULTILINE)[1:]
    return {part.split("\n")[0]: set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) for part in parts}


def explained(line: dict) -> set[str]:
    """The keys of the sections that are of this line."""
    found = set()
    for title, keys in sections().items():
        if re.fullmatch(LINES[title], line["stage"]) and ("epoch" in line) >= title.startswith("A line an epoch"):
            found |= keys
    return found


@pytest.mark.slow
def test_every_key_of_a_real_run_is_explained(tmp_path):
    run_network(check_recipe(RECIPE), tmp_path / "run", RunOptions())
    lines = read_metrics(RunFolder(tmp_path / "run").metrics)
    assert find_contents(tmp_path / "run").others == ()  # `netpress remove` knows all that stages write
    assert {line["stage"].partition("-")[2].partition("/")[0] for line in lines} == {
        stage["kind"] for stage in RECIPE["stages"]
    }
    for line in lines:
        assert not line.keys() - explained(line), line
    written = {key for line in lines for key in line}
    told = set().union(*sections().values())
    assert told == written


def test_every_key_that_is_explained_is_written_somewhere():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "src/netpress").rglob("*.py")]
    code = "".join(texts)
    for keys in sections().values():
        assert keys and all(f'"{key}"' in code for key in keys), keys
