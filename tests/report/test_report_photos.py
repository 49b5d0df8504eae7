"""A run on one's own photographs, from end to end: what its report, its figures and the commands say of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_report import Page, change, write_run

import netpress
from netpress.report import make_report
from netpress.runs.apply import apply_stage

pytestmark = pytest.mark.slow

Call = Callable[..., tuple[int, str, str]]
SHORT = ["data.dataset=folder", "data.image_size=16", "stages.0.epochs=1", "stages.1.train.epochs=2"]
PETS = ("cat", "dog", "hen", "pig", "yak")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the recipe `digits` on photographs of five kinds of animal."""
    place = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 2)):
        for name in PETS:
            folder = place / "pets" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(random.integers(0, 255, (9, 12, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    netpress.run("digits", data=place / "pets", out=place / "my-pets", set=SHORT)
    return place


def test_the_page_is_called_what_the_user_called_it(photos: Path) -> None:
    html = make_report(photos / "my-pets").read_text(encoding="utf-8")
    assert "<title>my-pets" in html and re.search(r"<h1>\s*my-pets\s*</h1>", html)
    text = Page(html).text
    assert "netpress run · the folder pets" in text
    assert "on the 10 test images of the folder pets" in text
    assert "Recipe digits: the first run" in text  # the recipe's words are said to be the recipe's


def test_nothing_is_claimed_of_five_classes_or_of_a_gate(photos: Path, call: Call) -> None:
    text = Page(make_report(photos / "my-pets").read_text(encoding="utf-8")).text
    figures = json.loads((photos / "my-pets" / "score.json").read_text())
    assert (figures["top5"], figures["gate"], figures["meets_gate"]) == (None, None, None)
    assert "top-5" not in text and "top5" not in text
    assert "meets gate" not in text and "gate 0.8" not in text
    assert "a folder of images has no track and no gate of its own" in text
    code, out, _ = call("evaluate", photos / "my-pets", "--data", photos / "pets")
    assert code == 0 and "accuracy" in out and "top-5" not in out
    code, out, _ = call("evaluate", photos / "my-pets", "--data", photos / "pets", "--json")
    assert json.loads(out[out.index("{") :])["top5"] is None
    code, out, _ = call("score", photos / "my-pets")
    assert code == 0
    assert not re.search(r"(meets|misses) the gate|cifar100 track", out)
    assert "relative to WideResNet-28-10" in out


def test_a_sweep_of_five_classes_has_no_top_five(photos: Path, call: Call) -> None:
    (photos / "two.toml").write_text('extends = "digits"\nname = "two"\n[sweep]\nseeds = [1, 2]\n')
    short = [word for change in SHORT for word in ("--set", change)]
    code, _, err = call("run", photos / "two.toml", "--data", photos / "pets", "--out", photos / "two", *short)
    assert code == 0, err
    page = (photos / "two" / "sweep.html").read_text(encoding="utf-8")
    assert "None" not in page
    rows = (photos / "two" / "sweep.csv").read_text().splitlines()
    assert [row.split(",")[rows[0].split(",").index("top5")] for row in rows[1:]] == ["", ""]


def test_figures_of_earlier_runs_claim_no_gate_either(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "old")
    gate = {"track": "cifar100", "gate": 0.8, "meets_gate": True, "dataset": "digits"}
    change(folder / "score.json", lambda score: score | gate)
    assert "meets gate yes" in Page(make_report(folder).read_text(encoding="utf-8")).text
    note = "digits has no track of its own: relative to the CIFAR-100 baseline"
    change(folder / "score.json", lambda score: score | {"notes": [note]})
    text = Page(make_report(folder).read_text(encoding="utf-8")).text
    assert "meets gate" not in text and "relative to cifar100" in text and note in text


def test_networks_come_back_ready_to_classify(photos: Path) -> None:
    """In evaluation mode: one image gives the same answer alone and in a batch."""
    for network in (netpress.load(photos / "my-pets"), netpress.load("c_efficientnet:tiny,classes=5")):
        assert not any(part.training for part in network.module.modules())
    result = netpress.run("digits", data=photos / "pets", out=photos / "my-pets", set=SHORT)
    assert not any(part.training for part in result.network.module.modules())


@pytest.mark.parametrize("stage", ["prune amount=0.5", "fold", "quantize preset=half"])
def test_a_stage_alone_gives_back_a_network_that_classifies(stage: str, tmp_path: Path) -> None:
    kind, *settings = stage.split()
    network = netpress.load("c_efficientnet:tiny,classes=5")
    network.module.train()  # as a user may have left it
    result = apply_stage(kind, network, tmp_path / "out.netpress", settings)
    assert not any(part.training for part in result.module.modules())
