"""The console: plain lines, bars, log files."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from netpress.errors import Failure
from netpress.process.console import Console, describe_figures, describe_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_progress_is_a_line_at_the_start_one_an_interval_and_one_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(stream=stream, interval=10.0, clock=clock)
    with console.progress("train", 100) as progress:
        for step in range(1, 101):
            clock.now = step * 0.5
            progress.update(step, epoch="1/1", loss=2 / step)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/100", "21/100", "41/100", "61/100", "81/100", "100/100"]
    assert lines[0] == "train 1/100  epoch 1/1  loss 2"
    assert lines[1] == "train 21/100  epoch 1/1  loss 0.09524  40 s left"
    assert "left" not in lines[-1]


def test_a_resumed_run_estimates_from_the_work_that_this_process_did() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(stream=stream, interval=10.0, clock=clock)
    with console.progress("train", 100) as progress:
        progress.update(80)
        clock.now = 10.0
        progress.update(90)
    assert stream.getvalue().splitlines()[-1] == "train 90/100  10 s left"


def test_quiet_silences_lines_and_progress_but_not_warnings_nor_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(quiet=True, log=tmp_path / "log.txt")
    console.say("hello")
    console.warn("careful")
    with console.progress("train", 1) as progress:
        progress.update(1, accuracy=0.5)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "warning: careful\n"
    logged = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in logged] == ["hello", "warning: careful", "train 1/1  accuracy 50.00%"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in logged)


def test_a_terminal_shows_a_bar_with_figures_and_keeps_lines_above_it(tmp_path: Path) -> None:
    stream = Terminal()
    console = Console(stream=stream).with_log(tmp_path / "log.txt")
    with console.progress("outer", 2) as outer:
        with console.progress("inner", 4) as inner:
            inner.update(2, loss=0.25)
            console.say("between [bold]steps[/bold]")
        outer.update(1)
    text = stream.getvalue()
    assert "between [bold]steps[/bold]" in text  # brackets are text, not markup
    assert "inner" in text and "loss 0.25" in text and "2/4" in text
    logged = (tmp_path / "log.txt").read_text()
    assert "inner 2/4  loss 0.25" in logged and "between" in logged


def test_the_display_is_closed_when_the_work_fails() -> None:
    console = Console(stream=Terminal())
    with pytest.raises(ZeroDivisionError), console.progress("train", 2):
        raise ZeroDivisionError
    with console.progress("again", 2) as progress:  # rich refuses a second live display
        progress.update(2)


def test_a_log_that_cannot_be_written_is_a_failure_but_an_error_is_still_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(log=tmp_path / "absent" / "log.txt")
    with pytest.raises(Failure, match=r"log\.txt: the log cannot be written"):
        console.say("hello")
    console.error("the disk is full")
    assert capsys.readouterr().err == "error: the disk is full\n"


def test_a_stream_of_narrow_encoding_gets_replacements() -> None:
    raw = io.BytesIO()
    console = Console(stream=io.TextIOWrapper(raw, encoding="ascii"))
    console.say("café")
    assert raw.getvalue() == b"caf?\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (59.4, "59 s"), (125, "2 min 05 s"), (3600 * 3.34, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_times(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text


def test_figures() -> None:
    figures = {"epoch": "3/10", "loss": 1.23456, "accuracy": 0.613, "images_per_second": 5120.4, "round": 2}
    assert describe_figures(figures) == "epoch 3/10  loss 1.235  accuracy 61.30%  5,120 images/s  round 2"


def test_importing_the_console_imports_neither_torch_nor_rich() -> None:
    code = "import sys, netpress.process.console; print(sorted({'torch', 'rich'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert printed.stdout == "[]\n"
