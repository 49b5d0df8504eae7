"""The templates, styles and scripts that lie in this folder."""

from importlib import resources

import jinja2
from markupsafe import Markup

from netpress.report.figures import FILTERS


def find_template(name: str) -> jinja2.Template:
    """A template by its file's name; it escapes every text that it is given."""
    templates = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= FILTERS
    return templates.get_template(name)


def read_parts(*names: str) -> Markup:
    """Styles or scripts of this room, one after the other, as they go into a page."""
    return Markup("".join(map(_read, names)))


def _read(name: str) -> str:
    return (resources.files("netpress.report") / name).read_text(encoding="utf-8")
