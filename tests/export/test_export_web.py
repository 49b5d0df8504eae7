"""Web pages: in a headless Chromium they see what a training sees, answer as the reference, and ask nobody."""

import base64
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from chromium import Chromium
from integer_networks import images, logits
from PIL import Image
from web_pages import (
    NAMES,
    Made,
    as_png,
    as_script,
    best,
    in_browser,
    integer_network,
    needs_compiler,
    page_logits,
    save_png,
    some_pictures,
)

from netpress.data import Images
from netpress.errors import Failure, UserError
from netpress.export.web import PAGE, encode, export_web, wasm
from netpress.network import create, save
from netpress.program import lower

Call = Callable[..., tuple[int, str, str]]


@in_browser
def test_logits_are_those_of_the_reference(page: Chromium, made: Made) -> None:
    network, digits = made.network, made.digits.test.take(torch.arange(20))
    shown = Images(torch.cat([images(20, 7).images, digits.images]), torch.zeros(40))
    scale = lower(network).operations[-1].scale  # type: ignore[attr-defined]
    expected = (logits(network, shown) / scale).to(torch.int32).tolist()
    assert page_logits(page, shown) == expected
    assert page_logits(page, shown.take(torch.tensor([3]))) == [expected[3]]


# --- what a person does


@in_browser
def test_an_image_comes_by_file_drop_click_and_paste(page: Chromium, made: Made, tmp_path: Path) -> None:
    network, test = made.network, made.digits.test
    right = (logits(network, test).argmax(1) == test.labels).nonzero().flatten().tolist()
    assert len(right) > 0.9 * len(test)
    chosen = {NAMES[int(test.labels[place])]: place for place in right}  # one of each class
    files = {label: save_png(test.images[place], tmp_path / f"{place}.png") for label, place in chosen.items()}
    first, second = [label for label in chosen if label != best(page)][:2]
    page.choose("#file", files[first])
    page.wait(f"document.querySelector('#best span').textContent === {json.dumps(first)}")
    page.drop(files[second])
    page.wait(f"document.querySelector('#best span').textContent === {json.dumps(second)}")
    data = as_script(files[first].read_bytes())
    page.evaluate(
        "(() => { const held = new DataTransfer();"
        f"held.items.add(new File([{data}], 'x.png', {{type: 'image/png'}}));"
        "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: held, bubbles: true})); })()"
    )
    page.wait(f"document.querySelector('#best span').textContent === {json.dumps(first)}")
    rows = page.evaluate("[...document.querySelectorAll('#guesses .name')].map((one) => one.textContent)")
    order = torch.sort(logits(network, test)[chosen[first]], descending=True, stable=True).indices[:5]
    assert rows == [network.classes[place] for place in order.tolist()]
    page.wait("document.getElementById('latency').textContent.endsWith('ms')")


@in_browser
def test_a_click_on_an_example_gives_its_class(page: Chromium, made: Made) -> None:
    shown = page.evaluate("[...document.querySelectorAll('.tiles span')].map((one) => one.textContent)")
    assert shown == list(NAMES) and made.page.examples == len(NAMES)
    for place in range(len(shown)):
        page.click(f".tiles li:nth-child({place + 1}) button")
        page.wait(f"document.querySelectorAll('.tiles button')[{place}].getAttribute('aria-pressed') === 'true'")
        assert best(page) == shown[place]
        assert page.evaluate("document.getElementById('truth').textContent") == ""


@in_browser
def test_the_keyboard_reaches_everything(page: Chromium) -> None:
    reached = []
    for _ in range(3):
        page.press("Tab", 9)
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["file", "camera", NAMES[0]]
    page.press("Tab", 9)
    page.press("Enter", 13, "\r")
    page.wait("document.querySelectorAll('.tiles button')[1].getAttribute('aria-pressed') === 'true'")
    assert best(page) == NAMES[1]


@in_browser
def test_the_camera(page: Chromium) -> None:
    page.evaluate("document.getElementById('best').textContent = ''")
    page.click("#camera")
    page.wait("document.getElementById('video').videoWidth > 0")
    assert page.evaluate("document.activeElement.id") == "take"
    page.click("#take")
    page.wait("document.querySelector('#best span') !== null")
    assert page.evaluate("document.getElementById('viewfinder').hidden && stream === null")
    assert ", from 640 \u00d7 480, stretched" in page.evaluate("document.getElementById('caption').textContent")
    page.evaluate(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }"
    )
    page.click("#camera")
    page.wait("document.getElementById('problem').textContent.includes('does not let this page use the camera')")


@in_browser
def test_problems_are_told_in_words(page: Chromium, tmp_path: Path) -> None:
    problem = "document.getElementById('problem')"
    for name, data, words in (
        ("empty.png", b"", "empty.png is empty"),
        ("notes.png", b"no image", "notes.png is not an image that this browser can read"),
        ("cut.png", as_png("RGB", some_pictures()["RGB"])[:300], "cut.png is not an image"),
    ):
        (tmp_path / name).write_bytes(data)
        page.choose("#file", tmp_path / name)
        page.wait(f"!{problem}.hidden && {problem}.textContent.startsWith({json.dumps(words)})")
    page.evaluate("facts.mostPixels = 100")
    (tmp_path / "large.png").write_bytes(as_png("RGB", some_pictures()["RGB"]))
    page.choose("#file", tmp_path / "large.png")
    page.wait(f"{problem}.textContent.startsWith('large.png has 50 \u00d7 13 pixels, more than this page reads')")
    page.evaluate(
        "(() => { const held = new DataTransfer(); held.setData('text/uri-list', 'https://example.org/a.png');"
        "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: held})); })()"
    )
    page.wait(f"{problem}.textContent.includes('this page fetches nothing')")


@in_browser
@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("delete globalThis.WebAssembly", "has no WebAssembly, or it is switched off"),
        (
            "WebAssembly.instantiate = async () => { throw new WebAssembly.CompileError('simd'); }",
            "no WebAssembly SIMD",
        ),
        ("delete globalThis.DecompressionStream", "too old for this page"),
    ],
)
def test_browsers_that_cannot(browser: Chromium, made: Made, without: str, words: str) -> None:
    script = browser.send("Page.addScriptToEvaluateOnNewDocument", source=without)["identifier"]
    try:
        browser.open(made.page.file)
        browser.wait(f"document.getElementById('problem').textContent.includes({json.dumps(words)})")
        assert not browser.evaluate("document.getElementById('problem').hidden")
    finally:
        browser.send("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


# --- what leaves the page, and what stands in it


@in_browser
def test_no_request_leaves_the_page(page: Chromium, made: Made, tmp_path: Path) -> None:
    page.choose("#file", save_png(made.digits.test.images[0], tmp_path / "a.png"))
    page.wait("document.getElementById('caption').textContent.length > 0")
    asked = [address for address in page.requests if not address.startswith(("data:", "blob:"))]
    assert asked == [made.page.file.resolve().as_uri()]
    assert not page.complaints
    for attempt in (
        "fetch('https://example.org/')",
        "new Promise((yes, no) => Object.assign(new Image(), {onload: yes, onerror: no, src: 'https://example.org/a'}))",
    ):
        assert page.evaluate(f"{attempt}.then(() => 'sent', () => 'refused')") == "refused"
    refused = [text for text in page.complaints if "Content Security Policy" in text]
    assert len(refused) >= 2


@in_browser
def test_names_are_text(page: Chromium, made: Made) -> None:
    assert page.evaluate("document.title") == 'A <title> & "more"'
    assert page.evaluate("facts.classes") == list(NAMES)
    assert page.evaluate("document.querySelectorAll('script').length") == 3
    text = made.page.file.read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "unsafe-inline" not in text and "'unsafe-eval'" not in text
    assert made.page.bytes == len(text.encode()) < PAGE


@in_browser
def test_phones_and_the_dark(browser: Chromium, made: Made) -> None:
    try:
        colours = []
        for dark in (False, True):
            browser.resize(390, 844, dark=dark, phone=True)
            browser.open(made.page.file)
            browser.wait("document.querySelector('.guesses li') !== null")
            assert browser.evaluate("document.documentElement.scrollWidth") == 390
            assert not browser.evaluate("document.getElementById('snap').hidden")
            colours.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert colours[0] != colours[1]
    finally:
        browser.resize(1280, 900)


def test_modules_as_text() -> None:
    for size in range(0, 400, 7):
        data = bytes(torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(size)).tolist())
        text = encode(data)
        assert not set(text) & set("<\"'\\/ \n") and len(text) % 5 == 0
        packed = base64.b85decode(text.replace(",", "<"))
        assert zlib.decompress(packed[4 : 4 + int.from_bytes(packed[:4], "big")]) == data


# --- the command


@needs_compiler
@pytest.mark.slow
def test_the_command(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(integer_network(tmp_path), tmp_path / "my-net.netpress")
    code, said, _ = call("export", "web", "my-net.netpress", "--out", "new/page.html")
    assert code == 0 and "examples    0 of 10 classes; give --data" in said
    found = json.loads(call("export", "web", "my-net.netpress", "--out", "page.html", "--json", "--title", "Ä")[1])
    text = Path("page.html").read_text(encoding="utf-8")
    assert found["bytes"] == len(text.encode()) and "<title>Ä</title>" in text
    assert "<title>my-net</title>" in Path("new/page.html").read_text(encoding="utf-8")
    for name in ("cat", "dog"):
        folder = Path("photos") / name
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (20, 20), (number * 60, 0, 0)).save(folder / f"{number}.png")
    code, _, error = call("export", "web", "my-net.netpress", "--out", "b.html", "--data", "photos")
    assert code == 2 and "photos: has no train/ and test/" in error
    code, _, error = call(
        *("export", "web", "my-net.netpress", "--out", "b.html", "--data", "photos", "--dataset", "folder"),
        *("--set", "data.test_fraction=0.5"),
    )
    assert code == 2 and "the network tells 10 classes apart" in error and not Path("b.html").exists()


def test_what_no_page_is_made_of(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = create("resnet", {"width": 2, "blocks": [1], "classes": 3})
    save(network, tmp_path / "net.netpress")
    code, _, error = call("export", "web", "net.netpress", "--out", "page.html")
    assert code == 2 and "computes in floats" in error and "--set arithmetic=integer" in error
    code, _, error = call("export", "web", "net.netpress", "--out", ".")
    assert code == 2 and "is a folder; name the file to write" in error
    os.mkfifo(tmp_path / "pipe")
    code, _, error = call("export", "web", "net.netpress", "--out", "pipe")
    assert code == 2 and "is a device or a pipe" in error and Path("pipe").is_fifo()
    assert not Path("page.html").exists()
    with pytest.raises(UserError, match="--scale"):
        export_web(network, tmp_path / "page.html", title="", scale=0)


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasm, "find_compilers", list)
    with pytest.raises(Failure, match="install clang with its linker wasm-ld"):
        export_web(integer_network(tmp_path), tmp_path / "page.html", title="")
    monkeypatch.setattr(wasm, "find_compilers", lambda: [["false"]])
    with pytest.raises(Failure, match=r"did not become WebAssembly \(false: it said nothing\); a compiler"):
        export_web(integer_network(tmp_path), tmp_path / "page.html", title="")
    assert not (tmp_path / "page.html").exists()
