"""The page of a run on flash, memory and multiply-adds: headline, peak, and a row an operation."""

from pathlib import Path
from typing import Any

import pytest
from test_report import change, write_run

from netpress.report import make_report

OPERATIONS = [
    {"name": "stem.conv", "kind": "conv", "output": [1, 32, 16, 16], "bytes": 11_264},
    {"name": "stem.norm", "kind": "batch_norm", "output": [1, 32, 16, 16], "bytes": 65_536},
]
FOOTPRINT = {
    "flash_bytes": 266_848,
    "ram_bytes": 65_536,
    "ram_at": "stem.norm",
    "multiply_adds": 37_338_192,
    "nonzero_multiply_adds": 15_579_137,
    "alive": [{"name": "stem.conv", "bytes": 32_768}, {"name": "stem.norm", "bytes": 32_768}],
    "operations": OPERATIONS,
}


def page_with(folder: Path, footprint: Any) -> str:
    run = write_run(folder / "run")
    change(run / "score.json", lambda score: score | {"footprint": footprint})
    return make_report(run).read_text(encoding="utf-8")


def test_the_headline_and_the_table(tmp_path: Path) -> None:
    page = page_with(tmp_path, FOOTPRINT)
    headline = page.partition('class="headlines"')[2].partition("</dl>")[0]
    for figure in ("260.6 KiB", "266,848 bytes", "64.0 KiB", "15.58 M", "37.34 M"):
        assert figure in headline
    memory = page.partition('id="memory"')[2]
    assert "stem.conv 32.0 KiB, stem.norm 32.0 KiB" in memory
    assert "11.0 KiB" in memory and "32x16x16" in memory


def test_a_run_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    page = make_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert 'id="memory"' not in page and "KiB" not in page


@pytest.mark.parametrize(
    "footprint",
    [
        "?",
        {"flash_bytes": "<b>x</b>", "ram_bytes": None, "ram_at": "<b>x</b>", "alive": 3, "operations": {}},
        {
            **FOOTPRINT,
            "alive": [1, {"name": "<b>x</b>"}],
            "operations": [2, {"name": "<b>x</b>", "output": "<b>x</b>"}],
        },
    ],
)
def test_whatever_stands_there_is_a_page(footprint: Any, tmp_path: Path) -> None:
    page = page_with(tmp_path, footprint)
    assert "<b>x" not in page and "Score card" in page
