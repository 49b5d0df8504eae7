"""`netpress apply factorize` and recipes with it, as users meet them: what is refused, what stays, a kill."""

from pathlib import Path
from typing import Any

import pytest

from netpress.errors import Failure
from netpress.files import writing
from netpress.network import create, save
from netpress.recipe.schema import check_recipe
from netpress.runs.apply import apply_stage
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe
from netpress.training.step import TrainingStep

pytestmark = pytest.mark.slow

CLASSES = tuple("0123456789")
SMALL = {"depth": 11, "alpha": 8, "classes": 10, "image_size": 8}
DATA = ["--dataset", "digits", "--set", "data.image_size=8", "--set", "images=32"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An untrained network, one with depthwise layers, and a quantized one."""
    save(create("pyramidnet", SMALL, classes=CLASSES, seed=1), tmp_path / "net.netpress")
    tiny = create("c_efficientnet", {"widths": "tiny", "classes": 10, "image_size": 8}, classes=CLASSES, seed=1)
    save(tiny, tmp_path / "tiny.netpress")
    apply_stage("quantize", str(tmp_path / "net.netpress"), tmp_path / "quantized.netpress", ["preset=half"])
    return tmp_path


@pytest.mark.parametrize(
    ("network", "sets", "expected"),
    [
        ("net", ["compression=0.999"], "compression 0.999: no ranks reach it; the most is 0."),
        ("net", ["score=1e-9"], "score 1e-09: no ranks reach it; the least is"),
        ("net", ["keep=0.01"], "keep 0.01: no ranks keep so few"),
        ("net", ["keep=0.5", "gate=0.99"], "gate 0.99 is above the network's accuracy as it is"),
        ("quantized", ["keep=0.5"], "factorizing after a stage that quantizes"),
        ("tiny", ["layers=depthwise"], "none of those meant can be factorized (blocks.0.depthwise.conv: depthwise"),
        ("net", ["layers=nowhere.*"], "'nowhere.*': matches no layer"),
        ("net", ["layers=depthwise"], "'depthwise': this network has no such layer"),
        ("net", ["keep=0"], "keep: 0.0 is not above 0"),
        ("net", ["rounds=0"], "rounds: 0 is not at least 1"),
        ("net", ["images=1"], "images: 1 is not at least 2"),
        ("net", ["regrow.kind=copies"], "regrow needs more than one round"),
        ("net", ["rounds=3", "train_larger.epochs=1"], "train_larger takes the place of train: add train"),
        ("net", ["selection.kind=global", "selection.per=score"], "selection.global.per: no such"),
        ("gone", ["keep=0.5"], "gone.netpress: no such file"),
    ],
)
def test_what_cannot_be_is_one_message_and_leaves_nothing(
    place: Path, call: Any, network: str, sets: list[str], expected: str
) -> None:
    before = sorted(path.name for path in place.iterdir())
    words = [word for value in sets for word in ("--set", value)]
    code, _, err = call("apply", "factorize", f"{network}.netpress", *DATA, *words, "--out", "o.netpress")
    refusals = [line for line in err.splitlines() if line.startswith("netpress: ")]
    assert code == 2 and len(refusals) == 1 and expected in refusals[0], err
    assert sorted(path.name for path in place.iterdir()) == before


def test_without_data_it_says_so_and_leaves_nothing(place: Path, call: Any) -> None:
    code, _, err = call("apply", "factorize", "net.netpress", "--set", "keep=0.5", "--out", "o.netpress")
    assert code == 2 and "this stage needs data" in err
    assert not list(place.glob("o.netpress*"))


def test_a_recipe_that_factorizes_what_is_quantized_is_refused_by_its_plan(tmp_path: Path, call: Any) -> None:
    (tmp_path / "late.toml").write_text(
        'name = "late"\n[data]\ndataset = "digits"\n[model]\nfamily = "c_efficientnet"\npreset = "tiny"\n'
        '[[stages]]\nkind = "quantize"\n[[stages]]\nkind = "factorize"\nkeep = 0.5\n',
        encoding="utf-8",
    )
    for command in ("plan", "run"):
        code, _, err = call(command, "late.toml")
        assert code == 2 and "02-factorize: factorizing after a stage that quantizes" in err
    assert not (tmp_path / "runs").exists()


class Killed(BaseException):
    """Stands in for a kill."""


ROUNDS = [
    "data.image_size=8",
    "data.train_images=64",
    "images=16",
    "keep=0.5",
    "rounds=3",
    "selection.kind=global",
    "train.epochs=1",
    "train.batch_size=16",
    "regrow.kind=copies",
    "regrow.train.epochs=1",
    "regrow.train.batch_size=16",
]


@pytest.mark.parametrize("fatal", [2, 5, 9])
def test_an_apply_that_was_killed_goes_on_to_the_same_bytes(
    place: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    """Killed in the training of the first round, of the regrowth, of the last round."""
    update = TrainingStep.update
    taken = 0

    def watched(self: TrainingStep, *arguments: Any, **keywords: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == fatal:
            raise Killed
        return update(self, *arguments, **keywords)

    def run(out: str) -> bytes:
        options = RunOptions(save_every_seconds=0.0)
        apply_stage("factorize", str(place / "net.netpress"), place / out, ROUNDS, dataset="digits", options=options)
        return (place / out).read_bytes()

    monkeypatch.setattr(writing, "_flush", lambda path: None)
    expected = run("whole")
    monkeypatch.setattr(TrainingStep, "update", watched)
    with pytest.raises(Killed):
        run("killed")
    assert (place / "killed.work").is_dir() and not (place / "killed").exists()
    steps = taken
    assert run("killed") == expected
    assert taken - steps == 12 - (fatal - 1)  # of three trainings of four steps, those not done yet
    assert not (place / "killed.work").exists()


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"count": 1}', b'{"count": 1, "shares": {"stem": [1]}}'])
def test_a_damaged_note_of_what_was_deleted_is_one_message(tmp_path: Path, damage: bytes) -> None:
    stage = {"kind": "factorize", "keep": 0.6, "images": 16, "rounds": 3, "regrow": {}}
    data = {"dataset": "digits", "train_images": 64, "image_size": 8}
    model = {"family": "pyramidnet", "depth": 11, "alpha": 8}
    recipe = check_recipe({"name": "r", "data": data, "model": model, "stages": [stage]})
    run_recipe(recipe, tmp_path / "run")
    first = tmp_path / "run" / "01-factorize"
    # As if it had been killed after the first round.
    for path in (*first.glob("round-[23]/*"), first / "done.json", first / "network.netpress"):
        path.unlink()
    (first / "round-1" / "deleted.json").write_bytes(damage)
    with pytest.raises(Failure, match=r"round-1.deleted\.json"):
        run_recipe(recipe, tmp_path / "run")
