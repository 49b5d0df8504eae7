"""Whatever stands in a recipe ends in a plan or in one message a fault, soon and in little memory.

The settings are walked from their own classes, so that a new one is tried by itself; each takes values that have
broken something somewhere. Then the shipped recipes are mutated at random, with their own values.
"""

import copy
import datetime
import functools
import json
import math
import os
import random
import signal
import subprocess
import sys
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netpress.data import DataSettings
from netpress.errors import NetpressError
from netpress.files import dump_toml
from netpress.models.registry import FAMILIES
from netpress.network import create, save
from netpress.recipe.overrides import set_value
from netpress.recipe.reading import load_values, read_recipe, shipped
from netpress.recipe.schema import check_recipe
from netpress.recipe.sweep_schema import Sweep
from netpress.runs import planning
from netpress.runs.recipes import plan_recipe
from netpress.runs.sweep import plan_sweep, read_sweep
from netpress.scoring import CONVENTIONS, Limits
from netpress.settings import Settings, SettingsError
from netpress.stage import STAGES

pytestmark = pytest.mark.slow

SECONDS = 20  # of processor time, whatever else the machine does, for one plan
MEMORY = 1 << 20  # KiB, for a process that tries them all
DEEP: Any = functools.reduce(lambda inner, _: [inner], range(3000), 0)
EDGES: list[Any] = [
    *(0, -1, 1, 2**62, 2**64, 10**5000, -(10**400)),
    *(0.0, 1.0, -0.5, 1e308, -1e308, 5e-324, math.nan, math.inf),
    *("", "a" * 300, "/dev/zero", "/proc/self/mem", "\0", "../..", "é" * 99, "*", "[x]"),
    *([], [[]], {}, [{}], {"kind": "train"}, [0] * 5000, DEEP, True, datetime.date(2019, 12, 1)),
]
SEED = 9
TRIES = 1500  # of some 900 settings, so that each is tried
MUTANTS = 1000
BASE: dict[str, Any] = {
    "name": "edge",
    "data": {"dataset": "digits"},
    "model": {"family": "c_efficientnet", "preset": "tiny"},
    "stages": [{"kind": "train"}],
}
REQUIRED = {"prune": {"amount": 0.5}, "prune_to_gate": {"gate": 0.5}, "prune_channels": {"keep": 0.5}}


def try_alone(name: str, folder: Path) -> None:
    """Call the function `name` of this file in a process of its own in `folder`: what that took is its own memory."""
    code = f"import test_plan_edges as here; here.{name}()"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}; print(here.most_memory())"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= MEMORY


def most_memory() -> int:
    """The most that this process ever took, in KiB. (getrusage would tell the parent's, where that took more.)"""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@contextmanager
def limited(what: object) -> Iterator[None]:
    """The block must end within SECONDS of this process's own time."""

    def ring(*_: Any) -> None:
        raise AssertionError(f"{what}: not done after {SECONDS} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def trace_equal_networks_once() -> None:
    """What is tried here are recipes."""
    known: dict[str, Any] = {}
    real = planning.trace_network

    def trace(network: Any) -> Any:
        key = json.dumps(vars(network.architecture), sort_keys=True)
        if key not in known:
            known[key] = real(network)
        return known[key]

    planning.trace_network = trace


def ends_well(what: object, attempt: Any) -> bool:
    """Whether it gave a plan; else it must have given messages that do not repeat themselves, and nothing else."""
    with limited(what):
        try:
            attempt()
        except NetpressError as error:
            problems = error.problems if isinstance(error, SettingsError) else [str(error)]
            assert all(problems)
            assert len(set(problems)) == len(problems), problems
            return False
        except Exception as error:
            raise AssertionError(f"{what!r:.300}: {type(error).__name__}: {error!s:.300}") from error
    return True


def settings_in(annotation: Any) -> Iterator[type[Settings]]:
    """The settings classes that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from settings_in(argument)


def places(kind: type[Settings], values: dict[str, Any], path: str, depth: int = 0) -> Iterator[tuple[dict, str]]:
    """(recipe, path) of every setting of `kind`, whose table is at `path` of the recipe `values`."""
    for name, field in kind.model_fields.items():
        yield values, f"{path}.{name}"
        for nested in settings_in(field.annotation) if depth < 2 else ():
            inside = copy.deepcopy(values)
            fixed = nested.model_fields.get("kind")
            table = {"kind": fixed.default} if fixed is not None else {}
            many = typing.get_origin(field.annotation) is tuple
            set_value(inside, f"{path}.{name}".split("."), [table] if many else table, "test")
            yield from places(nested, inside, f"{path}.{name}.0" if many else f"{path}.{name}", depth + 1)


def every_setting() -> list[tuple[dict[str, Any], str]]:
    found = [
        (BASE, key) for key in (*BASE, "description", "seed", "score", "limits", "sweep", "extends", "stages.0", "new")
    ]
    found += places(DataSettings, BASE | {"data": {}}, "data")
    for name, convention in CONVENTIONS.all().items():
        found += places(convention.settings, BASE | {"score": {"convention": name}}, "score")
    found += places(Limits, BASE | {"limits": {}}, "limits")
    found += places(Sweep, BASE | {"sweep": {"seeds": [1]}}, "sweep")
    for name, stage in STAGES.all().items():
        values = BASE | {"stages": [{"kind": name, **REQUIRED.get(name, {})}]}
        found += places(stage.settings, values, "stages.0")
    for name, family in FAMILIES.all().items():
        found += places(family.settings, BASE | {"model": {"family": name}}, "model")
    found += [(BASE, "model.preset"), (BASE, "model.network"), (BASE, "model.family")]
    return found


def test_edge_values_of_every_setting(tmp_path: Path) -> None:
    try_alone("try_edge_values", tmp_path)


def try_edge_values() -> None:
    trace_equal_networks_once()
    settings = every_setting()
    assert len(settings) > 250
    assert {"model.expansion", "stages.0.train.average.decay", "stages.0.calibration.percent", "data.image_size"} <= {
        path for _, path in settings
    }
    rng = random.Random(SEED)
    edges: list[Any] = []
    planned = 0
    for number in range(TRIES):
        values, path = settings[number % len(settings)]
        edges = edges or rng.sample(EDGES, len(EDGES))
        value = edges.pop()

        def attempt(values: dict = values, path: str = path, value: Any = value) -> None:
            changed = copy.deepcopy(values)
            set_value(changed, path.split("."), value, "test")
            recipe = check_recipe(changed)
            if recipe.sweep is None:
                plan_recipe(recipe)

        planned += ends_well(
            (path, type(value).__name__, next(place for place, edge in enumerate(EDGES) if edge is value)), attempt
        )
    assert planned > 20  # some edges are fine


def tables_and_lists(value: Any) -> list[Any]:
    if not isinstance(value, dict | list):
        return []
    inner = list(value.values()) if isinstance(value, dict) else value
    return [value, *(found for entry in inner for found in tables_and_lists(entry))]


def mutate(values: dict[str, Any], pool: list[tuple[Any, Any]], rng: random.Random) -> None:
    """One random change of structure, in place; `pool` has keys and values of all recipes."""
    target = rng.choice([found for found in tables_and_lists(values) if found])
    key = rng.choice(list(target) if isinstance(target, dict) else range(len(target)))
    old = target[key]
    other_key, other = rng.choice(pool)
    same = [value for name, value in pool if name == key]
    match rng.choice([0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 8]):
        case 0:
            del target[key]
        case 1:
            target[key] = copy.deepcopy(other)
        case 2:
            target[key] = [old]
        case 3:
            target[key] = {"kind": old}
        case 4 if isinstance(target, dict) and isinstance(other_key, str):
            target[other_key] = copy.deepcopy(other)
        case 5 if isinstance(old, int | float) and not isinstance(old, bool):
            target[key] = old * rng.choice([-1, 0, 2, 1000, 10**6, 10**12])
        case 6 if isinstance(target, list):
            target.insert(0, copy.deepcopy(old))
        case 8 if same:
            target[key] = copy.deepcopy(rng.choice(same))
        case _:
            target[key] = rng.choice([edge for edge in EDGES if edge is not DEEP])


def shrink(model: dict[str, Any]) -> None:
    """A smaller network of the same family, in place."""
    if model.get("preset") in ("v1", "v2"):
        model |= {"preset": "tiny", "released": False, "width_factor": 0.5}
    sizes = {
        "pyramidnet": {"depth": 11, "alpha": 6.0},
        "densenet": {"blocks": [2, 2, 2]},
        "efficientnet": {"width": 0.25, "depth": 0.3},
    }
    model |= sizes.get(model.get("family", ""), {})


def test_mutated_recipes(tmp_path: Path) -> None:
    try_alone("try_mutants", tmp_path)


def try_mutants() -> None:
    """In the folder that the process is in."""
    trace_equal_networks_once()
    for name in ("v1_pr_60", "v2_pr_30", "v2_pr_15"):
        save(create("c_efficientnet", {"widths": "tiny", "width_factor": 0.5}), f"{name}.netpress")
    recipes = {name: load_values(name)[0] for name in shipped()}
    for values in recipes.values():
        for path in values.get("sweep", {}).get("grid", {}):  # two of seven values are as good for this
            values["sweep"]["grid"][path] = values["sweep"]["grid"][path][:2]
        if "seeds" in values.get("sweep", {}):
            values["sweep"]["seeds"] = values["sweep"]["seeds"][:1]
        for table in (values, *values.get("networks", {}).values()):
            shrink(table.get("model", {}))
    pool = [
        item for table in tables_and_lists(list(recipes.values())) if isinstance(table, dict) for item in table.items()
    ]
    rng = random.Random(SEED)
    planned = 0
    for number in range(MUTANTS):
        values = copy.deepcopy(recipes[rng.choice(["digits", *recipes])])
        for _ in range(rng.choice([1, 1, 2, 4])):
            mutate(values, pool, rng)
        path = Path("mutant.toml")

        def attempt(values: dict = values, path: Path = path) -> None:
            try:
                path.write_text(dump_toml(values), encoding="utf-8")
            except (TypeError, ValueError, RecursionError):  # no TOML, but from Python it could come
                plan_recipe(check_recipe(values))
                return
            recipe = read_recipe(str(path))
            if recipe.sweep is not None:
                plan_sweep(read_sweep(str(path)))
            else:
                plan_recipe(recipe)

        planned += ends_well(f"mutant {number}", attempt)
    assert planned > MUTANTS / 10
