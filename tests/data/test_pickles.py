"""Pickles that would take memory, time or the stack, and damaged ones: one sentence, and nothing large made first."""

import io
import pickle
import pickletools
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.data.pickle_programs import CONTAINERS, OPERATIONS, read_program
from netpress.data.pickles import read_arrays
from netpress.errors import Failure, NetpressError
from netpress.imports.kaist import read_released

pytestmark = pytest.mark.slow

MEMORY = 300_000  # KiB that refusing may take; what is asked for below is more
TUPLES = b"".join(b"\x85" for _ in range(100_000))  # each the only item of the next
BATCH = {"data": np.arange(300, dtype=np.uint8).reshape(3, 100), b"labels": [1, 2, 3], "more": {"a": (1, 2.5, None)}}


def encode(text: bytes, times: int) -> bytes:
    """A text that is remembered once and turned into bytes again and again."""
    call = b"h\x00h\x01\x8c\x06latin1\x86R"
    return b"c_codecs\nencode\nq\x00X" + struct.pack("<I", len(text)) + text + b"q\x01]" + (call + b"a") * times + b"."


HOSTILE = {
    "a table of 150 million memos": b"\x80\x02]r" + struct.pack("<I", 150_000_000) + b".",
    "a memo by text": b"]p99999999999\n.",
    "operations without end": b"\x80\x02" + b"]" * (OPERATIONS + 10) + b".",
    "memos without end": b"\x80\x04]" + b"\x94" * (OPERATIONS + 10) + b".",
    "a tuple in a tuple, as a key": b"\x80\x02})" + TUPLES + b"Ns.",
    "tuples that calls take, remembered": b"\x80\x02})" + b"\x85q\x00h\x00R" * 20_000 + b"Ns.",
    "a text of four gigabytes": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of eight exabytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**63 - 1) + b".",
    "an integer of ten million digits": b"\x80\x02\x8b" + struct.pack("<i", 4_000_000) + b"\x7f" * 4_000_000 + b".",
    "a number in words": b"I" + b"9" * 5000 + b"\n.",
    "a text encoded a thousand times": b"\x80\x02" + encode(b"x" * 1_000_000, 1000),
    "a set": b"\x80\x04\x8f.",
    "a buffer from outside": b"\x80\x05\x97.",
    "an object from outside": b"\x80\x02K\x01Q.",
    "an instance": b"(ios\nsystem\n.",
    "an extension": b"\x82\x01.",
    "a state for a function": b"\x80\x02c_codecs\nencode\n}b.",
    "an array that was never told": b"\x80\x02}U\x01acnumpy\nndarray\n)\x81s.",
    "an array without a state": b"\x80\x02}U\x01acnumpy\nndarray\n)Rs.",
    "a key that is a tuple": b"\x80\x02}K\x01K\x02\x86Ns.",
    "a list": b"\x80\x02].",
    "nothing": b"",
    "half a length": b"\x80\x02X\xff",
    "no newline": b"cnumpy",
}


def refused(read: Callable[[Path], Any], path: Path, content: bytes) -> str:
    """What `read` says of a file of these bytes; it must say it soon, in one line, and take little memory."""
    path.write_bytes(content)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(NetpressError) as caught:
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    assert time.process_time() - start < 10
    said = str(caught.value)
    assert said.startswith(str(path)) and said.isprintable() and len(said) < 700
    return said


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_at_once(name: str, tmp_path: Path) -> None:
    refused(read_arrays, tmp_path / "batch", HOSTILE[name])


def test_functions_of_the_reader_stay_as_they_are(tmp_path: Path) -> None:
    """BUILD sets attributes; a pickle that sets those of what it may call would change how the next file is read."""
    program = b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__K\x01\x85s\x86b."
    refused(read_arrays, tmp_path / "batch", program)
    path = tmp_path / "whole"
    path.write_bytes(pickle.dumps({"text": b"\xff\x00"}, protocol=2))
    assert read_arrays(path) == {"text": b"\xff\x00"}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_data_of_protocols_two_to_four_is_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(BATCH, protocol=protocol))
    found = read_arrays(path)
    assert np.array_equal(found["data"], BATCH["data"])
    assert found["labels"] == [1, 2, 3]


@settings(deadline=None, max_examples=300)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    ),
    protocol=st.integers(0, 5),
    before=st.binary(max_size=3),
)
def test_operations_are_found_as_python_finds_them(value: Any, protocol: int, before: bytes) -> None:
    """Against pickletools.genops: the same operations, the same end."""
    data = before + pickle.dumps(value, protocol=protocol) + b"more"
    stream = io.BytesIO(data)
    stream.seek(len(before))
    expected: dict[str, int] = {}
    for operation, _, _ in pickletools.genops(stream):
        expected[operation.name] = expected.get(operation.name, 0) + 1
    program = read_program(data, len(before), CONTAINERS | {"LONG", "NEWOBJ"})
    assert program.counts == expected
    assert program.end == stream.tell()


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_damage_anywhere_is_a_failure_or_other_data(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(pickle.dumps(BATCH, protocol=data.draw(st.integers(2, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    path = tmp_path_factory.mktemp("damage") / "batch"
    path.write_bytes(content)
    try:
        assert isinstance(read_arrays(path), dict)
    except Failure as error:
        assert "\n" not in str(error)


# --- torch's archives of before 2020


def archive(tensors: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(tensors, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


PLAIN = archive({"conv1.weight": torch.arange(6.0).reshape(2, 3)})


def forged(old: bytes, new: bytes) -> bytes:
    assert PLAIN.count(old) >= 1
    return PLAIN.replace(old, new)


ARCHIVES = {
    "a storage of eight gigabytes": forged(b"K\x06N", b"J\xff\xff\xff\x7fN"),
    "memos": forged(b"conv1.weight", b"conv1.weightr" + struct.pack("<I", 150_000_000)),
    "a million memos": PLAIN[:137] + b"]" + b"\x94" * (OPERATIONS + 1) + b".",
    "bytes by their number": forged(b"ctorch\nFloatStorage\n", b"cbuiltins\nbytearray\n"),
    "a call": forged(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n"),
    "a zip archive": b"PK\x03\x04" + PLAIN,
    "half": PLAIN[: len(PLAIN) // 2],
    "no storages": PLAIN[:-40],
    "nothing": b"",
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_refused_at_once(name: str, tmp_path: Path) -> None:
    said = refused(read_released, tmp_path / "net.t7", ARCHIVES[name])
    assert "not one of KAIST's released .t7 files" in said


@settings(deadline=None, max_examples=100)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_archive_is_one_sentence(place: float, value: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(PLAIN)
    content[int(place * len(content))] = value
    refused(read_released, tmp_path_factory.mktemp("damage") / "net.t7", bytes(content))
