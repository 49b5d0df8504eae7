"""What enters the network in a page is, of a PNG, what enters it in a training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import Chromium
from integer_networks import QUICK, SIZE, context, logits
from PIL import Image
from web_pages import as_png, in_browser, page_logits, page_pixels, some_pictures

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Images
from netpress.data.pixels import Budget, PixelRules, read_image
from netpress.export.web import export_web
from netpress.network import create
from netpress.program import lower
from netpress.settings import parse


@in_browser
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("channels", [3, 1])
def test_a_page_sees_the_pixels_that_a_training_sees(page: Chromium, resize: str, channels: int) -> None:
    page.evaluate(f"Object.assign(facts, {{resize: '{resize}', channels: {channels}, background: 77}})")
    rules = PixelRules(SIZE, background=77, channels=channels, resize=resize)  # type: ignore[arg-type]
    for name, picture in some_pictures().items():
        file = as_png(name, picture)
        values, _ = read_image(file, rules, Budget(10**6))
        seen = page_pixels(page, file)
        assert seen.tolist() == values.transpose(1, 2, 0).flatten().tolist(), name


@in_browser
def test_pixels_of_larger_networks(page: Chromium) -> None:
    """Enlarged, and of sides that no other divides."""
    for side in (5, 32, 61):
        page.evaluate(f"facts.side = {side}")
        for name in ("RGB", "RGBA", "one pixel"):
            file = as_png(name, some_pictures()[name])
            values, _ = read_image(file, PixelRules(side), Budget(10**6))
            assert page_pixels(page, file).tolist() == values.transpose(1, 2, 0).flatten().tolist(), (side, name)


@in_browser
def test_a_network_of_grey_images(browser: Chromium, tmp_path: Path) -> None:
    """Colours become grey, and the page shows what the network sees."""
    seen = context(tmp_path)
    assert seen.dataset is not None
    train, validation, test = (
        replace(part, images=part.images[:, :1])
        for part in (seen.dataset.train, seen.dataset.validation, seen.dataset.test)
    )
    data = replace(seen.dataset, train=train, validation=validation, test=test, mean=(0.5,), std=(0.5,))
    made = create("resnet", {"width": 4, "blocks": [1], "classes": 10, "channels": 1, "image_size": SIZE}, seed=2)
    network = quantize(made, parse(QuantizeSettings, QUICK), replace(seen, dataset=data))
    browser.open(export_web(network, tmp_path / "page.html", title="grey").file)
    colours = some_pictures()["RGB"]
    (tmp_path / "a.png").write_bytes(as_png("RGB", colours))
    browser.choose("#file", tmp_path / "a.png")
    browser.wait("document.querySelector('.guesses li') !== null")
    values = torch.tensor(np.asarray(colours.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    shown = browser.evaluate(f"[...byId('seen').getContext('2d').getImageData(0, 0, {SIZE}, {SIZE}).data]")
    assert shown == torch.stack([values, values, values, torch.full_like(values, 255)], -1).flatten().tolist()
    said = logits(network, Images(values[None, None], torch.zeros(1)))
    scale = lower(network).operations[-1].scale  # type: ignore[attr-defined]
    assert page_logits(browser, Images(values[None, None], torch.zeros(1))) == (said / scale).int().tolist()
