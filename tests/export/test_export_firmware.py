"""Firmware: what is refused before it is built, what a folder takes, and that QEMU's boards answer as netpress does."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from firmware import build, check_instructions, needs_tools, run
from integer_networks import QUICK, context, family
from PIL import Image

import netpress
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, DataSettings, load_dataset
from netpress.errors import UserError
from netpress.export.firmware import BOARDS, export_firmware, find_board
from netpress.export.firmware.examples import integer_logits, logit_lines, raw_pixels
from netpress.export.firmware.needs import STACK, Needs, check_needs
from netpress.network import Network, create, save
from netpress.process.console import Console
from netpress.settings import parse

SMALL = Path(__file__).with_name("small.netpress")
KAIST = Path(__file__).parents[2] / "networks" / "kaist-int" / "network.netpress"
ESTIMATE = 4096  # bytes that the estimate of code may be off
IMAGES = 50

LOOP = """
#include "small.h"
const char *const small_class_names[SMALL_CLASSES] = {"", "", "", "", "", "", "", "", "", ""};
int small_run(void *arena, const uint8_t *pixels, int32_t *logits) {
    int32_t turns = 5000000;
    __asm volatile("1: subs %0, #1\\n bne 1b" : "+r"(turns) : : "cc");
    return arena && pixels && logits ? 0 : 1;
}
"""

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def small() -> Network:
    return netpress.load(SMALL)


# --- what is refused


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--board", "arduino"], "--board 'arduino': no board that is known here; there are microbit (Cortex-M0), "),
        (["--board", "mps2-an386", "--flash", "0"], "--flash 0: nothing fits into that"),
        (["--board", "mps2-an386", "--ram", "12Q"], "--ram '12Q' is no size; write bytes as 65536, 64K or 1.5M"),
        (["--board", "microbit", "--ram", "17K"], "--ram 17,408 bytes: microbit has 16,384"),
        (["--board", "microbit", "--name", "2fast"], "--name '2fast': no name in C"),
        (["--board", "microbit", "--name", "Main"], "--name 'Main': the folder has a file of that name"),
        (["--board", "microbit", "--image", "nowhere.png"], "nowhere.png: no such file or folder"),
    ],
)
def test_what_the_user_wrote_wrong(words: list[str], says: str, call: Call) -> None:
    code, _, error = call("export", "firmware", SMALL, "--out", "made", *words)
    assert code == 2 and says in error
    assert not list(Path().iterdir())


def test_folders_that_hold_something(call: Call) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine", encoding="utf-8")
    for out, says in (("full", "holds something already"), ("full/mine.txt", "is a file; name a new or an empty")):
        code, _, error = call("export", "firmware", SMALL, "--board", "microbit", "--out", out)
        assert code == 2 and says in error
    assert [path.name for path in Path().rglob("*")] == ["full", "mine.txt"]
    assert Path("full/mine.txt").read_text(encoding="utf-8") == "mine"


def test_networks_of_floats_are_refused(call: Call) -> None:
    save(create("resnet", {"width": 2, "blocks": [1], "classes": 3}), Path("net.netpress"))
    code, _, error = call("export", "firmware", "net.netpress", "--board", "microbit", "--out", "made")
    assert code == 2 and "computes in floats" in error and "--set arithmetic=integer" in error
    assert list(Path().iterdir()) == [Path("net.netpress")]


def test_too_little_room_is_refused_before(call: Call) -> None:
    words = "export", "firmware", SMALL, "--board", "microbit", "--out", "made"
    needs = json.loads(call(*words, "--json")[1])["needs"]
    shutil.rmtree("made")
    for flash, ram in ((needs["flash"] - 100, needs["ram"]), (needs["flash"], needs["ram"] - 100)):
        code, _, error = call(*words, "--flash", flash, "--ram", ram)
        assert code == 2 and "100 B too many" in error and "what would fit: " in error
        assert ("flash: " in error) != ("RAM: " in error)
        assert "boards with room for it: microbit (Cortex-M0), stm32vldiscovery (Cortex-M3), " in error
        assert not list(Path().iterdir())
    assert call(*words, "--flash", needs["flash"], "--ram", needs["ram"])[0] == 0
    script = Path("made/board.ld").read_text(encoding="utf-8")
    assert f"LENGTH = {needs['flash']}" in script and f"LENGTH = {needs['ram']}" in script


def test_what_would_fit_fits(small: Network) -> None:
    """Half of the arena: a side of 1 / sqrt(2) of now, or half of the channels, says the refusal."""
    board = find_board("mps2-an386")
    needs = Needs(constants=1000, code=2000, arena=100_000, image=192 + 40)
    with pytest.raises(UserError, match=r"images of about 5 x 5 pixels \(now 8 x 8\), or about 0\.50 of the channels"):
        check_needs(small, needs, board, 3000, needs.ram - 50_000)
    with pytest.raises(UserError, match="take a smaller network"):
        check_needs(small, needs, board, 3000, STACK)
    check_needs(small, needs, board, 3000, needs.ram)
    huge = Needs(constants=2**24, code=2000, arena=2**24, image=232)
    with pytest.raises(UserError, match=r"of the boards known here it fits none"):
        check_needs(small, huge, board, board.flash, board.ram)


def test_missing_tools_are_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    code, _, error = call("export", "firmware", SMALL, "--board", "microbit", "--out", "made")
    assert code == 0 and Path("made/Makefile").exists()
    assert "arm-none-eabi-gcc is not installed here; to build it, install" in error
    assert "qemu-system-arm is not installed here; to run it here, install" in error


# --- what is built


@needs_tools
@pytest.mark.slow
@pytest.mark.parametrize("name", BOARDS)
def test_every_board_answers_alike(name: str, small: Network, tmp_path: Path) -> None:
    folder = tmp_path / "a folder's name"
    written = export_firmware(small, folder, "small", BOARDS[name])
    size = build(folder)
    assert size["data"] + size["bss"] == written.needs.ram
    assert abs(size["text"] + size["data"] - written.needs.flash) < ESTIMATE
    ran = run(folder, target="check")
    assert ran.code == 0 and ran.logits == "the logits are those of netpress\n", ran.said
    drawn = run(folder, "IMAGES=")
    assert drawn.logits == (folder / "logits.txt").read_text(encoding="utf-8")
    assert 0 < drawn.figure("stack") < 0.8 * STACK
    if BOARDS[name].core == "Cortex-M4":
        check_instructions("small", drawn.figure("instructions"))


@needs_tools
@pytest.mark.slow
def test_a_clock_is_what_the_table_says(small: Network, tmp_path: Path) -> None:
    """The same program takes the same instructions on every board with a Cortex-M3, though their clocks differ."""
    counts = []
    for board in (board for board in BOARDS.values() if board.core == "Cortex-M3"):
        export_firmware(small, tmp_path / board.name, "small", board)
        counts.append(run(tmp_path / board.name).figure("instructions"))
    assert len(counts) >= 4 and max(counts) - min(counts) < 200  # a tick of 12.5 MHz is 80 instructions


@needs_tools
@pytest.mark.slow
def test_instructions_are_those_that_ran(small: Network, tmp_path: Path) -> None:
    """A loop of known length in place of the network."""
    export_firmware(small, tmp_path / "made", "small", BOARDS["mps2-an386"])
    (tmp_path / "made" / "small.c").write_text(LOOP, encoding="utf-8")
    found = run(tmp_path / "made").figure("instructions")
    assert abs(found - 2 * 5_000_000) < 200


@needs_tools
@pytest.mark.slow
def test_names_images_and_what_is_cut_off(call: Call, tmp_path: Path) -> None:
    network = quantize(family("resnet"), parse(QuantizeSettings, QUICK), context(tmp_path / "work"))
    network.classes = ('say "cheese"? $(HOME)', "Käse\\", "日本 %s", *"defghij")
    save(network, Path("net.netpress"))
    generator = torch.Generator().manual_seed(1)
    for index in range(3):
        pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(f"{index}.png")
    words = "--board", "mps2-an385", "--out", "made", "--image", "0.png", "--image", "1.png", "--image", "2.png"
    assert call("export", "firmware", "net.netpress", *words)[0] == 0
    folder = Path("made")
    ran = run(folder)
    assert ran.code == 0 and ran.logits == (folder / "logits.txt").read_text(encoding="utf-8")
    assert ran.logits.count("\n") == 3
    answers = [row.index(max(row)) for row in ([int(x) for x in line.split()] for line in ran.logits.splitlines())]
    for answer in answers:
        assert f"answer       {network.classes[answer]}, logit " in ran.said
    data = (folder / "images.raw").read_bytes()
    (folder / "cut.raw").write_bytes(data[:-1])
    cut = run(folder, "IMAGES=cut.raw")
    assert cut.code != 0 and "the last image is cut off" in cut.said and cut.logits.count("\n") == 2
    absent = run(folder, "IMAGES=absent.raw")
    assert absent.code != 0 and "absent.raw: cannot be opened" in absent.said
    (folder / "logits.txt").write_text("1 2\n", encoding="utf-8")
    wrong = run(folder, target="check")
    assert wrong.code != 0 and "are not those in logits.txt" in wrong.logits
    for option, tool in (("CROSS=nothing-", "nothing-gcc"), ("QEMU=nothing", "nothing")):
        run(folder, target="clean") if "CROSS" in option else None
        missing = run(folder, option)
        assert missing.code != 0 and f"there is no {tool} here: install" in missing.logits + missing.said


@needs_tools
@pytest.mark.slow
@pytest.mark.parametrize("name", ["microbit", "lm3s6965evb", "netduinoplus2"])
def test_too_little_stack_is_a_fault(name: str, small: Network, tmp_path: Path) -> None:
    export_firmware(small, tmp_path / "made", "small", BOARDS[name])
    script = tmp_path / "made" / "board.ld"
    script.write_text(script.read_text(encoding="utf-8").replace(f". += {STACK};", ". += 256;"), encoding="utf-8")
    ran = run(tmp_path / "made")
    assert ran.code != 0 and "fault: " in ran.said and "a stack that is too small" in ran.said


# --- the network that is known

needs_cifar = pytest.mark.skipif("NETPRESS_DATA" not in os.environ, reason="needs CIFAR-100: set NETPRESS_DATA")


@pytest.fixture(scope="module")
def cifar() -> Dataset:
    settings = DataSettings(dataset="cifar100", select_on="test")
    return load_dataset(settings, Path(os.environ["NETPRESS_DATA"]), 0, Console(quiet=True))


@pytest.fixture(scope="module")
def kaist() -> Network:
    return netpress.load(KAIST)


@needs_tools
@needs_cifar
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "option"),
    [("mps2-an385", "CPU=-mcpu=cortex-m0plus"), ("mps2-an385", ""), ("mps2-an386", ""), ("mps2-an500", "")],
    ids=["m0plus-on-m3", "m3", "m4", "m7"],
)
def test_photographs_on_cortex_m(name: str, option: str, kaist: Network, cifar: Dataset, tmp_path: Path) -> None:
    """QEMU has no Cortex-M0+, but its instructions are a part of a Cortex-M3's."""
    written = export_firmware(kaist, tmp_path / "made", "kaist", BOARDS[name])
    shown = cifar.test.images[:IMAGES]
    (tmp_path / "made" / "photographs.raw").write_bytes(raw_pixels(shown))
    options = [option] if option else []
    size = build(written.folder, *options)
    ran = run(written.folder, *options, "IMAGES=photographs.raw")
    assert ran.code == 0, ran.said
    assert ran.logits == logit_lines(integer_logits(kaist, shown))
    assert 0 < ran.figure("stack") < 0.8 * STACK
    if not option:
        assert size["data"] + size["bss"] == written.needs.ram
        assert abs(size["text"] + size["data"] - written.needs.flash) < ESTIMATE
    if BOARDS[name].core == "Cortex-M4":
        check_instructions("kaist-int", ran.figure("instructions"))
