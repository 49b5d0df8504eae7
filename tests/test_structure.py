"""The house rules that a machine can check: who imports whom, and what starting costs."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "netpress"

TESTS = Path(__file__).parent
CONTRIBUTING = (TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
DRAWING = CONTRIBUTING.partition("```rooms\n")[2]
# A room imports only from rooms of earlier lines, and from its own line.
FLOORS = [
    [word.rstrip("/") for word in line[:32].split("  ")[0].split()] for line in DRAWING.partition("```")[0].splitlines()
]
FLOOR = {room: place for place, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {".".join(("netpress", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in FILES}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}
FACES = {"netpress", "netpress.__main__"}  # of the whole package
LOOSE = 8  # modules at the top, the package's face and __main__ among them


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a file names in an import, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys() - {"netpress"}


IMPORTS = {name: imports_of(path) - {name} for name, path in MODULES.items()}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_the_drawing_has_every_room():
    rooms = {room_of(name) for name in MODULES if name not in FACES and not name.startswith("netpress.recipes")}
    assert rooms == FLOOR.keys()
    assert len([path for path in FILES if path.parent == SOURCE]) <= LOOSE


@pytest.mark.parametrize("name", sorted(MODULES.keys() - FACES))
def test_imports_flow_one_way(name):
    above = {other for other in IMPORTS[name] if FLOOR[room_of(other)] > FLOOR[room_of(name)]}
    assert not above, f"{name} imports from rooms below its own: {', '.join(sorted(above))}"


def test_no_files_import_each_other():
    """Not in a circle either, nor inside a function. A package's face only hands on what its files define."""
    faces = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    left = {name: imports - faces for name, imports in IMPORTS.items() if name not in faces}
    while free := {name for name, imports in left.items() if not imports & left.keys()}:
        left = {name: imports for name, imports in left.items() if name not in free}
    assert not left, f"these import each other, or stand on some that do: {', '.join(sorted(left))}"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_stay_short_and_safe(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            # A command's options are a table; its body is not.
            assert node.end_lineno - node.body[0].lineno < 60, f"{node.name} is too long"
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & {"torchvision", "timm"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_text_is_read_and_written_as_utf_8(path):
    """Not as the system's language has it: a recipe with an accent must resume on another computer."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        owner = getattr(getattr(node.func, "value", None), "id", "")
        modes = [entry.value for entry in node.args if isinstance(entry, ast.Constant) and isinstance(entry.value, str)]
        keywords = {entry.arg for entry in node.keywords}
        text = name in ("read_text", "write_text", "open") and owner not in ("os", "Image", "tarfile")
        if text and not (name == "read_text" and owner == "") and not any("b" in mode for mode in modes):
            assert "encoding" in keywords, f"line {node.lineno}: {name} without an encoding"
        assert not keywords & {"text", "universal_newlines"} or "encoding" in keywords or name != "run", node.lineno


def test_files_of_tests_stay_short():
    long = [path.name for path in TESTS.rglob("*.py") if len(path.read_text(encoding="utf-8").splitlines()) > 400]
    assert not long


def test_tests_lie_in_the_rooms_of_the_source():
    rooms = {path.name for path in TESTS.iterdir() if path.is_dir() and list(path.glob("test_*.py"))}
    assert rooms <= FLOOR.keys()


def test_the_questions_of_a_newcomer_lead_somewhere():
    """Each path in the table of CONTRIBUTING.md is there, and holds a word of its question."""
    rows = re.findall(r"^\| (.*\?) \| (.*) \|$", CONTRIBUTING, re.MULTILINE)
    assert len(rows) >= 7
    words = ["cutmix", "conv", "interrupt", "mask", "set", "stage", "export"]
    for (question, answer), word in zip(rows, words, strict=False):
        place = SOURCE / re.findall(r"`([\w/.]+)`", answer)[0]
        files = place.rglob("*.py") if place.is_dir() else [place]
        assert any(word in path.read_text(encoding="utf-8").lower() for path in files), question


def test_help_imports_no_torch(run_python):
    code = (
        "import sys; sys.argv = ['netpress', '--help']\n"
        "from netpress.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "import netpress\nassert 'torch' not in sys.modules\n"
    )
    said = run_python(code)
    for command in ("run", "plan", "evaluate", "score", "apply", "report", "new", "list"):
        assert command in said


def test_every_extra_is_used():
    """An extra whose packages nothing imports would only cost those who install it."""
    import tomllib

    extras = tomllib.loads((SOURCE.parent.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    source = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    for extra in set(extras) - {"dev"}:
        names = [re.split(r"[<>=]", package)[0].replace("-", "_") for package in extras[extra]]
        assert any(re.search(rf"^\s*(import|from) {name}\b", source, re.MULTILINE) for name in names), extra


def test_no_gpu_packages_in_a_cpu_environment():
    import importlib.metadata as metadata

    import torch

    if torch.version.cuda is None:
        assert not [d.name for d in metadata.distributions() if (d.name or "").startswith("nvidia-")]
