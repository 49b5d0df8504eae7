"""C called from Python: the reference's logits, one library a network and machine, torch where there is no compiler."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from integer_networks import family, images, logits
from PIL import Image

import netpress
from netpress.errors import Failure, UserError
from netpress.export.c import calling, export_c
from netpress.export.c.building import BrokenCompiler, Compiler, NoCompiler, build_library, find_compiler
from netpress.export.c.calling import load_kernels
from netpress.export.c.choosing import choose_kernels
from netpress.network import Network, copy, save
from netpress.process.console import Console

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler called cc")
QUIET, CPU = Console(quiet=True), torch.device("cpu")
FAST = ("-O1",)  # compiles in a second

Call = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One for this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    return tmp_path / "own" / "netpress" / "kernels"


class Noted(list[Compiler]):
    """The compilers that were called."""

    def __call__(self, compiler: Compiler) -> None:
        self.append(compiler)


@needs_compiler
def test_batches_and_threads_answer_as_the_reference(network: Network) -> None:
    kernels = load_kernels(network, FAST)
    shown = images(7, 4)
    expected = logits(network, shown)
    for threads in (1, 2, 3, 16):
        for count in (7, 1, 0):
            answers = kernels(shown.images[:count], threads)
            assert answers.dtype == torch.int32
            assert torch.equal(answers * kernels.scale, expected[:count])
    turned = shown.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # lies otherwise in memory
    assert torch.equal(kernels.real_logits(turned), expected)
    for wrong in (shown.images.float(), shown.images[0], shown.images[:, :, 1:]):
        with pytest.raises(ValueError, match="the kernels take uint8"):
            kernels(wrong)


@needs_compiler
def test_callers_in_many_threads_do_not_share_memory(network: Network) -> None:
    kernels = load_kernels(network, FAST)
    shown = images(40, 8)
    expected = logits(network, shown)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: kernels.real_logits(image[None], 1), shown.images))
    assert torch.equal(torch.cat(answers), expected)


@needs_compiler
@pytest.mark.slow
def test_a_library_is_built_once_and_again_where_it_is_damaged_or_gone(network: Network, own_cache: Path) -> None:
    built = Noted()
    load_kernels(network, FAST, built)
    load_kernels(network, FAST, built)
    (library,) = own_cache.iterdir()
    assert len(built) == 1 and library.stat().st_mode & 0o077 == 0
    whole = library.read_bytes()
    library.unlink()  # it is in use: bytes of another file
    library.write_bytes(whole[: len(whole) // 2])
    library.chmod(0o700)
    shown = images(1, 1)
    assert torch.equal(load_kernels(network, FAST, built).real_logits(shown.images), logits(network, shown))
    shutil.rmtree(own_cache)
    load_kernels(network, FAST, built)
    assert len(built) == 3


def test_what_decides_the_library(network: Network) -> None:
    """Weights, how pixels enter, the compiler and its options each give a library of its own."""
    compiler = Compiler((shutil.which("sh") or "", "-c"), "sh")
    other, darker = copy(network), copy(network)
    next(iter(other.module.parameters())).data.flatten()[0] *= -2
    darker.input = replace(network.input, mean=(0.1, 0.1, 0.1))
    keys = [calling._key(one, compiler, FAST) for one in (network, other, darker)]
    keys += [calling._key(network, replace(compiler, words=(compiler.words[0],)), FAST)]
    keys += [calling._key(network, compiler, ("-O2",))]
    assert len({*keys}) == 5
    assert keys[0] == calling._key(copy(network), compiler, FAST)


@needs_compiler
def test_several_threads_ask_for_it_at_once(network: Network, own_cache: Path) -> None:
    shown, built = images(2, 2), Noted()
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: load_kernels(network, FAST, built).real_logits(shown.images, 1), range(3)))
    assert len(built) == 1 and all(torch.equal(answer, logits(network, shown)) for answer in answers)


@needs_compiler
@pytest.mark.slow
def test_several_processes_build_at_once(network: Network, own_cache: Path, tmp_path: Path) -> None:
    save(network, tmp_path / "net.netpress")
    np.save(tmp_path / "shown.npy", images(2, 2).images.numpy())
    code = (
        "import netpress, numpy, torch, sys\nfrom netpress.export.c.calling import load_kernels\n"
        "kernels = load_kernels(netpress.load('net.netpress'), ['-O1'])\n"
        "print(kernels.real_logits(torch.from_numpy(numpy.load('shown.npy'))).tolist())"
    )
    words = [sys.executable, "-c", code]
    processes = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert [json.loads(answer) for answer in said] == [logits(network, images(2, 2)).tolist()] * 3
    assert {path.suffix for path in own_cache.iterdir()} == {".so"}


@needs_compiler
def test_a_library_that_answers_otherwise_is_not_kept(
    network: Network, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy(network)
    for parameter in other.module.parameters():
        if parameter.dim() > 1:
            parameter.data.neg_()
    monkeypatch.setattr(calling, "export_c", lambda _, *place: export_c(other, *place))
    with pytest.raises(Failure, match=r"compiled by cc -O1: \d of 8 answers are not those of the reference"):
        load_kernels(network, FAST)
    assert not list(own_cache.iterdir())


@needs_compiler
def test_nothing_is_loaded_from_where_others_write(network: Network, own_cache: Path) -> None:
    load_kernels(network, FAST)
    own_cache.chmod(0o777)
    with pytest.raises(Failure, match="kernels: other users may write here"):
        load_kernels(network, FAST)
    own_cache.chmod(0o700)
    next(own_cache.iterdir()).chmod(0o722)
    with pytest.raises(Failure, match=r"\.so: other users may write here"):
        load_kernels(network, FAST)


@needs_compiler
def test_the_longest_unused_make_room(network: Network, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(calling, "KEPT", 2)
    own_cache.mkdir(parents=True, mode=0o700)
    for age in (1, 2, 3):
        (own_cache / f"old{age}.so").touch()
        os.utime(own_cache / f"old{age}.so", (1000 - age, 1000 - age))
    (own_cache / ".building-killed").mkdir()
    (own_cache / ".building-killed" / "net.c").touch()
    os.utime(own_cache / ".building-killed", (1000, 1000))
    load_kernels(network, FAST)
    names = {path.name for path in own_cache.iterdir()}
    assert len(names) == 2 and "old1.so" in names


# --- compilers


def test_a_compiler_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("clang", "gcc", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() == Compiler((str(tmp_path / "gcc"),), "gcc")
    monkeypatch.setenv("CC", "mine --fast 'a b'")
    assert find_compiler() == Compiler((str(tmp_path / "mine"), "--fast", "a b"), "CC=mine --fast 'a b'")
    for wrong, said in (("absent -O2", "no such program"), ("'mine", "cannot be read")):
        monkeypatch.setenv("CC", wrong)
        with pytest.raises(UserError, match=rf"CC=.*{said}.*; name a C compiler, or unset CC"):
            find_compiler()
    monkeypatch.setenv("CC", " ")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(NoCompiler, match="install gcc or clang, or name one in CC"):
        find_compiler()


@needs_compiler
def test_a_broken_file_is_not_a_broken_compiler(tmp_path: Path) -> None:
    (tmp_path / "net.c").write_text("int32_t x;\n", encoding="utf-8")
    compiler = find_compiler()
    with pytest.raises(Failure, match=r"cc: cannot compile net\.c \(.*int32_t") as failed:
        build_library(compiler, tmp_path / "net.c", "net", 1.0, tmp_path / "net.so")
    assert not isinstance(failed.value, BrokenCompiler)
    for words in (("false",), (str(tmp_path / "net.c"),), ("true",)):
        with pytest.raises(BrokenCompiler, match="x: does not work as a C compiler"):
            build_library(Compiler(words, "x"), tmp_path / "net.c", "net", 1.0, tmp_path / "net.so")


@needs_compiler
def test_options_that_a_compiler_does_not_know_are_left_out(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    script = (
        '#!/bin/sh\ncase "$*" in *-march=native*) echo "error: no such processor" >&2; exit 1;; esac\nexec cc "$@"\n'
    )
    (tmp_path / "old").write_text(script, encoding="utf-8")
    (tmp_path / "old").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "old"))
    shown = images(2, 2)
    kernels = load_kernels(network, ("-O1", "-march=native"))
    assert torch.equal(kernels.real_logits(shown.images), logits(network, shown))


# --- what answers


@needs_compiler
@pytest.mark.slow
def test_c_and_torch_are_asked_alike(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = images(5, 3).images.permute(0, 2, 3, 1).contiguous().numpy()
    monkeypatch.setattr(network.module, "forward", lambda *_: pytest.fail("the simulation in floats was asked"))
    said = {kind: netpress.predict(network, pixels, top=10, kernels=kind) for kind in ("auto", "c", "torch")}
    exact = netpress.predict(network, pixels, top=10, exact=True)
    for kind in ("c", "torch"):
        assert [answer.guesses for answer in said[kind]] == [answer.guesses for answer in said["auto"]]
    assert [answer.guesses for answer in exact] == [answer.guesses for answer in said["torch"]]
    shares = (logits(network, images(5, 3)).double()).softmax(1).sort(dim=1, descending=True, stable=True)
    for answer, row, order in zip(said["c"], *shares, strict=True):
        assert [guess.label for guess in answer.guesses] == [str(index) for index in order.tolist()]
        assert [guess.probability for guess in answer.guesses] == row.tolist()
    assert {answer.computed_by for answer in said["torch"]} == {"torch, exact integers"}
    assert {answer.computed_by for answer in said["auto"]} == {f"C, {load_kernels(network).path}"}


def test_without_a_compiler_torch_answers_and_nobody_is_alarmed(
    network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    choice = choose_kernels(network, "auto", CPU, QUIET)
    assert choice.executor is None and choice.advice.startswith("C is faster, but there is no C compiler; install gcc")
    assert capsys.readouterr() == ("", "")
    with pytest.raises(NoCompiler):
        choose_kernels(network, "c", CPU, QUIET)


def test_what_chooses_is_checked(network: Network) -> None:
    with pytest.raises(UserError, match="--kernels 'cuda': there are auto, c and torch"):
        choose_kernels(network, "cuda", CPU, QUIET)
    with pytest.raises(UserError, match="--kernels c: computes on the CPU, not on meta"):
        choose_kernels(network, "c", torch.device("meta"), QUIET)
    assert choose_kernels(network, "auto", torch.device("meta"), QUIET).executor is None
    floats = family("resnet")
    assert choose_kernels(floats, "auto", CPU, QUIET) == choose_kernels(floats, "torch", CPU, QUIET)


@needs_compiler
@pytest.mark.slow
def test_predict_says_what_computed(
    network: Network, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save(network, tmp_path / "net.netpress")
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((20, 9), 90, np.uint8)).save(tmp_path / "b.png")
    path = load_kernels(network).path
    code, out, err = call("predict", "net.netpress", "a.png", "b.png")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == [
        "resized     1 of 2 images to 8 x 8 RGB, as in training (squash)",
        f"computed    by C, {path}",
    ]
    by_c = json.loads(call("predict", "net.netpress", "a.png", "b.png", "--json")[1])
    assert [(row["resized"], row["computed_by"]) for row in by_c] == [(False, f"C, {path}"), (True, f"C, {path}")]
    monkeypatch.setenv("CC", "false")
    code, out, err = call("predict", "net.netpress", "a.png", "b.png", "--json")
    assert (code, err.count("\n")) == (0, 1) and "torch computes: CC=false: does not work as a C compiler" in err
    for row, other in zip(json.loads(out), by_c, strict=True):
        assert row == other | {"computed_by": "torch, exact integers"}
    code, _, err = call("predict", "net.netpress", "a.png", "--kernels", "c")
    assert code == 1 and err.startswith("netpress: CC=false: does not work")
    (tmp_path / "empty").mkdir()
    code, _, err = call("predict", "net.netpress", "empty")
    assert code == 2 and "empty: holds no PNG, JPEG or WebP images" in err
