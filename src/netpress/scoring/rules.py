"""A counting rule: its words, its source, and the code that applies it, in one object.

    @rule("an upsampled value is 1 multiplication", "OSI AI")
    def upsampling(window, outputs): ...

    upsampling(4, 64)     counts by the rule
    upsampling.text       says it, for `netpress score --explain`

The words stand on the function and cannot be listed without it: a rule that goes takes its words along.
"""

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Rule(Generic[P, R]):
    """One counting rule: `text` says it in words, `source` where it comes from, and calling it applies it."""

    def __init__(self, text: str, source: str, apply: Callable[P, R]) -> None:
        self.text, self.source, self.apply = text, source, apply

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.apply(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Rule({self.text!r}, {self.source!r})"


def rule(text: str, source: str) -> Callable[[Callable[P, R]], Rule[P, R]]:
    """Make a function the rule that `text` says and that comes from `source`."""
    return lambda apply: Rule(text, source, apply)
