"""The page of a search: one HTML file that any browser opens offline."""

from collections.abc import Mapping, Sequence

from netpress.report.board import GATE
from netpress.report.sweep import Measure, Point, draw_points
from netpress.report.tables import Table
from netpress.report.templates import find_template, read_parts


def render_search(
    *,
    name: str,
    description: str,
    state: str,
    finished: bool,
    dataset: str,
    points: Mapping[Measure, Sequence[Point]],
    words: str,
    front: Table,
    trials: Table,
    recipe_text: str,
) -> str:
    """The page as HTML. Every text that comes from the search is escaped. `words` say what the table `front` holds."""
    gate = GATE if dataset == "cifar100" else None
    return find_template("search.html").render(
        name=name,
        description=description,
        state=state,
        finished=finished,
        dataset=dataset,
        plots={measure.name: draw_points(dots, gate, measure, keys=False) for measure, dots in points.items() if dots},
        words=words,
        front=front,
        trials=trials,
        recipe_text=recipe_text,
        style=read_parts("page.css", "plot.css", "comparison.css"),
        script=read_parts("page.js"),
    )
