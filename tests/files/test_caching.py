"""Folders from which code is loaded belong to the user alone."""

import os
from pathlib import Path

import pytest

from netpress.errors import Failure
from netpress.files import cache_folder, private_folder, require_private


def test_a_private_folder_is_made_and_found_again(tmp_path: Path) -> None:
    made = private_folder(tmp_path / "a" / "kernels")
    assert made == private_folder(tmp_path / "a" / "kernels")
    assert made.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_what_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels").chmod(mode)
    with pytest.raises(Failure, match=r"kernels: other users may write here, so no code is loaded.*chmod go-w"):
        private_folder(tmp_path / "kernels")


def test_nobody_may_put_another_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(Failure, match="open: other users may write here"):
        private_folder(tmp_path / "open" / "kernels")
    (tmp_path / "open").chmod(0o1777)  # as /tmp: only its owner may rename what lies in it
    private_folder(tmp_path / "open" / "kernels")
    (tmp_path / "link").symlink_to(tmp_path / "open" / "kernels")
    assert private_folder(tmp_path / "link") == (tmp_path / "open" / "kernels").resolve()
    with pytest.raises(Failure, match="link: other users may write here"):
        require_private(tmp_path / "link")


def test_a_place_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"cannot be used .*; name another in XDG_CACHE_HOME"):
        private_folder(tmp_path / "file" / "kernels")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may give a file away")
def test_what_belongs_to_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir(mode=0o700)
    os.chown(tmp_path / "kernels", 12345, 12345)
    with pytest.raises(Failure, match="other users may write here"):
        private_folder(tmp_path / "kernels")


def test_the_cache_lies_where_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "netpress"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "netpress"
