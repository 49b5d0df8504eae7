"""The shipped network as a page: its size, and 1,000 test images of CIFAR-100 that it answers as the C does."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from chromium import Chromium
from integer_networks import logits
from web_pages import NAMES, best, in_browser, page_logits, save_png

import netpress
from netpress.export.c import export_c
from netpress.export.web import PAGE, export_web
from netpress.network.data import load_data
from netpress.process.console import Console
from netpress.program import has_integer_arithmetic, lower

DATA = os.environ.get("NETPRESS_DATA")
SHIPPED = Path(__file__).parents[2] / "networks" / "kaist-int"
COUNT = 1000


@in_browser
@pytest.mark.skipif(DATA is None, reason="needs CIFAR-100: set NETPRESS_DATA")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler called cc")
def test_the_shipped_network(browser: Chromium, tmp_path: Path) -> None:
    network = netpress.load(SHIPPED)
    if not has_integer_arithmetic(network):
        pytest.skip("networks/kaist-int computes in floats between its sums")
    data = load_data(network, Path(str(DATA)), "cifar100", console=Console(quiet=True))
    page = export_web(network, tmp_path / "page.html", title=NAMES[1], dataset=data)
    assert page.examples == 100 and page.bytes <= PAGE
    browser.open(page.file)

    shown = data.test.take(torch.arange(COUNT))
    said = torch.tensor(
        [
            row
            for start in range(0, COUNT, 100)
            for row in page_logits(browser, shown.take(torch.arange(start, start + 100)))
        ]
    )
    written = export_c(network, tmp_path, "net")
    subprocess.run(["cc", "-O3", "-DNET_MAIN", "-o", tmp_path / "net", written.source], check=True)
    raw = shown.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    lines = subprocess.run([tmp_path / "net"], input=raw, capture_output=True, check=True).stdout.decode().splitlines()
    assert torch.equal(said, torch.tensor([[int(value) for value in line.split()] for line in lines]))
    scale = lower(network).operations[-1].scale  # type: ignore[attr-defined]
    few = shown.take(torch.arange(10))
    assert torch.equal(said[:10], (logits(network, few) / scale).round().long())

    right = [place for place in range(COUNT) if said[place].argmax() == shown.labels[place]]
    assert len(right) > 0.78 * COUNT
    for place in right[:3]:
        browser.evaluate("document.getElementById('best').textContent = ''")
        browser.choose("#file", save_png(shown.images[place], tmp_path / f"{place}.png"))
        browser.wait("document.querySelector('#best span') !== null")
        assert best(browser) == network.classes[int(shown.labels[place])]
    for place in (0, 42, 99):
        browser.click(f".tiles li:nth-child({place + 1}) button")
        browser.wait(f"document.querySelectorAll('.tiles button')[{place}].getAttribute('aria-pressed') === 'true'")
        assert best(browser) == network.classes[place]
    asked = [address for address in browser.requests if not address.startswith("data:")]
    assert asked == [page.file.resolve().as_uri()]
