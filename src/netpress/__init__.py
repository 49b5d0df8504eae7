"""netpress trains, compresses, scores and ships tiny image classifiers.

    import netpress
    result = netpress.run("digits", out="runs/first")
    network = netpress.load("runs/first")
    netpress.evaluate(network, dataset="digits").accuracy
    netpress.score(network).score
    netpress.predict(network, "photo.jpg")[0].best.label

Importing netpress imports no torch; the functions do when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netpress.api import compare, evaluate, load, predict, run, save, score, sensitivity, time

__version__ = "0.1.0"
__all__ = ["compare", "evaluate", "load", "predict", "run", "save", "score", "sensitivity", "time"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("netpress.api"), name)
    raise AttributeError(f"module 'netpress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
