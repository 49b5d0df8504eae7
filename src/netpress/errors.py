"""The two ways in which a command can fail, and what a person reads.

    raise UserError("--data elsewhere: no such folder; name the one that holds train/ and test/")

A message says what was wrong, where, and what to do. The command line prints it without a traceback and exits with
`exit_code`.

Messages quote recipes, files and command lines, which may hold anything: a value of 100,000 letters, letters that move
the cursor. So `NetpressError` makes every message fit to be read.
"""

import re
from collections.abc import Sequence
from typing import Any

QUOTED = 80  # letters of one quoted value
LINE = 1200  # letters of one line of a message
LINES = 40
_WORD = 400  # letters without a space: longer than any path that people have


class NetpressError(Exception):
    """Anything that netpress itself reports. Not raised directly."""

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(readable(str(message)))


class UserError(NetpressError):
    """What the user wrote cannot be done: a setting, a name, a path, a file of a wrong kind."""

    exit_code = 2


class Failure(NetpressError):
    """What was asked is sound, but it failed: a full disk, a damaged file, a divergence."""

    exit_code = 1


def quote(value: Any) -> str:
    """`value` as Python writes it, in at most QUOTED letters: for messages."""
    if isinstance(value, int) and abs(value) >= 10**QUOTED:
        return f"a number of more than {QUOTED} digits"  # Python refuses to write out thousands
    try:
        return shorten(repr(value), QUOTED)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"


def shorten(text: str, limit: int) -> str:
    """`text` in at most about `limit` letters: its beginning, how much is left out, its end."""
    if len(text) <= limit:
        return text
    end = limit // 4
    return f"{text[: limit - end]}...({len(text) - limit:,} letters)...{text[-end:]}"


SHOWN = 5  # names listed in a message before it says how many more


def some_of(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are: `a, b, c, d, e and 7 more`."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def visible(text: str) -> str:
    """`text` with everything that is not printed written as an escape (\\x1b), lines and tabs left as they are."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else _escape(letter) for letter in text)


def readable(message: str) -> str:
    """A message as a person is shown it: visible, no endless words, lines or lists."""
    lines = message.split("\n")
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"... and {len(lines) - LINES + 1:,} more"]
    return "\n".join(_readable_line(line) for line in lines)


# What stands between quotes; an apostrophe is none, nor is a closing quote the beginning of another text.
_LONG_QUOTE = re.compile(rf"(?<!\w)(['\"])(?=[^\s,.:;)])((?:(?!\1(?!\w)).){{{QUOTED + 40},}})\1(?!\w)")
_LONG_WORD = re.compile(rf"\S{{{_WORD + 1},}}")


def _readable_line(line: str) -> str:
    line = _LONG_WORD.sub(lambda word: shorten(word[0], _WORD // 2), visible(line).replace("\t", " "))
    line = shorten(line, 4 * LINE)  # what follows looks at some letters many times
    return shorten(_LONG_QUOTE.sub(lambda text: text[1] + shorten(text[2], QUOTED) + text[1], line), LINE)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
