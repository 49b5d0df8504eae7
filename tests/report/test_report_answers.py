"""The page of a run on classes, mistakes and pictures: what stands there, and that whatever stands there is a page."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_report import Page, change, write_json, write_run

from netpress.report import make_report
from netpress.report.answers import read_answers
from netpress.report.confusion import draw_confusion, tabulate_pairs

NAMES = ["cat", "dog", "hen"]
JUDGEMENT: dict[str, Any] = {
    "images": 30,
    "stages": {
        "01-train": {"right": 24, "images": 30, "interval": [0.627, 0.905], "flash_bytes": 409_600, "ram_bytes": 2048}
        | {"nonzero_multiply_adds": 37_000_000, "score": 0.0089},
        "02-prune": {"right": 21, "images": 30, "interval": [0.521, 0.833], "flash_bytes": 163_840, "ram_bytes": 2048}
        | {"nonzero_multiply_adds": 15_000_000, "score": 0.0055},
    },
    "classes": [
        {"name": "cat", "right": 4, "images": 10, "interval": [0.168, 0.687]},
        {"name": "dog", "right": 9, "images": 10, "interval": [0.596, 0.982]},
        {"name": "hen", "right": 8, "images": 10, "interval": [0.49, 0.943]},
    ],
    "confusion": [[0, 0, 4], [0, 1, 5], [0, 2, 1], [1, 0, 1], [1, 1, 9], [2, 1, 2], [2, 2, 8]],
    "calibration": {
        "error": 0.123,
        "bins": [
            {"above": 0.4, "up_to": 0.5, "images": 0, "probability": None, "accuracy": None},
            {"above": 0.5, "up_to": 0.6, "images": 10, "probability": 0.55, "accuracy": 0.4},
            {"above": 0.9, "up_to": 1.0, "images": 20, "probability": 0.97, "accuracy": 0.85},
        ],
    },
    "of_cosines": False,
    "mistakes": [
        {"image": "test/cat/3.jpg", "label": 0, "predicted": 1, "probability": 0.987},
        {"image": 17, "label": 2, "predicted": 1, "probability": 0.9},
    ],
}


def write_pictures(folder: Path, classes: list[str], columns: int, side: int = 8) -> None:
    """Sheets of noise, in the form in which a run draws them."""
    random = np.random.default_rng(0)
    for name, rows, across in (("examples", len(classes), columns), ("augmented", len(classes), columns)):
        save(folder / "pictures" / f"{name}.png", random.integers(0, 256, (rows * side, across * side, 3)))
    save(folder / "pictures" / "mistakes.png", random.integers(0, 256, (side, 2 * side, 3)))
    facts = {"classes": classes, "shown": [columns] * len(classes), "of": len(classes), "side": side}
    write_json(folder / "pictures" / "examples.json", facts | {"size": [3, side, side], "augmented_in": "01-train"})


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "example")
    write_json(folder / "judgement.json", JUDGEMENT)
    write_pictures(folder, NAMES, 2)
    return folder


def read(folder: Path) -> Page:
    return Page(make_report(folder).read_text(encoding="utf-8"))


def test_stages_classes_and_mistakes_are_told(run: Path) -> None:
    text = read(run).text
    for expected in (
        "80.00% 62.7 to 90.5%",  # the first stage on the test images
        "70.00% 52.1 to 83.3%",
        "400.0 KiB 2.0 KiB 37 M 0.00890",
        "160.0 KiB",
        "52.1 to 83.3% for other images of the kind, at 95% (Wilson)",
        "on the 30 test images",
        "cat 10 4 40.0% 17 to 69% dog (5), hen (1)",
        "cat dog 5 50.0%",  # the pair confused most
        "dog 98.7% is cat test/cat/3.jpg",
        "dog 90.0% is hen test image 17",
        "12.3%",  # the calibration error
        "2 bins with images",
    ):
        assert expected in text, expected
    assert text.index("cat 10 4") < text.index("hen 10 8") < text.index("dog 10 9")  # the least accurate first


def test_pictures_stand_in_the_page_as_they_are_on_the_sheets(run: Path) -> None:
    page = read(run)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2 * len(NAMES) + 2
    assert all(picture["alt"] and picture["width"] and picture["height"] for picture in pictures)
    sheets = {
        name: np.asarray(Image.open(run / "pictures" / f"{name}.png")) for name in ("examples", "augmented", "mistakes")
    }
    expected = [sheets[name][row * 8 : row * 8 + 8] for row in range(3) for name in ("examples", "augmented")]
    expected += [sheets["mistakes"][:, :8], sheets["mistakes"][:, 8:]]
    for picture, pixels in zip(pictures, expected, strict=True):
        assert np.array_equal(np.asarray(decode(str(picture["src"]))), pixels)
    assert pictures[0]["alt"] == "2 training images of cat"
    assert pictures[-2]["alt"] == "A test image of cat, taken for dog"


def decode(source: str) -> Image.Image:
    import base64

    head, _, data = source.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_the_page_is_sound(run: Path) -> None:
    """No request to anywhere, ids but once and each link to one of them, headings of tables, focus for what scrolls."""
    page = read(run)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    labels = [attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes]
    assert set(labels) <= set(ids)
    sources = [str(attributes["src"]) for _, attributes in page.tags if "src" in attributes]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert page.count("caption") == page.count("table") == page.count("thead")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.drawings)


def test_a_run_of_an_earlier_version_has_a_page(tmp_path: Path) -> None:
    text = read(write_run(tmp_path / "old")).text
    assert "Test accuracy 61.02%" in text and "Wilson" not in text
    assert "What goes in" not in text and "Classes and mistakes" not in text


@pytest.mark.parametrize(
    "judgement",
    [
        {"stages": 3, "classes": "?", "confusion": {}, "calibration": [], "mistakes": None},
        {"stages": {"01-train": {"right": 31, "images": 30}, "02-prune": []}, "classes": [{"name": 3}]},
        JUDGEMENT | {"confusion": [[0, 0], [9, 9, 9], [0, 1, "x"], [-1, 0, 1], 3], "mistakes": [{"label": 7}, 3]},
        JUDGEMENT | {"classes": [{"name": "<b>x</b>", "right": 11, "images": 10, "interval": [2, "?"]}] * 3},
        JUDGEMENT | {"calibration": {"error": "?", "bins": [{"images": 1, "above": 5}, 3]}, "of_cosines": "?"},
    ],
)
def test_whatever_stands_there_is_a_page(judgement: Any, run: Path) -> None:
    write_json(run / "judgement.json", judgement)
    html = make_report(run).read_text(encoding="utf-8")
    assert "<b>x" not in html and "Score card" in Page(html).text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("examples.json", b"{", False),
        ("examples.json", b'{"classes": ["a"], "shown": [2], "side": 0}', False),
        ("examples.json", b'{"classes": ["a"], "shown": ["2"], "side": 8}', False),
        ("examples.png", b"\x89PNG no", True),
        ("mistakes.png", b"", True),
    ],
)
def test_damaged_pictures_are_left_out(name: str, content: bytes, told: bool, run: Path) -> None:
    (run / "pictures" / name).write_bytes(content)
    text = read(run).text
    assert ("is no sound PNG" in text) == told
    assert "dog 98.7% is cat" in text


def test_a_hundred_classes_are_readable_and_bounded(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    names = [f"class_{number}" for number in range(100)]
    random = np.random.default_rng(0)
    given = random.integers(0, 100, (100, 30))
    matrix = [np.bincount(row, minlength=100) for row in given]
    classes = [{"name": name, "right": int(matrix[i][i]), "images": 30} for i, name in enumerate(names)]
    pairs = [[i, int(j), int(row[j])] for i, row in enumerate(matrix) for j in row.nonzero()[0]]
    write_json(run / "judgement.json", JUDGEMENT | {"classes": classes, "confusion": pairs})
    write_pictures(run, names, 1, side=32)
    html = make_report(run).read_text(encoding="utf-8")
    text = Page(html).text
    assert "The 20 least accurate of 100 classes" in text and "The other 80 classes" in text
    assert len(html) < 1_500_000
    assert html.partition('class="plot confusion"')[2].partition("</figure>")[0].count("<path") <= 16  # one a colour


def test_a_cell_lies_where_its_classes_are() -> None:
    answers = read_answers(JUDGEMENT)
    drawn = str(draw_confusion(answers))
    assert drawn.count('class="across') == len(JUDGEMENT["confusion"])  # counts, of few classes
    told = tabulate_pairs(answers)
    assert told is not None
    assert [[cell.text for cell in row[:3]] for row in told.rows] == [
        ["cat", "dog", "5"],
        ["hen", "dog", "2"],
        ["cat", "hen", "1"],
        ["dog", "cat", "1"],
    ]
    assert "5 of 10 cat taken for dog" in drawn


def test_what_the_images_were_found_to_be_is_told(run: Path) -> None:
    data = {
        "classes": NAMES,
        "counts": {"train": [100, 40, 7], "validation": [10, 4, 1], "test": [10, 10, 10]},
        "files": 192,
        "skipped": {"count": 12, "examples": [{"path": "cat/<b>.jpg", "reason": "is no image"}]},
        "sizes": {"smallest": [10, 20], "median": [640, 480], "largest": [4000, 3000]},
        "modes": {"RGB": 190, "L": 2},
        "duplicates": {"groups": 1, "images": 2, "examples": [["cat/1.jpg", "cat/2.jpg"]]},
        "across_parts": {"pairs": 0, "examples": []},
        "warnings": ["uneven classes: <i>100</i> of cat"],
    }
    write_json(run / "data.json", data)
    text = read(run).text
    for expected in (
        "192 files; pixels, width x height: smallest 10 x 20, median 640 x 480, largest 4,000 x 3,000",
        "modes: RGB 190, L 2; 2 duplicates within a part; no test image is a training image, too.",
        "Images of each class and part: 147 train, 15 validation, 30 test",
        "uneven classes: <i>100</i> of cat",
        "dog 40 4 10",
        "all classes 147 15 30",
        "12 files skipped cat/<b>.jpg: is no image and 11 more",
        "cat/1.jpg = cat/2.jpg",
        "cat 100 to train on",
    ):
        assert expected in text, expected
    for broken in ({"classes": 3, "counts": []}, data | {"counts": {"train": ["x"]}, "sizes": None, "skipped": 3}):
        write_json(run / "data.json", broken)
        read(run)


def test_a_network_of_cosines_shows_no_calibration(run: Path) -> None:
    change(run / "judgement.json", lambda judgement: judgement | {"of_cosines": True})
    text = read(run).text
    assert "12.3%" not in text and "answers with cosines" in text


def test_pages_are_made_without_torch(run: Path, run_python: Any) -> None:
    code = (
        "import sys; from pathlib import Path; from netpress.report import make_report\n"
        f"make_report(Path({str(run)!r})); assert 'torch' not in sys.modules\n"
    )
    run_python(code)
    assert json.loads((run / "judgement.json").read_text()) == JUDGEMENT
