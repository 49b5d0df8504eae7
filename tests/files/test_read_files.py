"""Files that somebody named are read whole and soon, or refused in one sentence; so are their texts."""

import os
from pathlib import Path

import pytest

from netpress.data.pickles import read_arrays
from netpress.data.policies import read_policy
from netpress.errors import UserError
from netpress.files import is_folder, is_there, parse_json, parse_toml, parse_toml_value, read_file
from netpress.imports import imt, kaist
from netpress.network import create, describe, load
from netpress.recipe.reading import read_recipe
from netpress.scoring import verify
from netpress.tracing.onnx.file import load_model
from netpress.training import load_teachers


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    for place, message in (
        ("/dev/zero", "policy /dev/zero: is no regular file"),
        (tmp_path / "pipe", "is no regular file"),
        (tmp_path, "is a folder"),
        (tmp_path / "none", "no such file"),
        (path, "has 5 bytes, more than the 4"),
        ("a" * 300, "cannot be read"),
        ("\0", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            read_file(place, 4, "policy")
    assert read_file("/proc/self/mem", 4) == b""  # it says that it has no bytes, and would give none
    assert not is_folder("\0")
    assert not is_folder("a" * 300)
    assert not is_there("a" * 5000)


def test_every_file_that_is_named_must_be_a_regular_one():
    for read in (
        load,
        describe,
        read_policy,
        kaist.read_released,
        imt.read_released,
        read_arrays,
        load_model,
        verify,
        read_recipe,
        lambda path: load_teachers((str(path),), create("resnet", {"width": 4})),
    ):
        with pytest.raises(UserError, match="/dev/zero: is no regular file"):
            read("/dev/zero" if read is read_recipe else Path("/dev/zero"))


def test_toml_of_every_kind_ends_in_values_or_a_message():
    assert parse_toml('\ufeffname = "é"'.encode(), "r") == {"name": "é"}  # as some editors begin a file
    for text, message in (
        (b'name = "\xff"', "r: not valid TOML: not in UTF-8"),
        ('name = "é"'.encode("utf-16"), "not in UTF-8"),
        (b"a = " + b"[" * 5000, "too deep"),
        (b"a = " + b"1" * 5000, "not valid TOML"),
        (b"a = ", "not valid TOML"),
    ):
        with pytest.raises(UserError, match=message):
            parse_toml(text, "r")
    assert [parse_toml_value(text) for text in (".5", "-.25", "3.", " .5 ")] == [0.5, -0.25, 3.0, 0.5]
    assert [parse_toml_value(text) for text in (".", "..5", ".5.", ".é", ".5e", "1.2.3", '".5"')] == [
        *(".", "..5", ".5.", ".é", ".5e", "1.2.3", ".5")
    ]
    assert [parse_toml_value(text) for text in ("2", "true", "word", "[1, 2]", "1\nb = 2")] == [
        2,
        True,
        "word",
        [1, 2],
        "1\nb = 2",
    ]
    for text in ("1" * 5000, "[" * 5000):
        with pytest.raises(UserError, match="too many digits"):
            parse_toml_value(text)


def test_json_of_every_kind_ends_in_values_or_a_message(tmp_path):
    assert parse_json(b"\xef\xbb\xbf[1]", "f") == [1]
    for text in (b"[" * 100_000, b"[" + b"1" * 5000 + b"]", b"\xff", b""):
        with pytest.raises(UserError, match="f: not a JSON file"):
            parse_json(text, "f")
    path = tmp_path / "policy.json"
    for text, message in (
        ('{"sub_policies": ' + "[" * 100_000, "lie too deep"),
        ('{"sub_policies": [' + ", ".join(["[]"] * 10_001) + "]}", "at most 10,000"),
        ('{"sub_policies": [[' + ", ".join(['["Rotate", 1, 1]'] * 17) + "]]}", "17 steps, more than 16"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_policy(path)
