"""A network as one web page: it opens from disk, classifies images by the network's own C, and requests nothing.

    page = export_web(network, Path("tiny.html"), title="Tiny")
    page.bytes            # of the file

The C of `netpress.export.c` becomes WebAssembly with SIMD (`wasm.py`), and lies compressed in the page. Scripts read
images as a training reads its own (`pixels.js`, `png.js`), so that a page and `netpress predict` see the same pixels of
a PNG. The page's Content-Security-Policy forbids every request, and every script but its own.
"""

import base64
import hashlib
import json
import zlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from netpress.data import Dataset
from netpress.data.pixels import PixelRules
from netpress.data.resizing import resizes_columns_first
from netpress.errors import Failure, UserError
from netpress.evaluation import check_scale
from netpress.export.web.examples import Examples, choose_examples
from netpress.export.web.wasm import Module, compile_module
from netpress.export.web.words import Figure, count_right, describe, describe_examples, list_figures
from netpress.files import atomic_write
from netpress.network import Network
from netpress.network.data import pixel_rules
from netpress.program import has_integer_arithmetic, lower
from netpress.program.integers import Restore

SCRIPTS = ("png.js", "pixels.js", "page.js")
PAGE = 420_000
"""Bytes that a page shall not exceed for the sake of its examples."""
SPARE, BESIDE = 1000, 12  # bytes of text that come with examples, and with each


@dataclass(frozen=True)
class WebPage:
    """What was written."""

    file: Path
    bytes: int
    """Of the file."""
    module: int
    """Bytes of WebAssembly in it, before they are compressed."""
    memory: int
    """Bytes that the module takes while it runs, the network's constants among them."""
    flash: int
    """Bytes of the network's constants."""
    examples: int
    """Classes of which an example is shown."""
    accuracy: float | None
    """What the page says; None where nothing is known."""
    compiler: str
    """What made the WebAssembly."""


def export_web(
    network: Network, out: Path, *, title: str, dataset: Dataset | None = None, scale: float = 1.0
) -> WebPage:
    """Write the page to `out`.

    dataset: of the network's classes; an example of each is shown, and the accuracy on its test images is measured
    where the network's file does not tell it. scale: multiplies the logits before the softmax, as for predictions.
    Raises UserError for a network that computes in floats or takes neither 1 nor 3 channels, and for an `out` that is a
    folder; Failure where there is no compiler for WebAssembly, or the file cannot be written.
    """
    check_scale(scale)
    check_page(out)
    rules = pixel_rules(network)
    if network.input.height != network.input.width:
        raise UserError(
            f"the network takes images of {network.input.size} (channels, height, width); a page shows squares"
        )
    if not has_integer_arithmetic(network):
        raise UserError(
            "between its sums this network computes in floats, and a page runs it in integers; "
            "netpress apply quantize NETWORK --set arithmetic=integer makes one in integers"
        )
    module, program = compile_module(network), lower(network)
    last = program.operations[-1]
    assert isinstance(last, Restore)
    accuracy = count_right(network, program, dataset)
    figures = list_figures(network, module.files.flash, module.memory, accuracy)
    facts = {
        "classes": network.classes,
        "side": rules.size,
        "channels": rules.channels,
        "resize": rules.resize,
        "background": rules.background,
        "columnsFirst": resizes_columns_first(),
        "mostPixels": rules.max_pixels,
        "scale": last.scale * scale,
    }
    parts = network, title, module, figures, facts, rules
    text, examples = _render(*parts), None
    if dataset is not None:
        room = (PAGE - SPARE - len(text)) * 3 // 4 - BESIDE * len(network.classes)
        examples = choose_examples(network, program, dataset.test, rules, room)
        text = _render(*parts, examples)
    atomic_write(out, text)
    return WebPage(
        out,
        len(text.encode()),
        len(module.code),
        module.memory,
        module.files.flash,
        len(examples.tiles) if examples else 0,
        accuracy.share if accuracy else None,
        module.compiler,
    )


def check_page(out: Path) -> None:
    """Raise UserError where a page cannot be written to `out`."""
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name the file to write, such as {out / 'page.html'}")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out}: is a device or a pipe, whose place the page would take; name a file")


def _render(
    network: Network,
    title: str,
    module: Module,
    figures: list[Figure],
    facts: dict[str, Any],
    rules: PixelRules,
    examples: Examples | None = None,
) -> str:
    templates = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    style, script = _lean(_read("page.css")), '"use strict";\n' + "\n".join(_lean(_read(name)) for name in SCRIPTS)
    if examples is not None:
        tiles = {tile.place: base64.b64encode(tile.file).decode() for tile in examples.tiles}
        facts = facts | {"tiles": tiles, "side_of_tiles": examples.form.side, "kind_of_tiles": examples.form.kind}
    # Neither a comment of HTML nor the end of its element may stand in what a script reads.
    values = json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")
    text = templates.get_template("page.html").render(
        title=title,
        policy=Markup(_policy(style, script)),
        style=Markup(style),
        script=Markup(script),
        module=Markup(encode(module.code)),
        facts=Markup(values),
        side=rules.size,
        channels=rules.channels,
        classes=network.classes,
        figures=figures,
        about_examples=describe_examples(examples) if examples else "",
        **describe(network, rules),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # a name may hold half a letter


def _lean(text: str) -> str:
    """A script or style without indentation, and without the lines that are comments."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(("//", "/*")))


def _policy(style: str, script: str) -> str:
    """What a page may do: run this script and its WebAssembly, look as this style says, show pictures that it holds."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}' 'wasm-unsafe-eval'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def encode(code: bytes) -> str:
    """The module as text: its length once compressed, and that, in base 85 with letters that HTML leaves alone."""
    packed = zlib.compress(code, 9)
    packed = len(packed).to_bytes(4, "big") + packed
    packed += bytes(-len(packed) % 4)
    return base64.b85encode(packed).decode().replace("<", ",")


def _read(name: str) -> str:
    try:
        return (files("netpress.export.web") / name).read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"{name} of the page is missing ({error}); install netpress again") from error
