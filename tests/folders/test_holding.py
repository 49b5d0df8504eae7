"""Folders held by one process, and cleared of nothing that somebody else put there."""

import subprocess
import sys

import pytest

from netpress.errors import Failure
from netpress.folders.holding import held, is_empty, remove_written


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom netpress.folders.holding import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(Failure, match="another netpress"), held(tmp_path):
            pass
        process.kill()
    with held(tmp_path):
        assert is_empty(tmp_path)


def test_only_what_was_written_is_removed(tmp_path):
    folder = tmp_path / "stage"
    (folder / "part").mkdir(parents=True)
    (folder / "notes").mkdir()
    for name in ("done.json", "part/.done.part.json", "part/done.json", "notes/mine.txt"):
        (folder / name).write_text("x", encoding="utf-8")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "done.json").write_text("x", encoding="utf-8")
    (folder / "link").symlink_to(outside)
    remove_written(folder, ("done.json",))
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["outside/done.json", "stage/notes/mine.txt"]
    assert not (folder / "part").exists()
