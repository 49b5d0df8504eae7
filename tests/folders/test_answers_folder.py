"""The folder of answers: what is kept comes back, what is damaged does not, and its bound holds."""

import hashlib
import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from netpress.errors import Failure, UserError
from netpress.folders import answers
from netpress.folders.answers import AnswersFolder

VALUES = np.random.default_rng(3).normal(size=(7, 5)).astype(np.float16)
HALF = VALUES.dtype


def _key(number: int) -> str:
    return f"{number:064x}"


def _folder(path: Path, limit: int = 10**6) -> AnswersFolder:
    return AnswersFolder(path / "deep" / "answers", limit)


def _read(folder: AnswersFolder, number: int = 1) -> np.ndarray | None:
    return folder.read(_key(number), VALUES.shape, HALF)


def _size(folder: AnswersFolder) -> int:
    return sum(path.stat().st_size for path in folder.path.glob("*.answers"))


def test_what_is_kept_comes_back_and_nothing_else_does(tmp_path):
    folder = _folder(tmp_path)
    assert _read(folder) is None
    assert not folder.path.exists()
    odd = VALUES.copy()
    odd[0] = [np.nan, -np.inf, -65504, 0, -0.0]
    assert folder.write(_key(1), odd)
    found = _read(folder)
    assert found.tobytes() == odd.tobytes()
    found[:] = 0  # what was read may be changed
    assert _read(folder).tobytes() == odd.tobytes()
    assert _read(folder, 2) is None


def test_any_damage_makes_it_absent(tmp_path):
    folder, draw = _folder(tmp_path), random.Random(4)
    folder.write(_key(1), VALUES)
    file = folder.file(_key(1))
    whole = file.read_bytes()
    damaged = [whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :]
               for place in range(len(whole))]  # fmt: skip
    damaged += [whole[:length] for length in range(len(whole))]
    damaged += [whole + b"\0", whole + whole, bytes(len(whole)), draw.randbytes(len(whole))]
    for data in damaged:
        file.write_bytes(data)
        with pytest.raises(Failure, match=r"answers: (damaged|has)"):
            _read(folder)
    short = whole[: -32 - VALUES.itemsize]
    file.write_bytes(short + hashlib.sha256(short).digest())  # whole by its checksum
    with pytest.raises(Failure, match="damaged"):
        _read(folder)
    assert folder.write(_key(1), VALUES)
    assert _read(folder).tobytes() == VALUES.tobytes()


@pytest.mark.parametrize(
    ("shape", "dtype"), [((7, 6), HALF), ((5, 7), HALF), ((35,), HALF), (VALUES.shape, np.dtype(np.int16))]
)
def test_another_shape_or_type_is_refused(tmp_path, shape, dtype):
    folder = _folder(tmp_path)
    folder.write(_key(1), VALUES)
    with pytest.raises(Failure):
        folder.read(_key(1), shape, dtype)


def test_a_file_under_the_name_of_another_is_refused(tmp_path):
    folder = _folder(tmp_path)
    folder.write(_key(1), VALUES)
    folder.file(_key(1)).rename(folder.file(_key(2)))
    with pytest.raises(Failure, match="not what its name says"):
        _read(folder, 2)


def test_what_is_no_file_is_refused(tmp_path):
    folder = _folder(tmp_path)
    folder.file(_key(1)).mkdir(parents=True)
    with pytest.raises(Failure, match="is a folder"):
        _read(folder)


def test_the_longest_unused_go_first_and_the_bound_holds(tmp_path):
    folder = _folder(tmp_path)
    folder.write(_key(1), VALUES)
    size = _size(folder)
    folder = _folder(tmp_path, 3 * size + size // 2)
    for number in (2, 3):
        folder.write(_key(number), VALUES)
    for number in (1, 2, 3):  # 1 is the oldest
        os.utime(folder.file(_key(number)), (number, number))
    assert _read(folder, 1) is not None  # and is used now
    for number, gone in ((4, 2), (5, 3)):
        assert folder.write(_key(number), VALUES)
        assert not folder.file(_key(gone)).exists()
        assert _size(folder) == 3 * size
    assert _read(folder, 1) is not None


def test_what_a_training_uses_itself_stays_and_the_rest_finds_no_room(tmp_path):
    folder = _folder(tmp_path)
    folder.write(_key(1), VALUES)
    folder = _folder(tmp_path, 2 * _size(folder))
    assert folder.write(_key(2), VALUES, {_key(1)})
    assert not folder.write(_key(3), VALUES, {_key(1), _key(2)})
    assert [_read(folder, number) is None for number in (1, 2, 3)] == [False, False, True]
    assert folder.write(_key(2), VALUES, {_key(1), _key(2)})  # in its own place there is room
    assert folder.write(_key(3), VALUES, {_key(1)})
    assert [_read(folder, number) is None for number in (1, 2, 3)] == [False, True, False]


def test_a_bound_that_holds_nothing_removes_nothing_that_it_could_keep(tmp_path):
    folder = _folder(tmp_path)
    folder.write(_key(1), VALUES)
    folder = _folder(tmp_path, _size(folder))
    assert not folder.write(_key(2), np.zeros((70, 50), np.float16))
    assert _read(folder) is not None


def test_where_removing_is_not_enough_nothing_is_removed(tmp_path):
    folder = _folder(tmp_path)
    for number in (1, 2):
        folder.write(_key(number), VALUES)
    folder = _folder(tmp_path, _size(folder))
    assert not folder.write(_key(3), np.concatenate([VALUES] * 4), {_key(1)})
    assert _read(folder, 2) is not None


def test_files_of_others_stay_and_leftovers_go(tmp_path):
    folder = _folder(tmp_path)
    folder.write(_key(1), VALUES)
    others = [folder.path / name for name in ("mine.answers", "notes.txt", f"{_key(8)}.txt")]
    leftover = folder.path / f".{_key(9)}.part.answers"
    for path in (*others, leftover):
        path.write_bytes(bytes(1000))
    folder = AnswersFolder(folder.path, folder.file(_key(1)).stat().st_size)
    assert folder.write(_key(2), VALUES)
    assert all(path.exists() for path in others)
    assert not leftover.exists()
    assert _read(folder, 1) is None


def test_two_that_write_the_same_at_once_do_no_harm(tmp_path):
    folder, failures = _folder(tmp_path), []
    values = np.zeros((2000, 50), np.float16)

    def work() -> None:
        for _ in range(10):
            try:
                assert folder.write(_key(1), values)
                assert folder.read(_key(1), values.shape, HALF) is not None
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in folder.path.glob("*answers")] == [folder.file(_key(1)).name]


def test_a_place_that_cannot_be_a_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    place = AnswersFolder(tmp_path / "file", 10**6)
    with pytest.raises(UserError, match=r"--answers .*file: is not a folder"):
        place.check()
    with pytest.raises(Failure, match="cannot be written"):
        place.write(_key(1), VALUES)
    monkeypatch.setattr(answers, "PATIENCE", 0.0)
    folder = _folder(tmp_path)
    folder.path.mkdir(parents=True)
    with answers.FileLock(folder.path / answers.LOCK), pytest.raises(Failure, match="another process has been writing"):
        folder.write(_key(1), VALUES)
