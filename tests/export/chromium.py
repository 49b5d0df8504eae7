"""Drives a headless Chromium over a pipe, by the DevTools protocol: what a test of a page needs, without a package.

with Chromium(folder) as browser:
    browser.open(page)
    browser.evaluate("document.title")
    browser.click("#button")
    browser.requests          # the addresses that the page asked for
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage"),
    *("--mute-audio", "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe"),
    "--force-prefers-reduced-motion",  # a page that still scrolls moves away what is to be clicked
)
SECONDS = 60.0


def find_chromium() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Chromium:
    """One browser with one page. Close it, or use it in a `with`."""

    def __init__(self, folder: Path, *flags: str) -> None:
        """folder: empty; the browser's profile lies there."""
        program = find_chromium()
        assert program is not None
        (to_read, self._out), (self._in, to_write) = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(file, fcntl.F_DUPFD, 10) for file in (to_read, to_write)]
        # The browser reads commands from its file 3, and answers to its file 4.
        move = f'exec "$0" "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
        words = [program, *FLAGS, f"--user-data-dir={folder}", *flags, "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", move, *words],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for file in (to_read, to_write, *theirs):
            os.close(file)
        self._number, self._held, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        self.send("Target.setDiscoverTargets", discover=True)
        pages = [info for info in self.send("Target.getTargets")["targetInfos"] if info["type"] == "page"]
        target = pages[0]["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._session = ""
            self.send("Browser.close")
            self._process.wait(10)
        except (OSError, AssertionError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._out)
            os.close(self._in)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while (answer := self._receive(SECONDS)).get("id") != self._number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _receive(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            assert ready, f"Chromium did not answer in {seconds:.0f} seconds"
            part = os.read(self._in, 1 << 20)
            assert part, "Chromium ended"
            self._held += part
        text, _, self._held = self._held.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, page: Path) -> None:
        """Load a file, and wait until it is loaded."""
        self.events.clear()
        self.send("Page.navigate", url=page.resolve().as_uri())
        end = time.monotonic() + SECONDS
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive(end - time.monotonic())

    def evaluate(self, code: str) -> Any:
        """The value of JavaScript, promises awaited."""
        result = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, code: str, wanted: Callable[[Any], bool] = bool) -> Any:
        """The value of JavaScript as soon as it is what is `wanted`."""
        end = time.monotonic() + SECONDS
        while not wanted(value := self.evaluate(code)):
            assert time.monotonic() < end, f"{code} stays {value!r}"
            time.sleep(0.02)
        return value

    def click(self, selector: str) -> None:
        """A real click of the mouse in the middle of an element."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{box}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        x, y = self.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({box}.getBoundingClientRect())")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        """A real key."""
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    def choose(self, selector: str, *files: Path) -> None:
        """Give files to a file input, as a person chooses them."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def drop(self, *files: Path) -> None:
        """Drag files from outside to the middle of the page, and let go."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=200, y=200, data=data)

    @property
    def requests(self) -> list[str]:
        """What the page asked for, itself included."""
        self.evaluate("0")  # all events before its answer have come
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the page's console, and errors that nothing caught."""
        self.evaluate("0")
        said = [event["params"]["entry"]["text"] for event in self.events if event["method"] == "Log.entryAdded"]
        thrown = [event for event in self.events if event["method"] == "Runtime.exceptionThrown"]
        return said + [str(event["params"]["exceptionDetails"]) for event in thrown]

    def resize(self, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """The window's size in pixels, and what it prefers."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Emulation.setTouchEmulationEnabled", enabled=phone)

    def photograph(self, file: Path) -> None:
        """The whole page as a PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))
