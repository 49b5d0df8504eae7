"""A page and a browser for its tests."""

from collections.abc import Iterator

import pytest
from chromium import Chromium
from web_pages import NAMES, RECIPE, Made

import netpress
from netpress.export.web import export_web
from netpress.network.data import load_data
from netpress.process.console import Console


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
