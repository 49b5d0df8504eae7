"""Pages in a browser, where there is one: nothing is wider than the window, and nothing scrolls inside the page."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_report import write_json, write_run
from test_report_answers import JUDGEMENT, NAMES, write_pictures

from netpress.report import make_report

BROWSER = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium: widths of pages are not checked"),
]

MEASURE = """
<iframe style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>
<script>
document.querySelector("iframe").addEventListener("load", (event) => {{
  const page = event.target.contentDocument;
  page.querySelectorAll("details").forEach((one) => {{ one.open = true; }});
  const name = (one) => `${{one.tagName}} ${{one.className}} ${{one.textContent.trim().slice(0, 60)}}`;
  const seen = [...page.querySelectorAll("body *")].filter((one) => !one.closest("svg, .hidden, thead"));
  const wide = seen.filter((one) => one.getBoundingClientRect().right > {width} + 0.5);
  const scrolling = [...page.querySelectorAll(".scroll, pre")].filter((one) => one.scrollWidth > one.clientWidth + 1
    || one.scrollHeight > one.clientHeight + 1);
  const out = document.createElement("output");
  out.textContent = JSON.stringify({{
    whole: page.documentElement.scrollWidth, wide: wide.map(name), scrolling: scrolling.map(name),
    tables: page.querySelectorAll("table").length,
  }});
  document.body.append(out);
}});
</script>
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off(width: int, tmp_path: Path) -> None:
    run = write_run(tmp_path / "a-run-with-quite-a-long-name-that-somebody-chose")
    write_json(run / "judgement.json", JUDGEMENT)
    write_pictures(run, NAMES, 8, side=32)
    page = make_report(run).read_text(encoding="utf-8")
    told = measure(page, width, tmp_path)
    assert told["tables"] >= 8
    assert (told["wide"], told["scrolling"]) == ([], [])
    assert told["whole"] <= width


def measure(page: str, width: int, folder: Path) -> dict[str, Any]:
    """What a browser says of the page in a frame so wide, with all that is folded away opened."""
    frame = folder / "frame.html"
    frame.write_text(MEASURE.format(width=width, page=html.escape(page, quote=True)), encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    command += [f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    found = re.findall(r"<output>(\{.*?\})</output>", done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(html.unescape(found[-1]))
    return told
