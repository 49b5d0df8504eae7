"""What tests of web pages share: a network and its page, pictures, and what they say to a page."""

import base64
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import Chromium, find_chromium
from integer_networks import QUICK, SIZE, context, family
from PIL import Image

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, Images
from netpress.export.web import WebPage
from netpress.network import Network
from netpress.settings import parse

NAMES = ("a", 'say "cheese" & <b>', "</script><script>document.title='broken'</script>", "Käse 日本", "<!--", *"fghij")

needs_compiler = pytest.mark.skipif(
    shutil.which("clang") is None or shutil.which("wasm-ld") is None,
    reason="needs clang and lld, which make WebAssembly",
)
needs_browser = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Of a test that opens a page: what it needs."""
    return needs_compiler(needs_browser(pytest.mark.slow(test)))


RECIPE = {
    "name": "web",
    "data": {"dataset": "digits", "image_size": SIZE},
    "model": {"family": "resnet", "width": 8, "blocks": [1, 1]},
    "stages": [
        {
            "kind": "train",
            "epochs": 4,
            "batch_size": 32,
            "optimizer": {"kind": "sgd", "learning_rate": 0.1},
            "augment": {"crop": 0, "flip": False},
            "mix": {"kind": "none"},
        },
        {"kind": "quantize", "preset": "int8", "arithmetic": "integer"},
    ],
}


def integer_network(folder: Path) -> Network:
    network = quantize(family("resnet"), parse(QuantizeSettings, QUICK), context(folder))
    network.classes = NAMES
    return network


@dataclass(frozen=True)
class Made:
    network: Network
    page: WebPage
    digits: Dataset


def as_script(data: bytes) -> str:
    return f"Uint8Array.from(atob('{base64.b64encode(data).decode()}'), (letter) => letter.charCodeAt(0))"


def page_logits(page: Chromium, shown: Images) -> list[list[int]]:
    pixels = as_script(shown.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
    each = shown.images[0].numel()
    return page.evaluate(
        f"(async () => {{ const all = {pixels}; const said = []; const size = {each};"
        "for (let i = 0; i < all.length; i += size) said.push([...await netpress.logits(all.subarray(i, i + size))]);"
        "return said; })()"
    )


def page_pixels(page: Chromium, file: bytes) -> np.ndarray:
    values = page.evaluate(f"netpress.pixels(new Blob([{as_script(file)}])).then((pixels) => [...pixels])")
    return np.array(values, np.uint8)


def save_png(image: torch.Tensor, path: Path) -> Path:
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path)
    return path


def best(page: Chromium) -> str:
    return str(page.evaluate("document.querySelector('#best span').textContent"))


def some_pictures() -> dict[str, Image.Image]:
    """Pictures of every mode that a PNG has and Pillow writes."""
    draw = np.random.default_rng(3)

    def noise(*shape: int) -> np.ndarray:
        return draw.integers(0, 256, shape, dtype=np.uint8)

    smooth = np.linspace(0, 255, 41 * 29 * 3).astype(np.uint8).reshape(29, 41, 3)
    keyed = Image.fromarray(noise(9, 14, 3) & 192)
    palette = Image.fromarray(smooth).quantize(37)
    clear = palette.copy()
    clear.info["transparency"] = bytes(range(0, 185, 5))
    return {
        "RGB": Image.fromarray(noise(13, 50, 3)),
        "smooth": Image.fromarray(smooth),
        "tall": Image.fromarray(noise(200, 3, 3)),
        "tall, to be shrunk": Image.fromarray(noise(91, 20, 3)),
        "the network's own size": Image.fromarray(noise(SIZE, SIZE, 3)),
        "one pixel": Image.fromarray(noise(1, 1, 3)),
        "L": Image.fromarray(noise(30, 7)),
        "LA": Image.fromarray(noise(17, 19, 2), "LA"),
        "RGBA": Image.fromarray(noise(23, 31, 4)),
        "1": Image.fromarray(noise(20, 33)).convert("1"),
        "P": palette,
        "P of 4 bits": Image.fromarray(smooth).quantize(11),
        "P, clear": clear,
        "RGB with a clear colour": keyed,
        "16 bits": Image.fromarray(draw.integers(0, 65536, (12, 21), dtype=np.uint16)),
    }


def as_png(name: str, picture: Image.Image) -> bytes:
    file = BytesIO()
    extra = {"transparency": picture.getpixel((3, 3))} if name == "RGB with a clear colour" else {}
    if name == "P, clear":
        extra = {"transparency": picture.info["transparency"]}
    picture.save(file, "png", **extra)
    return file.getvalue()
