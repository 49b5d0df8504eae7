"""Whose code runs: a file's only where the command line says so, a recipe's own class, and nothing else's."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import netpress
from netpress.errors import UserError
from netpress.models.registry import parse_model
from netpress.network import create, describe, save

Call = Callable[..., tuple[int, str, str]]

OWN_CLASS = """
from pathlib import Path
from torch import nn

Path("ran").touch()

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

class Other(Net):
    pass

def make():
    return Net()
"""
MODEL = {"target": "foreign_net:Net", "classes": 10, "channels": 3, "image_size": 16}
SIZE = ["--set", "data.image_size=16"]
RECIPE = """
name = "mine"
[data]
dataset = "digits"
image_size = 16
train_images = 64
[model]
MODEL
[[stages]]
kind = "train"
epochs = 1
[[stages]]
kind = "prune"
amount = 0.3
"""
TEACHER = '[stages.distillation]\nteachers = ["foreign.netpress"]\n[[stages]]'


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that names a class in the current folder, whose module leaves the file `ran` when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "foreign_net.py").write_text(OWN_CLASS)
    network = create("import", MODEL, seed=0)
    network.facts["dataset"] = "digits"
    save(network, tmp_path / "foreign.netpress")
    forget(tmp_path)
    yield tmp_path / "foreign.netpress"
    sys.modules.pop("foreign_net", None)


def forget(folder: Path) -> None:
    """As if this were a new process."""
    sys.modules.pop("foreign_net", None)
    (folder / "ran").unlink(missing_ok=True)


def write_recipe(folder: Path, model: str, more: str = "", teacher: bool = False) -> Path:
    text = RECIPE.replace("MODEL", model) + more
    if teacher:
        text = text.replace('[[stages]]\nkind = "prune"', TEACHER + '\nkind = "prune"')
    (folder / "mine.toml").write_text(text)
    return folder / "mine.toml"


FROM_FILE = 'network = "foreign.netpress"'
PLAIN = 'family = "c_efficientnet"\npreset = "tiny"'
SWEEP = "[sweep]\nseeds = [1, 2]\nevery_stage = true\n"


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "foreign.netpress"],
        ["evaluate", "foreign.netpress", "--exact"],
        ["score", "foreign.netpress"],
        ["apply", "prune", "foreign.netpress", "--set", "amount=0.5", "--out", "x.netpress"],
        ["sensitivity", "foreign.netpress"],
        ["export", "onnx", "foreign.netpress", "--out", "x.onnx"],
    ],
    ids=lambda words: "-".join(words[:2]),
)
def test_commands_import_nothing_unless_told(words: list[str], foreign: Path, call: Call, tmp_path: Path) -> None:
    code, _, err = call(*words)
    assert (code, "--allow-import" in err) == (2, True), err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("sweep", [False, True], ids=["one", "sweep"])
def test_recipes_import_no_class_that_a_file_names(
    command: str, sweep: bool, foreign: Path, call: Call, tmp_path: Path
) -> None:
    write_recipe(tmp_path, FROM_FILE, SWEEP if sweep else "")
    code, _, err = call(command, "mine.toml")
    assert (code, "--allow-import" in err) == (2, True), err
    assert not (tmp_path / "ran").exists()
    code, _, err = call(command, "mine.toml", "--allow-import")
    assert code == 0, err
    assert (tmp_path / "ran").exists()


def test_teachers_import_nothing_unless_told(foreign: Path, call: Call, tmp_path: Path) -> None:
    write_recipe(tmp_path, PLAIN, teacher=True)
    code, _, err = call("run", "mine.toml")
    assert (code, "--allow-import" in err) == (2, True), err
    assert not (tmp_path / "ran").exists()
    code, _, err = call("run", "mine.toml", "--allow-import")
    assert code == 0, err


def test_from_python_too(foreign: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, FROM_FILE)
    for use in (netpress.load, netpress.evaluate):
        with pytest.raises(UserError, match="allow_import"):
            use(foreign)
    with pytest.raises(UserError, match="allow_import"):
        netpress.run(path)
    assert describe(foreign)["architecture"]["settings"]["target"] == "foreign_net:Net"
    assert not (tmp_path / "ran").exists()
    assert netpress.run(path, allow_import=True).network.architecture.family == "import"
    assert 0 <= netpress.evaluate(foreign, allow_import=True).accuracy <= 1


def test_a_recipes_own_class_needs_no_leave_and_its_stages_no_other(foreign: Path, call: Call, tmp_path: Path) -> None:
    write_recipe(tmp_path, 'family = "import"\ntarget = "foreign_net:Net"')
    code, _, err = call("run", "mine.toml")
    assert code == 0, err
    folder = tmp_path / "runs" / "mine"
    (folder / "02-prune" / "done.json").unlink()
    forget(tmp_path)
    assert call("run", "mine.toml")[0] == 0  # goes on from the first stage's file
    # A file in the run's folder that names another class was not made by this run.
    (folder / "02-prune" / "done.json").unlink()
    save(create("import", MODEL | {"target": "foreign_net:Other"}, seed=0), folder / "01-train" / "network.netpress")
    code, _, err = call("run", "mine.toml")
    assert (code, "foreign_net:Other" in err, "--allow-import" in err) == (2, True, True), err


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("foreign_net:Missing", "defines no Missing"),
        ("foreign_net:make", "is a function"),
        ("foreign_nett:Net", "there is no module foreign_nett"),
        ("foreign_net.deeper:Net", "cannot be imported"),
        ("foreign net:Net", "package.module:Class"),
        (".foreign_net:Net", "package.module:Class"),
        ("foreign_net:", "package.module:Class"),
        ("broken_net:Net", "cannot be read as Python"),
    ],
)
def test_what_cannot_be_the_class_is_known_before_its_module_runs(
    target: str, told: str, foreign: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken_net.py").write_text("class Net(\n")
    with pytest.raises(UserError, match="model import") as caught:
        parse_model(f'import:target="{target}"').build()
    assert told in str(caught.value)
    if target != "foreign_net.deeper:Net":  # whether a module makes others can only be known by running it
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "from torch.nn import Identity as Net",
        "import torch\nif True:\n    Net = torch.nn.Identity",
        "from torch.nn import *\nNet = Identity",
        "import torch\nglobals()['N' + 'et'] = torch.nn.Identity",
        "import torch\ndef __getattr__(name):\n    return torch.nn.Identity",
        "import torch\nfor Net in [torch.nn.Identity]:\n    pass",
    ],
)
def test_classes_made_in_any_way_are_found(text: str, foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign_net.py").write_text(text)
    assert type(parse_model("import:target=foreign_net:Net").build()).__name__ == "Identity"


CHAIN = """
name = "pair"
[data]
dataset = "digits"
image_size = 16
train_images = 64
[[stages]]
kind = "train"
epochs = 1
[networks.teacher]
model = FIRST
[networks.pupil]
model = SECOND
[networks.pupil.stages.0.distillation]
teachers = ["teacher"]
[networks.pruned]
model = { network = "pupil" }
[[networks.pruned.stages]]
kind = "prune"
amount = 0.3
"""
OWN = '{ family = "import", target = "foreign_net:Net" }'
KNOWN = '{ family = "resnet", blocks = [1], width = 4 }'


@pytest.mark.slow
def test_a_chain_of_ones_own_class_needs_no_leave(foreign: Path, call: Call, tmp_path: Path) -> None:
    """Its networks are files, too, but the recipe itself names the class that they are built by."""
    for first, second in ((OWN, OWN), (OWN, KNOWN), (KNOWN, OWN)):
        path = tmp_path / "pair.toml"
        path.write_text(CHAIN.replace("FIRST", first).replace("SECOND", second), encoding="utf-8")
        assert call("plan", path)[0] == 0
        code, _, err = call("run", path, "--out", "out", "--fresh")
        assert code == 0, err
        assert call("run", path, "--out", "out")[0] == 0  # what is done is read again
        family = describe(tmp_path / "out" / "network.netpress")["architecture"]["family"]
        assert family == ("import" if second == OWN else "resnet")


@pytest.mark.slow
def test_a_chain_does_not_give_leave_to_files_of_others(foreign: Path, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "pair.toml"
    begins = CHAIN.replace("FIRST", '{ network = "foreign.netpress" }').replace("SECOND", KNOWN)
    learns = CHAIN.replace("FIRST", KNOWN).replace("SECOND", KNOWN).replace('["teacher"]', '["foreign.netpress"]')
    for text, network in ((begins, "teacher"), (learns, "pupil")):
        path.write_text(text, encoding="utf-8")
        forget(tmp_path)
        for command in ("plan", "run"):
            code, _, err = call(command, path)
            assert code == 2 and f"network {network}: " in err and "--allow-import" in err
        assert not (tmp_path / "ran").exists() and not (tmp_path / "runs").exists()
        code, _, err = call("run", path, "--allow-import", "--out", network)
        assert code == 0, err
