"""What the README and the docs tell people to type works, and the demo is as good as it says."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netpress.data.digits import read_digits
from netpress.recipe.reading import shipped
from netpress.recipe.schema import check_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The run that `make demo` makes, in an empty folder."""
    recipe = re.search(r"netpress run (\S+) --out runs/demo", (ROOT / "Makefile").read_text())
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "netpress", "run", recipe[1], "--out", "runs/first"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo(demo):
    folder, out = demo
    figures = json.loads((folder / "runs/first/score.json").read_text())
    assert figures["accuracy"] >= 0.97
    layers = figures["layers"]
    weights = json.loads((folder / "runs/first/02-prune/done.json").read_text())
    assert weights["nonzeros"] == weights["weights"] - int(0.6 * (weights["weights"] - 1)) - 1
    assert sum(layer["weights"] for layer in layers) == weights["weights"]
    words = [line.split()[0] for line in out.strip().splitlines()[-8:]]
    assert words == ["accuracy", "parameters", "operations", "score", "flash", "RAM", "products", "report"]
    assert (folder / "runs/first/report.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readme_program(demo, monkeypatch, capsys):
    folder, _ = demo
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(folder)
    exec(compile(program, "README.md", "exec"), {})  # the run is done already, so it takes seconds
    accuracy, score = map(float, capsys.readouterr().out.split()[-2:])
    figures = json.loads((folder / "runs/first/score.json").read_text())
    assert accuracy == pytest.approx(figures["accuracy"])
    assert score == pytest.approx(figures["score"])


def programs_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in PAGES if programs_of(page)], ids=lambda page: page.name)
def test_python_in_the_docs_runs(page, demo, monkeypatch, tmp_path):
    """Every block of Python of a page, in order, beside a run and a photo: each goes on from the one before."""
    folder, _ = demo
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("demo", "first"):
        (tmp_path / "runs" / name).symlink_to(folder / "runs/first")
    Image.new("RGB", (40, 30)).save("photo.png")
    paint_folder(tmp_path / "photos", 12, 4)
    names: dict[str, object] = {}
    for program in programs_of(page):
        exec(compile(program, page.name, "exec"), names)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [1, 2])
def test_the_programs_that_classify_one_image_are_right(number, demo, monkeypatch, tmp_path, capsys):
    folder, _ = demo
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(folder / "runs/first")
    program = programs_of(ROOT / "docs" / "start.md")[number]
    test = read_digits(32).test
    right = 0
    for pixels, label in zip(test.images[:20], test.labels[:20], strict=True):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save("photo.png")
        exec(compile(program, "start.md", "exec"), {})
        right += capsys.readouterr().out.strip() == str(int(label))
    assert right >= 18  # the demo's accuracy is 97% and more


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_folder_of_images_to_an_answer(call, tmp_path):
    """The commands of docs/start.md, as they stand, on photographs of their kind: squares and discs on noise."""
    text = (ROOT / "docs" / "start.md").read_text(encoding="utf-8").split("## Use your own images")[1]
    lines = re.findall(r"^ {4}netpress .*$", text.split("## Use CIFAR")[0].replace("\\\n", " "), re.MULTILINE)
    commands = [line.split() for line in lines]
    assert [words[1] for words in commands] == ["run", "predict", "evaluate"]
    random = paint_folder(tmp_path / "photos", 30, 10)
    paint(random, "light").save(tmp_path / "new.jpg")
    for words in commands:
        code, out, err = call(*words[1:])
        assert code == 0, err
        if words[1] == "predict":
            assert out.splitlines()[1].split()[:2] == ["new.jpg", "light"]
    assert re.search(r"^accuracy +(100\.00|9\d\.\d\d)% of 20 test images", out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler called cc")
def test_from_a_folder_of_images_to_checked_c(call, tmp_path, monkeypatch):
    """The three commands of docs/speed.md, as they stand, but that the last measures for a moment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8").split("## The check")[0]
    commands = [line.split() for line in re.findall(r"^ {4}netpress (.*)$", text, re.MULTILINE)]
    assert [words[0] for words in commands] == ["run", "export", "time"]
    random = paint_folder(tmp_path / "photos", 30, 10)
    paint(random, "light").save(tmp_path / "new.jpg")
    for words in commands:
        code, out, err = call(*words, *(["--seconds", "0.2"] if words[0] == "time" else []))
        assert code == 0, err
        if words[0] == "export":
            assert "the reference's logits, bit for bit, of 20 test images" in out
            assert re.search(r"^accuracy +(100\.00|9\d\.\d\d)% of 20 test images, in C$", out, re.MULTILINE)
    assert re.search(r"^ +1 +C, \w+ ", out, re.MULTILINE) and "processor" in out
    code, out, err = call("predict", "runs/photos", "new.jpg")
    assert code == 0 and "computed    by C, " in out and out.splitlines()[1].split()[:2] == ["new.jpg", "light"]


def paint_folder(folder: Path, train: int, test: int) -> np.random.Generator:
    """A data set of so many photographs of each of two classes; what draws more of them."""
    random = np.random.default_rng(1)
    for part, count in (("train", train), ("test", test)):
        for name in ("dark", "light"):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                paint(random, name).save(folder / part / name / f"{index}.jpg")
    return random


def paint(random: np.random.Generator, name: str) -> Image.Image:
    """A photograph of noise, 90 x 70 pixels; in the middle lies something dark or light."""
    pixels = random.integers(80, 176, (70, 90, 3))
    top, left = random.integers(5, 25, 2)
    pixels[top : top + 40, left : left + 50] += -70 if name == "dark" else 70
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    import typer

    from netpress.cli import app

    commands = typer.main.get_command(app).commands
    text = page.read_text()
    blocks = (
        re.findall(r"^ {4}.*$", text, re.MULTILINE)
        + "".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)).splitlines()
    )
    for line in [line.strip().removeprefix("$ ") for line in blocks]:
        words = line.split("#")[0].split()[1:]
        if not line.startswith("netpress ") or not words or words[0].startswith("-"):
            continue
        assert words[0] in commands, f"{page.name}: {line}"
        command, rest = commands[words[0]], words[1:]
        while hasattr(command, "commands"):  # a group, such as export
            command, rest = command.commands[rest[0]], rest[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0].rstrip("]") in options, f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_whole_recipes_in_the_docs_are_valid(page):
    for text in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
        values = tomllib.loads(text)
        if {"name", "model", "stages"} <= values.keys():
            check_recipe(values, page.name)


def test_recipe_headers_give_their_command():
    for name in shipped():
        text = (ROOT / "recipes" / f"{name}.toml").read_text()
        command = "search recipe" if "\n[search]\n" in text else "run"
        assert f"netpress {command} {name}" in text.split("name =")[0]
