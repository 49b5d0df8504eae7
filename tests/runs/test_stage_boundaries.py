"""What a stage hands on is what its file gives: killed anywhere, a run of several stages ends in the same bytes.

A kill is an exception that nothing catches, raised at a seeded one of the moments at which something is written.
"""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from netpress.compression import prune as pruning
from netpress.data import Dataset, Images
from netpress.errors import Failure
from netpress.files import writing as files
from netpress.network import Network, copy, create, load, save
from netpress.process.console import Console
from netpress.process.world import World
from netpress.runs.pipeline import run_stage
from netpress.settings import parse
from netpress.stage import STAGES, Context
from netpress.training.loop import run_training
from netpress.training.step import TrainingStep

pytestmark = pytest.mark.slow

TRAIN = {"epochs": 2, "batch_size": 16, "average": {"decay": 0.9}, "mix": {"kind": "cutmix"}}
KINDS: dict[str, dict[str, Any]] = {
    "train": TRAIN,
    "prune": {"amount": 0.95, "first_amount": 0.92, "rounds": 2, "train": {**TRAIN, "epochs": 1}},
    "prune_to_gate": {"gate": 0.01, "step": 0.3},
    "fold": {},
    "factorize": {
        "keep": 0.7,
        "images": 16,
        "rounds": 3,
        "train": {**TRAIN, "epochs": 1},
        "selection": {"kind": "global"},
        "regrow": {"train": {**TRAIN, "epochs": 1}},
    },
    "quantize": {"calibration_images": 16},
}
# What may follow what: nothing real-valued after quantizing, and a norm folds once.
PAIRS = [
    (first, second)
    for first, second in itertools.product(KINDS, KINDS)
    if first != "quantize" and (first, second) != ("fold", "fold")
]
LONG = [
    ("train", "prune", "fold", "quantize"),
    ("train", "rewound prune", "train", "quantize"),
    ("train", "prune_to_gate", "quantize"),
    ("train", "trained quantize"),
    ("train", "factorize", "prune_to_gate", "quantize"),
]
TIMES = {"seconds", "images_per_second"}


class Kill(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


class Moments:
    """Counts the moments before and after everything written and every step; at a chosen one the run is killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed, self.fatal = 0, -1
        self.names: list[str] = []
        for owner, name in ((Path, "replace"), (Path, "unlink"), (TrainingStep, "update"), (Context, "log")):
            monkeypatch.setattr(owner, name, self._watch(getattr(owner, name), name))
        monkeypatch.setattr(files, "_flush", lambda path: None)  # a disk's own time is not what is tested
        monkeypatch.setattr(files, "_flush_folder", lambda path: None)

    def _watch(self, function: Any, name: str) -> Any:
        def watched(*arguments: Any, **keywords: Any) -> Any:
            self._pass(f"before {name} {arguments[-1]}")
            result = function(*arguments, **keywords)
            self._pass(f"after {name} {arguments[-1]}")
            return result

        return watched

    def _pass(self, what: str) -> None:
        self.passed += 1
        self.names.append(what)
        if self.passed == self.fatal:
            self.fatal = -1
            raise Kill

    def begin(self, fatal: int = -1) -> None:
        self.passed, self.fatal, self.names = 0, fatal, []


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moments]:
    yield Moments(monkeypatch)


def make_dataset() -> Dataset:
    generator = torch.Generator().manual_seed(7)

    def draw(count: int) -> Images:
        labels = torch.arange(count) % 4
        pixels = torch.randint(0, 90, (count, 3, 8, 8), generator=generator) + labels.view(-1, 1, 1, 1) * 50
        return Images(pixels.clamp(0, 255).byte(), labels)

    return Dataset("shades", draw(48), draw(16), draw(16), tuple("abcd"), (0.5,) * 3, (0.3,) * 3, "validation")


def first_network() -> Network:
    settings = {"blocks": [1], "width": 8, "classes": 4, "image_size": 8}
    return create("resnet", settings, classes=tuple("abcd"), seed=3)


OTHERS = {
    "trained quantize": {"calibration_images": 16, "train": {**TRAIN, "epochs": 1}},
    "rewound prune": {
        "amount": 0.5,
        "rounds": 2,
        "weights": "rewind",
        "masks_from": "last",
        "train": {**TRAIN, "epochs": 1, "keep": "best"},
    },
    "second prune": {**KINDS["prune"], "amount": 0.98, "first_amount": 0.97},
}


GATED = {"amount": 0.9, "rounds": 3, "train": {**TRAIN, "epochs": 1}}
for gate in (0.35, 0.75):  # three rounds go to .7, .4 and .1
    OTHERS[f"until-{gate} prune"] = {**GATED, "gate": gate}
    OTHERS[f"rewound-until-{gate} prune"] = {**OTHERS["rewound prune"], **GATED, "gate": gate}


def settings_of(kind: str) -> Any:
    values = (OTHERS | KINDS)[kind]
    return parse(STAGES[kind.split()[-1]].settings, {"kind": kind.split()[-1], **values}, kind)


DATA = make_dataset()


def run(kinds: tuple[str, ...], folder: Path) -> None:
    """The stages one after the other, as a run has them; called again, it goes on."""
    initial = first_network()
    network = copy(initial)
    for index, kind in enumerate(kinds):
        name = f"{index + 1:02d}-{kind.split()[-1]}"
        context = Context(
            folder / name, World(torch.device("cpu")), 11 + index, Console(quiet=True), DATA, initial, 0.0, name
        )
        network = run_stage(network, settings_of(kind), context)


def contents(folder: Path) -> dict[str, Any]:
    """All that stages left: networks byte by byte, everything else but times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".netpress":
            found[name] = path.read_bytes()
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found[name] = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
        elif path.name == "deleted.json":
            found[name] = path.read_bytes()
        elif path.name == "done.json":
            value = json.loads(path.read_bytes())
            found[name] = {key: value[key] for key in value if key not in TIMES}
        elif path.is_file():
            found[name] = "a file that should be gone"
    return found


def killed_at(kinds: tuple[str, ...], folder: Path, moments: Moments, fatal: int) -> dict[str, Any]:
    moments.begin(fatal)
    with pytest.raises(Kill):
        run(kinds, folder)
    moments.begin()
    run(kinds, folder)
    return contents(folder)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_pair_killed_at_the_boundary_in_the_middle_and_before_it_is_marked(pair, tmp_path, moments):
    pair = ("prune", "second prune") if pair == ("prune", "prune") else pair
    moments.begin()
    run(pair, tmp_path / "whole")
    names, expected = list(moments.names), contents(tmp_path / "whole")
    assert "a file that should be gone" not in expected.values()
    saved = [n for n, name in enumerate(names, 1) if "after replace" in name and name.endswith("network.netpress")]
    marked = [n for n, name in enumerate(names, 1) if "after replace" in name and name.endswith("done.json")]
    first = next(n for n in saved if f"01-{pair[0]}/network" in names[n - 1].replace("\\", "/"))
    middle = (marked[0] + len(names)) // 2
    for number, fatal in enumerate((first, marked[0], middle)):
        assert killed_at(pair, tmp_path / str(number), moments, fatal) == expected, names[fatal - 1]


@pytest.mark.parametrize("kinds", LONG, ids="-".join)
def test_seeded_kills_change_no_byte(kinds, tmp_path, moments):
    """25 kills in each of four recipes; every run goes on after five of them."""
    moments.begin()
    run(kinds, tmp_path / "whole")
    count, expected = moments.passed, contents(tmp_path / "whole")
    draw = random.Random("/".join(kinds))
    for number in range(5):
        folder, kills = tmp_path / str(number), 0
        while kills < 5:
            moments.begin(draw.randint(1, max(2, count // 4)))
            try:
                run(kinds, folder)
            except Kill:
                kills += 1
            else:
                break  # the end came first: begin anew with what is left of the five
        moments.begin()
        run(kinds, folder)
        assert kills >= 3
        assert contents(folder) == expected


@pytest.fixture
def as_accurate_as_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prunings take the share of weights that are left for the accuracy."""

    def pretend(network: Network, context: Context | None = None) -> float:
        weights = network.weights()
        left = sum(
            int(network.masks[name].sum() if name in network.masks else weights[name].numel()) for name in weights
        )
        return left / sum(weight.numel() for weight in weights.values())

    def trained(network: Network, *rest: Any) -> Any:
        return replace(run_training(network, *rest), selection_accuracy=pretend(network))

    monkeypatch.setattr(pruning, "selection_accuracy", pretend)
    monkeypatch.setattr(pruning, "run_training", trained)


@pytest.mark.usefixtures("as_accurate_as_dense")
@pytest.mark.parametrize("gate", [0.35, 0.75])
@pytest.mark.parametrize("which", ["until", "rewound-until"])
def test_a_pruning_to_a_gate_killed_all_along(which, gate, tmp_path, moments):
    kinds = (f"{which}-{gate} prune",)
    moments.begin()
    run(kinds, tmp_path / "whole")
    count, expected = moments.passed, contents(tmp_path / "whole")
    rounds = [name for name in expected if "round" in name and name.endswith("/network.netpress")]
    assert len(rounds) == {0.35: 2, 0.75: 0}[gate]
    assert len(expected["01-prune/metrics.jsonl"]) == len(rounds) + 1
    result = load(tmp_path / "whole" / "01-prune" / "network.netpress")
    last = load(tmp_path / "whole" / rounds[-1]) if rounds else first_network()
    assert all(torch.equal(last.module.state_dict()[name], t) for name, t in result.module.state_dict().items())
    assert result.masks.keys() == last.masks.keys()
    assert "a file that should be gone" not in expected.values()
    for fatal in sorted({*range(1, count + 1, 3), *range(count - 15, count + 1)}):  # the last: where the stage stops
        assert killed_at(kinds, tmp_path / str(fatal), moments, fatal) == expected, fatal


def test_what_is_handed_on_lies_in_memory_as_the_file_gives_it(tmp_path):
    context = Context(
        tmp_path / "01-train", World(torch.device("cpu")), 1, Console(quiet=True), DATA, None, 60.0, "01-train"
    )
    handed = run_stage(first_network(), settings_of("train"), context)
    for found in (handed, load(tmp_path / "01-train" / "network.netpress")):
        for name, tensor in found.module.state_dict().items():
            assert tensor.is_contiguous(), name
            assert tensor.data_ptr() % 16 == 0, name
    again = run_stage(first_network(), settings_of("train"), context)
    one, other = handed.module.state_dict(), again.module.state_dict()
    assert [name for name in one if one[name].stride() != other[name].stride()] == []
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_new_network_and_its_file_are_one(tmp_path):
    """A run that starts from a family and one that starts from a file of the same network do the same."""
    save(first_network(), tmp_path / "first.netpress")
    context = Context(tmp_path / "a", World(torch.device("cpu")), 1, Console(quiet=True), DATA, None, 60.0, "a")
    run_stage(first_network(), settings_of("train"), context)
    context = Context(tmp_path / "b", World(torch.device("cpu")), 1, Console(quiet=True), DATA, None, 60.0, "a")
    run_stage(load(tmp_path / "first.netpress"), settings_of("train"), context)
    assert (tmp_path / "a" / "network.netpress").read_bytes() == (tmp_path / "b" / "network.netpress").read_bytes()


def test_a_damaged_mark_is_made_again(tmp_path):
    context = Context(tmp_path / "s", World(torch.device("cpu")), 1, Console(quiet=True), DATA, None, 60.0, "s")
    run_stage(first_network(), settings_of("fold"), context)
    before = json.loads((tmp_path / "s" / "done.json").read_bytes())
    for damage in (b"", b"\0" * 40, b"[]", b'{"kind"'):
        (tmp_path / "s" / "done.json").write_bytes(damage)
        run_stage(first_network(), settings_of("fold"), context)
        assert json.loads((tmp_path / "s" / "done.json").read_bytes()) == before


def test_a_state_that_lacks_something_is_one_sentence(tmp_path):
    context = Context(tmp_path, World(torch.device("cpu")), 1, Console(quiet=True), DATA, None, 60.0, "s")
    for values in ({}, {"settings": settings_of("train").model_dump(mode="json"), "round": 0}):
        context.save_state({"sums": torch.zeros(3)}, values)
        with pytest.raises(Failure, match=r"saved state is damaged .* delete state\.safetensors"):
            run_stage(first_network(), settings_of("train"), context)
