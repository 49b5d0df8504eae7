"""Write docs/settings.md from the code: every setting of every stage, with its default and meaning.

python docs/generate_settings.py          (a test asserts that the page is up to date)
"""

import ast
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from netpress.data import DataSettings
from netpress.models.registry import FAMILIES
from netpress.recipe.policy_schema import PolicySearch
from netpress.recipe.search_schema import Search
from netpress.scoring import CONVENTIONS, Limits
from netpress.settings import Settings
from netpress.stage import STAGES

PAGE = Path(__file__).parent / "settings.md"
INTRODUCTION = """# Settings

Every setting that a recipe may state, made from the code by `python docs/generate_settings.py`.
Alternatives, such as optimizers, are told apart by their `kind`.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    seen: set[type[Settings]] = set()
    for title, settings in _sections():
        parts.append(f"## {title}\n\n{_summary(settings)}\n\n{_table(settings)}")
        parts += [_subsection(nested, seen) for nested in _nested(settings, seen)]
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, type[Settings]]]:
    yield "[data]", DataSettings
    yield from ((f"[model] family = {name!r}", family.settings) for name, family in FAMILIES.all().items())
    yield from ((f"[[stages]] kind = {kind!r}", stage.settings) for kind, stage in STAGES.all().items())
    yield from (
        (f"[score] convention = {name!r}", convention.settings) for name, convention in CONVENTIONS.all().items()
    )
    yield "[limits]", Limits
    yield "[search]", Search
    yield "[policy_search]", PolicySearch


def _subsection(settings: type[Settings], seen: set[type[Settings]]) -> str:
    return f"### {settings.__name__}\n\n{_summary(settings)}\n\n{_table(settings)}"


def _nested(settings: type[Settings], seen: set[type[Settings]]) -> Iterator[type[Settings]]:
    """The settings inside these that were not described yet, depth first."""
    for field in settings.model_fields.values():
        for kind in _settings_in(field.annotation):
            if kind not in seen and kind.__name__ != "TrainSettings":
                seen.add(kind)
                yield kind
                yield from _nested(kind, seen)


def _settings_in(annotation: Any) -> Iterator[type[Settings]]:
    if inspect.isclass(annotation) and issubclass(annotation, Settings):
        yield annotation
    for argument in get_args(annotation):
        yield from _settings_in(argument)


def _summary(settings: type[Settings]) -> str:
    return inspect.cleandoc(settings.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def _table(settings: type[Settings]) -> str:
    meanings = _meanings(settings)
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, field in settings.model_fields.items():
        default = "required" if field.default is PydanticUndefined and field.default_factory is None else _show(field)
        meaning = meanings.get(name, "Chooses this." if name == "kind" else "").replace("\n", " ").replace("|", "\\|")
        rows.append(f"| `{name}` | {_type(field.annotation)} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _show(field: Any) -> str:
    value = field.default_factory() if field.default_factory else field.default
    if isinstance(value, Settings):
        return f"`{value.kind}`" if hasattr(value, "kind") else "its defaults"
    if value is None:
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value!r}`"


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in get_args(annotation) if part is not type(None)))
    if origin in (tuple, list):
        return "list of " + _type(get_args(annotation)[0])
    if origin is dict:
        return "table"
    if inspect.isclass(annotation) and issubclass(annotation, Settings):
        return annotation.__name__
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}.get(annotation, str(annotation))


def _meanings(settings: type[Settings]) -> dict[str, str]:
    """The docstring under each field, of the class and of those it extends."""
    found: dict[str, str] = {}
    for kind in reversed([kind for kind in settings.__mro__ if issubclass(kind, Settings) and kind is not Settings]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        statements = typing.cast(ast.ClassDef, body).body
        for field, text in itertools.pairwise(statements):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[typing.cast(ast.Name, field.target).id] = inspect.cleandoc(str(text.value.value))
    return found


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
