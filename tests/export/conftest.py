"""A page and a browser for its tests; a network, and a cache for the kernels that are compiled of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium
from integer_networks import QUICK, context, family
from web_pages import NAMES, RECIPE, Made

import netpress
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.export.web import export_web
from netpress.network import Network
from netpress.network.data import load_data
from netpress.process.console import Console
from netpress.settings import parse


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A page of digits of 8 x 8 pixels, whose classes have odd names."""
    folder = tmp_path_factory.mktemp("web")
    netpress.run(RECIPE, out=folder / "run")
    network = netpress.load(folder / "run")
    digits = load_data(network, None, console=Console(quiet=True))
    network.classes = NAMES
    return Made(network, export_web(network, folder / "page.html", title='A <title> & "more"', dataset=digits), digits)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    camera = "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"
    with Chromium(tmp_path_factory.mktemp("profile"), *camera) as started:
        yield started


@pytest.fixture
def page(made: Made, browser: Chromium) -> Chromium:
    browser.open(made.page.file)
    browser.wait("document.querySelector('.guesses li') !== null")  # the first example's answer
    return browser


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """A small one in integers alone."""
    return quantize(family("resnet"), parse(QuantizeSettings, QUICK), context(tmp_path_factory.mktemp("quantized")))


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache: one for all tests that name it, so that little is compiled."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))
    return shared_cache / "netpress" / "kernels"
