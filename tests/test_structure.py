"""The house rules that a machine can check: who imports whom, and what starting costs."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "netpress"

# A room imports only from rooms above it (CONTRIBUTING.md).
ROOMS = [
    "errors",
    "memory",
    "waiting",
    "interruption",
    "native",
    "settings",
    "files",
    "overrides",
    "folders",
    "devices",
    "console",
    "numerics",
    "data",
    "models",
    "description",
    "network",
    "network_data",
    "stage",
    "training",
    "compression",
    "scoring",
    "export",
    "report",
    "search",
    "recipe",
    "environment",
    "planning",
    "pipeline",
    "sweep",
    "single",
    "api",
    "cli",
    "__main__",
]


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("netpress.")}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_flow_one_way(path):
    room = room_of(path)
    if room == "__init__":
        return
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    assert imported_rooms(path) <= allowed


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_stay_short_and_safe(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
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
        names = [re.split(r"[<>=]", package)[0] for package in extras[extra]]
        assert any(re.search(rf"^\s*(import|from) {name}\b", source, re.MULTILINE) for name in names), extra


def test_no_gpu_packages_in_a_cpu_environment():
    import importlib.metadata as metadata

    import torch

    if torch.version.cuda is None:
        assert not [d.name for d in metadata.distributions() if (d.name or "").startswith("nvidia-")]
