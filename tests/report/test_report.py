"""The report of a run: complete, partial and hostile run folders."""

import json
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from netpress.errors import UserError
from netpress.report import make_report
from netpress.report.board import ENTRIES
from netpress.report.curves import CHARTS

RECIPE = """
name = "example"
description = "C-EfficientNet of small width on CIFAR-100, trained and pruned in two rounds"
seed = 7
[data]
dataset = "cifar100"
validation = 0.1
select_on = "validation"
[model]
family = "c_efficientnet"
widths = "v1"
expansion = 3.0
[[stages]]
kind = "train"
epochs = 12
batch_size = 128
[stages.optimizer]
learning_rate = 0.1
[[stages]]
kind = "prune"
amount = 0.6
rounds = 2
[stages.train]
epochs = 4
[score]
convention = "official"
"""
WIDTHS = [(32, 16, 32), (16, 16, 32), (16, 32, 16), (32, 48, 16), (48, 72, 8), (72, 88, 4), (88, 106, 4)]


def write_run(folder: Path) -> Path:
    """A run folder as a finished run leaves it, with smooth made-up curves."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE)
    environment = {
        "seed": 7,
        "versions": {"python": "3.11.2", "netpress": "0.1.0", "torch": "2.13.0"},
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "device": "cpu",
        "machine": "Example processor, 2 cores, Linux",
        "threads": 2,
        "started": "2026-01-31T12:00:00+0000",
        "data_checksum": "a" * 64,
    }
    write_json(folder / "environment.json", environment)
    lines = [epoch_line("01-train", epoch, 12, 0.0) for epoch in range(1, 13)]
    for number in (1, 2):
        left = round(450_456 * (1 - 0.3 * number))
        before, pruned, trained = 0.62, 0.62 - 0.1 * number, 0.615
        lines.append(
            {"stage": "02-prune", "round": number, "amount": 0.3 * number, "weights": 450_456, "left": left}
            | {"accuracy_before": before, "accuracy_pruned": pruned, "accuracy_trained": trained}
        )
    for number in (1, 2):
        lines += [epoch_line(f"02-prune/round-{number}", epoch, 4, 1.0) for epoch in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, accuracy, nonzeros in (("01-train", 0.6214, 450_456), ("02-prune", 0.6158, 180_182)):
        (folder / name).mkdir()
        done = {"kind": name[3:], "accuracy": accuracy, "weights": 450_456, "nonzeros": nonzeros, "seconds": 1234.5}
        write_json(folder / name / "done.json", done | {"select_on": "validation"})
    score = {
        "accuracy": 0.6102,
        "top5": 0.881,
        "convention": "official",
        "params": 108_571.25,
        "operations": 26_177_231.5,
        "score": 0.0054598,
        "params_score": 0.0029636,
        "operations_score": 0.0024962,
        "storage_bits": 3_023_296.0,
        "assumed": ["weights at 16 bits"],
        "notes": ["a mask of one bit a weight"],
        "dataset": "cifar100",
        "loss": 1.4321,
        "select_on": "validation",
        "layers": example_layers(),
    }
    write_json(folder / "score.json", score)
    return folder


def epoch_line(stage: str, epoch: int, epochs: int, progress: float) -> dict[str, Any]:
    done = min(1.0, progress + epoch / epochs)
    return {
        "stage": stage,
        "epoch": epoch,
        "learning_rate": 0.05 * (1 + math.cos(math.pi * epoch / epochs)) + 0.0005,
        "loss": 4.6 - 3.1 * done**0.7 + 0.05 * math.sin(7.0 * epoch),
        "train_accuracy": 0.55 * done**0.8,
        "selection_accuracy": 0.62 * done**0.75 + 0.01 * math.sin(5.0 * epoch),
        "selection_loss": 4.5 - 3.0 * done**0.7,
        "regularizer": 0.5 / epoch,
        "images_per_second": 1450 + 30 * math.sin(3.0 * epoch),
        "seconds": 31.0,
    }


def example_layers() -> list[dict[str, Any]]:
    rows = [layer_row("stem", "conv", 864, 0.82, 1024)]
    for index, (inputs, outputs, side) in enumerate(WIDTHS):
        wide, places = 3 * inputs, side * side
        rows += [
            layer_row(f"blocks.{index}.expand", "conv", inputs * wide, 0.31, places),
            layer_row(f"blocks.{index}.expand.act", "activation", 0, 0.0, places * wide // 100),
            layer_row(f"blocks.{index}.depthwise", "depthwise", 9 * wide, 0.75, places),
            layer_row(f"blocks.{index}.project", "conv", wide * outputs, 0.37, places),
            layer_row(f"blocks.{index}.add", "add", 0, 0.0, places * outputs // 100),
        ]
    rows.append(layer_row("stem.norm", "batch_norm", 0, 0.0, 0) | {"uncounted": "folded into stem.conv"})
    return [*rows, layer_row("classifier", "linear", 10_600, 0.94, 1)]


def layer_row(name: str, kind: str, weights: int, density: float, places: int) -> dict[str, Any]:
    nonzeros = round(weights * density)
    products = nonzeros * places if weights else places * 100
    return {
        "name": name,
        "kind": kind,
        "weights": weights,
        "nonzeros": nonzeros,
        "storage_bits": 16 * nonzeros,
        "mask_bits": weights,
        "params": (16 * nonzeros + weights) / 32,
        "multiplications": products,
        "additions": products,
        "operations": 1.5 * products,
    }


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "example")


class Page(HTMLParser):
    """What a page is made of; complains of tags that do not close."""

    EMPTY = frozenset({"meta", "line", "polyline", "link", "br", "input", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def drawings(self) -> list[dict[str, str | None]]:
        """The attributes of every drawing; the marks in legends are none."""
        return [attributes for tag, attributes in self.tags if tag == "svg" and "aria-hidden" not in attributes]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def read_page(folder: Path) -> Page:
    path = make_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_a_finished_run_is_told_whole(run: Path) -> None:
    page = read_page(run)
    for expected in (
        "61.02%",  # accuracy on the test images
        "88.10%",  # top-5
        "108,571.2",  # parameters, counted in halves and more
        "26.18 M",  # operations
        "0.00546",  # score
        "0.00296 for parameters + 0.00250 for operations, by the official convention",
        "assumed: weights at 16 bits",
        "a mask of one bit a weight",
        "3.023 M",  # storage bits
        "folded into stem.conv",
        "62.14%",  # after 01-train
        "c_efficientnet (widths v1, expansion 3) · on cifar100 · seed 7",
        "begun 2026-01-31 12:00 +0000",
        "180,182",  # non-zero weights after 02-prune
        "60.0%",  # its sparsity
        "20 min 34 s",  # its time
        "removes 60% of the weights in 2 rounds then trains 4 epochs",  # asked of 02-prune
        "Example processor, 2 cores, Linux",
        "0123456789ab...",
        "loss 1.432, on the test images of cifar100",
        "torch 2.13.0",
        "blocks.3.depthwise",
        'kind = "prune"',  # recipe.toml itself
    ):
        assert expected in page.text, expected
    assert "not finished" not in page.text
    assert len(page.drawings) == len(CHARTS) + 1  # and the curve of compression


def test_the_page_needs_no_network(run: Path) -> None:
    page = read_page(run)
    html = (run / "report.html").read_text()
    assert "://" not in html
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all("src" not in attributes for _, attributes in page.tags)
    policy = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv")]
    assert policy and policy[0] is not None and policy[0].startswith("default-src 'none'")


def test_drawings_and_tables_can_be_read_aloud(run: Path) -> None:
    page = read_page(run)
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.drawings)
    assert page.count("caption") == page.count("table")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_cards_beside_the_first_have_a_line_each(run: Path) -> None:
    assert "counted in other ways" not in make_report(run).read_text()
    wave = {"convention": "wave", "params": 338_000.0, "operations": 391_200_000, "score": 0.0467312, "layers": []}
    cards = {"wave": wave | {"assumed": ["parameters of 9 bits"]}, "broken": 3, "odd": {"score": "?", "assumed": None}}
    change(run / "score.json", lambda score: score | {"beside": cards})
    text = read_page(run).text
    for told in ("counted in other ways", "338,000", "391,200,000", "0.04673", "parameters of 9 bits", "0.00546"):
        assert told in text
    assert "broken" not in text
    change(run / "score.json", lambda score: score | {"beside": "?"})
    assert "counted in other ways" not in make_report(run).read_text()


def test_rounds_of_a_pruning_have_their_table(run: Path) -> None:
    page = read_page(run)
    assert "Steps of 02-prune" in page.text
    assert "accuracy pruned" in page.text and "52.00%" in page.text and "315,319" in page.text


def test_the_run_stands_among_the_entries_of_2019_by_its_score(run: Path) -> None:
    text = read_page(run).text
    board = text[text.index("Beside the entries of 2019") :]
    # Each name once, in the order of the scores; .00546 lies between KAIST's two entries.
    places = [board.index(entry.name) for entry in ENTRIES]
    assert places == sorted(places)
    assert board.index("KAIST AI, v1") < board.index("this run 0.00546") < board.index("KAIST AI, v2")
    assert "would not have counted" in board  # 61% is below the gate


def test_another_data_set_has_no_place_on_the_board(run: Path) -> None:
    change(run / "score.json", lambda score: score | {"dataset": "digits"})
    assert "2019" not in read_page(run).text


def test_an_entry_above_the_gate_is_not_told_off(run: Path) -> None:
    change(run / "score.json", lambda score: score | {"accuracy": 0.8007})
    text = read_page(run).text
    assert "Beside the entries of 2019" in text and "would not have counted" not in text


def change(path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    write_json(path, edit(json.loads(path.read_text())))


def test_a_run_under_way_says_how_far_it_is(run: Path) -> None:
    (run / "score.json").unlink()
    (run / "02-prune" / "done.json").unlink()
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"stage": "02-prune/round-3", "epo')  # a line being written
    text = read_page(run).text
    assert "not finished" in text and "1 of 2 stages done" in text and "under way" in text
    assert "There is no score card yet" in text
    assert "could not be read" not in text  # a cut last line is no damage
    assert "61.02%" not in text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    text = read_page(folder).text
    assert "0 of 2 stages done" in text and text.count("not begun") == 2
    assert "No epoch has been logged" in text and "environment.json is missing" in text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("score.json", '{"accuracy": 0.9', "score.json cannot be read"),
        ("score.json", "[1, 2]", "score.json holds no JSON object"),
        ("environment.json", "\x00\x01", "environment.json cannot be read"),
        ("02-prune/done.json", "", "02-prune/done.json cannot be read"),
        ("metrics.jsonl", "{}\nnonsense\n[3]\n", "metrics.jsonl: 2 of 3 lines cannot be read"),
        ("recipe.toml", "name = [", "recipe.toml is not valid TOML"),
    ],
)
def test_a_damaged_piece_is_named_and_the_rest_is_shown(run: Path, name: str, content: str, told: str) -> None:
    (run / name).write_text(content)
    text = read_page(run).text
    assert told in text
    assert "01-train" in text


def test_figures_of_the_wrong_type_become_dashes(run: Path) -> None:
    hostile = {"accuracy": "high", "params": None, "operations": [], "score": True, "top5": {}, "layers": ["x", {}]}
    change(run / "score.json", lambda score: hostile)
    change(run / "02-prune" / "done.json", lambda done: {"accuracy": None, "weights": 0, "nonzeros": "?"})
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(
            '{"stage": 3, "epoch": "x"}\n{"stage": "02-prune", "epoch": 5, "loss": NaN, "accuracy": Infinity}\n'
        )
    html = make_report(run).read_text()
    Page(html)
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", html, flags=re.S).lower()


def test_texts_of_the_run_are_escaped_everywhere(run: Path) -> None:
    attack = "</td></script><script>alert('x')</script>&\""
    quoted = json.dumps(attack)
    text = (
        RECIPE.replace('"example"', quoted)
        .replace('"cifar100"', quoted)
        .replace("[stages.optimizer]", f"layers = {quoted}\n[stages.optimizer]")
    )
    (run / "recipe.toml").write_text(text)
    change(run / "environment.json", lambda environment: environment | {attack: attack})
    change(run / "score.json", lambda score: score | {"convention": attack, attack: attack})
    change(run / "score.json", lambda score: score | {"layers": [{"name": attack, "kind": attack, "weights": attack}]})
    with (run / "metrics.jsonl").open("a") as metrics:
        for line in ({"stage": f"02-prune/{attack}", "epoch": 1, "loss": 1.0}, {"stage": "02-prune", attack: attack}):
            metrics.write(json.dumps(line) + "\n")
    page = read_page(run)
    assert page.count("script") == 1
    assert page.text.count("alert('x')") >= 8


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: no such folder"):
        make_report(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no run \(there is no recipe\.toml in it\)"):
        make_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_the_same_when_made_again_elsewhere(run: Path, tmp_path: Path) -> None:
    first = make_report(run).read_text()
    moved = tmp_path / "moved" / run.name
    shutil.copytree(run, moved)
    assert make_report(moved).read_text() == first


# The parts
