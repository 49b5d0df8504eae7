"""What people are told stays readable, whatever was written: no endless values, nothing that moves the cursor."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from netpress.errors import LINE, LINES, QUOTED, Failure, UserError, quote, readable, visible
from netpress.process.console import Console
from netpress.settings import Count, Fraction, Settings, SettingsError, parse

Call = Callable[..., tuple[int, str, str]]
LONG = "x" * 100_000
SPACED = "ab " * 33_000
ESCAPES = "a\x1b[2J\x1b]0;title\x07b\rc\u202ed\u2028e\x9bf"


class Inner(Settings):
    share: Fraction = 0.5
    count: Count = 1
    name: str = "a"


class Outer(Settings):
    inner: Inner = Inner()
    names: tuple[str, ...] = ()
    table: dict[str, Count] = Field(default_factory=dict)


def fits(message: str) -> bool:
    lines = message.split("\n")
    return len(lines) <= LINES and all(len(line) <= LINE + 60 and line.isprintable() for line in lines)


WRONG: dict[str, object] = {
    "long": LONG,
    "spaced": SPACED,
    "escapes": ESCAPES,
    "surrogate": "\ud800",
    "lines": "a\nb",
    "list": ["a"] * 50_000,
    "table": {"k": LONG},
    "digits": -(10**4000),
    "more digits": 10**5000,
    "lists": [[1] * 50_000],
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("path", ["inner.share", "inner.count", "inner.name", "inner", "names", "table.k", "more"])
def test_settings_quote_little_of_what_is_wrong(path: str, value: object) -> None:
    values: dict[str, object] = {}
    inside = values
    *above, last = path.split(".")
    for key in above:
        inside = inside.setdefault(key, {})  # type: ignore[assignment]
    inside[last] = value
    try:
        parse(Outer, values, "outer")
    except SettingsError as error:
        said = str(error)
        assert fits(said) and said.startswith("outer") and len(said) < 500, said
    else:
        assert path == "inner.name" or (path == "names" and isinstance(value, list))  # any text is a name


def test_keys_and_problems_without_end_are_cut(call: Call, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(Outer, {LONG: 1, "a\nb\x1b[2J": 2, **{f"k{i}": 0 for i in range(5000)}})
    assert fits(str(caught.value))
    assert len(caught.value.problems) == 5002
    assert f"and {5002 - LINES + 1:,} more" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["plan", "digits", "--set", f"stages.0.epochs={LONG}"], "stages.0.train.epochs"),
        (["plan", "digits", "--set", f"stages.0.{LONG}=1"], "no setting has a path of 100,"),
        (["plan", "digits", "--set", f"model.family={LONG}"], "model"),
        (["plan", "digits", "--set", f"model.preset={SPACED}"], "model"),
        (["plan", "digits", "--set", f"stages.0.kind={LONG}"], "stages.0"),
        (["plan", "digits", "--set", LONG], "--set"),
        (["plan", "digits", "--set", f"stages.1.layers={SPACED}"], "layers"),
        (["plan", LONG], "no recipe of this name"),
        (["evaluate", "c_efficientnet:tiny,classes=10", "--dataset", LONG], "dataset"),
        (["evaluate", f"c_efficientnet:{LONG}"], "is not a preset"),
        (["score", "c_efficientnet:tiny", "--convention", SPACED], "convention"),
        (["apply", LONG, "c_efficientnet:tiny", "--out", "x"], "no such stage"),
        (["list", SPACED], "list"),
        (["report", LONG], ""),
        (["evaluate", "a\x1b[2Jb.netpress"], r"a\x1b[2Jb.netpress"),
    ],
)
def test_commands_quote_little_of_what_is_wrong(words: list[str], named: str, call: Call) -> None:
    start = time.process_time()
    code, _, err = call(*words)
    assert code in (1, 2)
    assert named in err and fits(err.rstrip("\n")), err[:2000]
    assert time.process_time() - start < 10


def test_what_a_file_says_is_shown_and_not_followed(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(f'name = {json.dumps(ESCAPES)}\n[model]\nfamily = "resnet"\n')
    code, _, err = call("plan", "bad.toml")
    assert code == 2 and fits(err.rstrip("\n"))


@given(text=st.text() | st.text("'\" a", max_size=400))
def test_messages_of_any_text_are_readable(text: str) -> None:
    for message in (text, f"{text}: no such file", f"setting {text!r} is wrong", text * 50):
        assert fits(str(Failure(message)))
        assert fits(readable(message))
    assert all(letter.isprintable() or letter in "\n\t" for letter in visible(text))


def test_short_messages_stay_as_they_are() -> None:
    path = "/home/somebody/with some space/" + "folder/" * 20 + "network.netpress"
    for message in (
        f"{path}: no such file; is the run's folder the users' own?",
        "'matches nothing': kinds are 'stem' and \"all\"; it's the network's layers that 'conv' names, so 'keep' is it",
        "first problem\nsecond problem",
        "café: größer als 3 m²",
    ):
        assert str(UserError(message)) == message


def test_long_quotes_are_cut_and_the_rest_is_kept() -> None:
    said = str(UserError(f"setting '{SPACED}' is wrong; choose 'a' or 'b'"))
    assert said.startswith("setting 'ab ab ") and said.endswith("' is wrong; choose 'a' or 'b'")
    assert len(said) < 200
    assert len(quote(LONG)) < QUOTED + 40 and quote("a'\x1b") == '"a\'\\x1b"'
    assert "more than 80 digits" in quote(10**5000) and quote(-12) == "-12"


def test_warnings_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    console = Console(log=tmp_path / "log.txt")
    console.warn("a\x1b[2Jb left out")
    console.say("c\x07d")
    out, err = capsys.readouterr()
    assert (out, err) == ("c\\x07d\n", "warning: a\\x1b[2Jb left out\n")
    assert "\x1b" not in (tmp_path / "log.txt").read_text()
