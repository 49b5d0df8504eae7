"""`verify` counts with the official convention itself: whatever rule of it breaks, some case disagrees."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from netpress.models.registry import parse_model
from netpress.scoring import (
    CONVENTIONS,
    Rule,
    arithmetic,
    card,
    choose_settings,
    official,
    official_rules,
    official_storage,
    trace,
    verify,
    widths,
)
from netpress.scoring.card import Tally
from netpress.scoring.official_storage import Storage
from netpress.scoring.widths import Widths

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[1] / "data"
COUNTER, RULES = DATA / "counting_vectors.json", DATA / "rule_vectors.json"
MODULES = (card, widths, official_storage, official_rules, arithmetic)
OFFICIAL = list({id(one): one for part in MODULES for one in vars(part).values() if isinstance(one, Rule)}.values())


def disagreements() -> int:
    return sum(len(verify(path).disagreements) for path in (COUNTER, RULES))


def test_the_cases_counted_by_hand_agree() -> None:
    assert verify(RULES).disagreements == ()


def test_every_official_rule_has_a_case_of_its_own() -> None:
    cases = {case["rule"] for case in json.loads(RULES.read_text())["rules"]}
    assert len(OFFICIAL) >= 20 and {one.text for one in OFFICIAL} == cases


def wrong(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool | str):
        return not value if isinstance(value, bool) else ""
    if isinstance(value, dict):
        return {} if value else {"norm": "conv"}
    if isinstance(value, tuple):
        parts = [wrong(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return 3 * value + 1


@pytest.mark.parametrize("broken", OFFICIAL, ids=lambda one: one.apply.__name__)
def test_a_broken_rule_is_found(broken: Rule[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = broken.apply
    monkeypatch.setattr(broken, "apply", lambda *args, **more: wrong(real(*args, **more)))
    found: list[Any] = []
    try:
        found = [*verify(RULES).disagreements, *verify(COUNTER).disagreements]
    except (KeyError, ValueError, TypeError) as error:
        found = [error]
    assert found


def scaled(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **more: wrong(function(*args, **more))


def without_mask(self: Tally, bits: float, mask_bits: float = 0.0, *more: Any) -> None:
    STORE(self, bits, 0.0, *more)


def tripled(self: Tally, bits: float, *more: Any) -> None:
    STORE(self, 3 * bits, *more)


STORE = Tally.store
BREAKS: dict[str, tuple[Any, str, Any]] = {
    "storage tripled": (Tally, "store", tripled),
    "mask bits gone": (Tally, "store", without_mask),
    "no additions": (Tally, "add", lambda *_: None),
    "no multiplications": (Tally, "multiply", lambda *_: None),
    "no biases stored": (Storage, "_charge", lambda *_: None),
    "no norms stored": (Storage, "charge_values", lambda *_: None),
    "no permutation stored": (Storage, "charge_permutation", lambda *_: None),
    "width of biases": (official._Counter, "_bias_bits", scaled(official._Counter._bias_bits)),
    "width of float additions": (official._Counter, "_float_add", scaled(official._Counter._float_add)),
    "no norms": (official._Counter, "_norm", lambda *_: None),
    "no single values": (official._Counter, "_single_values", lambda *_: None),
    "no sums of values": (official._Counter, "_sums_of_values", lambda *_: None),
    "no quantizers": (official._Counter, "_quantize", lambda *_: None),
    "no products": (official._Counter, "_products", lambda *_: None),
    "width of multiplications": (Widths, "multiplication", scaled(Widths.multiplication)),
    "width of sums": (Widths, "sum_bits", scaled(Widths.sum_bits)),
    "accumulators": (Widths, "accumulator", lambda *_: "16"),
    "width of single values": (Widths, "element", scaled(Widths.element)),
    "no scaling": (Widths, "needs_scaling", staticmethod(lambda *_: False)),
    "no scales stored": (Widths, "scale_bits", staticmethod(lambda *_: 0)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_step_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, replacement = BREAKS[name]
    monkeypatch.setattr(owner, attribute, replacement)
    assert disagreements()


@pytest.mark.parametrize("name", ["kaist", "wave", "uci", "imt"])
def test_every_rule_that_a_convention_lists_is_applied(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        traces = [trace(parse_model(model).build(), (3, 32, 32)) for model in ("efficientnet:ex", "c_efficientnet:v1")]
    settings, used = choose_settings(name), set()
    rules = CONVENTIONS[name].count(traces[0], settings, {}).rules
    for one in rules:
        real = one.apply
        monkeypatch.setattr(one, "apply", lambda *args, one=one, real=real: (used.add(one), real(*args))[1])
    for traced in traces:
        CONVENTIONS[name].count(traced, settings, {})
    assert [one.text for one in rules if one not in used] == []
