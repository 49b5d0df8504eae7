"""What tests share: how many threads they compute with, the command line, small data."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from netpress.process.waiting import wait_briefly

wait_briefly()  # before torch is imported: with two threads on busy cores, tests took minutes in place of seconds

import pytest  # noqa: E402
import torch  # noqa: E402

from netpress.cli import main  # noqa: E402
from netpress.data import Dataset, Images  # noqa: E402

# One unless the run says otherwise, so that parallel tests do not wait for each other.
THREADS = int(os.environ.get("NETPRESS_TEST_THREADS", "1"))
torch.set_num_threads(THREADS)
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # of the processes that tests start

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run one command in an empty folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["netpress", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """Run code in a Python process of its own, which must succeed; gives its standard output."""

    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def shades() -> Dataset:
    """64 training, 20 selection and 20 test images of 8 x 8 pixels; how bright they are is their class, of four."""

    def draw(count: int, seed: int) -> Images:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 4
        pixels = torch.randint(0, 60, (count, 3, 8, 8), generator=generator) + labels.view(-1, 1, 1, 1) * 60
        return Images(pixels.clamp(0, 255).to(torch.uint8), labels)

    parts = draw(64, 1), draw(20, 2), draw(20, 3)
    return Dataset("shades", *parts, ("a", "b", "c", "d"), (0.5,) * 3, (0.3,) * 3, "none")
