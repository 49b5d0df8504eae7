"""Files are whole or absent, archives stay in their folder, TOML comes back equal."""

import errno
import http.server
import io
import os
import stat
import tarfile
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.errors import Failure, UserError
from netpress.files import atomic_path, atomic_write, download, dump_toml, sha256_of, unpack_tar


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    atomic_write(path, "first")
    atomic_write(path, b"second")
    assert path.read_bytes() == b"second"
    assert names(path.parent) == ["file.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "state.json"
    atomic_write(path, "old")

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(Failure, match=r"state\.json: the disk is full"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["state.json"]


def test_really_full_device_is_one_message() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(Failure, match="disk is full"), atomic_path("/tmp/netpress-full") as part:
        part.symlink_to("/dev/full")
        part.write_bytes(b"x" * 100_000)
    assert not Path("/tmp/.netpress-full.part").exists()


def test_error_inside_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as part:
        assert part.suffix == ".safetensors"
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["weights.safetensors"]


def test_a_folder_in_the_way_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(Failure, match="taken: cannot be written"):
        atomic_write(tmp_path / "taken", "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match="cannot be written"):
        atomic_write(tmp_path / "file" / "below", "text")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "data.bin").write_bytes(bytes(range(256)) * 40)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "site"))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path != "/short.bin":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 400)
            return None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


def test_download_reports_progress_and_checks(tmp_path: Path, server: str) -> None:
    seen: list[tuple[int, int]] = []
    path = tmp_path / "got" / "data.bin"
    right = sha256_of(tmp_path / "site" / "data.bin")
    download(f"{server}/data.bin", path, right, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == bytes(range(256)) * 40
    assert seen[-1] == (10240, 10240)


@pytest.mark.parametrize(
    ("name", "message"),
    [("data.bin", "damaged or was changed"), ("short.bin", "400"), ("absent.bin", "download failed.*not found")],
)
def test_bad_downloads_leave_nothing(tmp_path: Path, server: str, name: str, message: str) -> None:
    path = tmp_path / "got" / name
    with pytest.raises(Failure, match=message):
        download(f"{server}/{name}", path, "0" * 64)
    assert names(path.parent) == []


def test_no_network_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"download failed after 0 bytes.*--data"):
        download("http://127.0.0.1:9/x.tar.gz", tmp_path / "x", "0" * 64)


def make_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_unpack(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", (member("set", tarfile.DIRTYPE), b""), (member("./set/train"), b"pixels"))
    unpack_tar(archive, tmp_path / "out")
    assert (tmp_path / "out" / "set" / "train").read_bytes() == b"pixels"
    assert names(tmp_path / "out") == ["set"]
    with pytest.raises(Failure, match="already there"):
        unpack_tar(archive, tmp_path / "out")


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("/tmp/netpress-outside"),
        member("set/../../outside"),
        member("C:\\outside"),
        member("link", tarfile.SYMTYPE, "../.."),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("hard", tarfile.LNKTYPE, "../outside"),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_unpack_refuses_what_leaves_the_folder(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", (member("fine"), b"fine"), (bad, b""))
    with pytest.raises(Failure, match="refused"):
        unpack_tar(archive, tmp_path / "out")
    assert names(tmp_path / "out") == []
    assert names(tmp_path) == ["a.tar.gz", "out"]


def test_unpack_refuses_damage(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "a.tar.gz", (member("train"), os.urandom(50_000))).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"not a tar at all", whole[:20_000] + b"????" + whole[20_004:]):
        (tmp_path / "b.tar.gz").write_bytes(damaged)
        with pytest.raises(Failure, match=r"damaged|cut off"):
            unpack_tar(tmp_path / "b.tar.gz", tmp_path / "out")
        assert names(tmp_path / "out") == []


keys = st.text(st.characters(codec="utf-8"), max_size=6)
scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=12
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(keys, values, max_size=4))
def test_toml_comes_back_equal(content: dict[str, object]) -> None:
    assert tomllib.loads(dump_toml(content)) == content


def test_toml_of_a_recipe() -> None:
    recipe = {
        "name": "small",
        "stages": [
            {"kind": "train", "epochs": 3, "model": None, "betas": (0.9, 0.99), "schedule": {"kind": "cosine"}},
            {"kind": "prune", "layers": ["pointwise", {"name": "stem", "amount": None}]},
        ],
        "data": {"dataset": "digits"},
    }
    text = dump_toml(recipe)
    assert text.startswith('name = "small"\n\n[[stages]]\nkind = "train"\n')
    assert tomllib.loads(text) == {
        "name": "small",
        "stages": [
            {"kind": "train", "epochs": 3, "betas": [0.9, 0.99], "schedule": {"kind": "cosine"}},
            {"kind": "prune", "layers": ["pointwise", {"name": "stem"}]},
        ],
        "data": {"dataset": "digits"},
    }


def test_toml_refuses_what_it_cannot_say() -> None:
    for wrong in ({"a": [1, None]}, {"a": object()}, {1: "a"}):
        with pytest.raises(TypeError):
            dump_toml(wrong)  # type: ignore[arg-type]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="is a device or a pipe"):
        atomic_write(pipe, b"bytes")
    assert stat.S_ISFIFO(pipe.stat().st_mode) and list(tmp_path.iterdir()) == [pipe]
