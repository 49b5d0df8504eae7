"""The page of a chain: who teaches whom, what each network came to, and accuracy against score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from markupsafe import Markup

from netpress.folders.run import REPORT
from netpress.report.figures import decimal, duration, percent, short
from netpress.report.plot import COLOURS
from netpress.report.sizes import SIZE_COLUMNS, read_sizes, size_cells
from netpress.report.sweep import SCORE, Measure, Point, draw_points
from netpress.report.tables import Cell, Table
from netpress.report.templates import find_template, read_parts

BEGINS = "begins with"
GATES = {"cifar10": 0.9, "cifar100": 0.8}
WIDE = Measure(SCORE.name, SCORE.write, may_be_logarithmic=True)  # a teacher costs many times what its pupil does
BOX, GAP = (196, 74), (86, 26)  # width and height of a box, and the room between boxes
MARGIN = 8
READABLE = 0.65  # of its size is the least that a drawing is shown at: below, one moves it sideways
LETTERS = {"title": 18, "figures": 23, "small": 26}  # that fit into a box
LANE = 10  # between arrows that run below boxes


@dataclass(frozen=True)
class Link:
    """One network of the chain."""

    name: str
    needs: Mapping[str, str]
    """Other network -> what for: begins with it, is taught by it."""
    description: str
    data: str
    state: str
    """done, not begun, not finished, or failed with its message."""
    convention: str
    """By which its score is counted."""
    figures: Mapping[str, Any]
    """As score.json has them, with seconds, file_bytes and sparsity; empty before the network is done."""

    @property
    def begins_with(self) -> str | None:
        """The network whose result this one begins with."""
        return next((name for name, verb in self.needs.items() if verb == BEGINS), None)

    @property
    def teachers(self) -> list[str]:
        return [name for name, verb in self.needs.items() if verb != BEGINS]

    @property
    def beside(self) -> Mapping[str, Any]:
        """Further score cards by name."""
        return self.figures.get("beside", {})

    @property
    def page(self) -> str:
        """Where the network's own page lies, seen from the chain's."""
        return str(PurePosixPath(self.name) / REPORT)


def render_chain(name: str, description: str, result: str, links: Sequence[Link], recipe_text: str) -> str:
    """The page as HTML. Every text that comes from the recipe is escaped."""
    done = [link for link in links if link.state == "done"]
    dataset = next(link.data for link in links if link.name == result)
    return find_template("chain.html").render(
        name=name,
        description=description,
        result=next(link for link in links if link.name == result),
        dataset=dataset,
        finished=len(done) == len(links),
        state=f"{len(done)} of {len(links)} networks finished",
        failures=[link for link in links if link.state.startswith("failed")],
        links=links,
        drawing=draw_chain(links, result),
        table=tabulate(links),
        plot=draw_points([_point(link) for link in done], GATES.get(dataset), WIDE),
        recipe_text=recipe_text,
        style=read_parts("page.css", "plot.css", "chain.css"),
        script=read_parts("page.js"),
    )


def tabulate(links: Sequence[Link]) -> Table:
    """A row a network, with its score by each convention that counts any of them."""
    beside = list(dict.fromkeys(name for link in links for name in link.beside))
    conventions = list(dict.fromkeys(link.convention for link in links))
    score = f"score ({conventions[0]})" if len(conventions) == 1 else "score"
    names = ["network", BEGINS, "taught by", "accuracy", score, *(f"score ({name})" for name in beside)]
    rows = []
    for link in links:
        figures = link.figures
        texts = [link.name, link.begins_with or "", ", ".join(link.teachers)]
        scores = [figures.get("score"), *(link.beside.get(name, {}).get("score") for name in beside)]
        rows.append(
            [
                Cell(texts[0], texts[0], link=link.page if figures else ""),
                *(Cell(text, text) for text in texts[1:]),
                _number(percent, figures.get("accuracy")),
                *(_number(decimal, value) for value in scores),
                _number(short, figures.get("params")),
                _number(short, figures.get("operations")),
                *size_cells(read_sizes(figures)),
                _number(percent, figures.get("sparsity"), 1),
                _number(short, figures.get("file_bytes")),
                _number(duration, figures.get("seconds")),
                Cell(link.state, link.state),
            ]
        )
    names += ["parameters", "operations", *SIZE_COLUMNS, "sparsity", "file bytes", "time", "state"]
    numeric = [False] * 3 + [True] * (len(names) - 4) + [False]
    return Table(names, numeric, rows)


def _number(write: Any, value: Any, *digits: int) -> Cell:
    return Cell(write(value, *digits), -1.0 if value is None else value)


def _point(link: Link) -> Point:
    accuracy, score = link.figures["accuracy"], link.figures["score"]
    return Point(link.name, "", score, accuracy, 0.0, ((score, accuracy),))


def draw_chain(links: Sequence[Link], result: str) -> Markup:
    """An SVG: a box a network, from left to right in the order in which they need each other, and arrows between."""
    places = _place(links)
    lanes = _lanes(links, places)
    width = MARGIN + max(x for x, _ in places.values()) + BOX[0] + MARGIN
    height = MARGIN + max([*(y + BOX[1] for _, y in places.values()), *lanes.values()]) + MARGIN
    arrows = [
        _draw_arrow(places[other], places[link.name], verb, lanes.get((other, link.name)))
        for link in links
        for other, verb in link.needs.items()
    ]
    boxes = [_draw_box(link, places[link.name], place, link.name == result) for place, link in enumerate(links)]
    told = "; ".join(
        f"{link.name} {' and '.join(f'{verb} {other}' for other, verb in link.needs.items()) or 'learns from labels'}"
        for link in links
    )
    return Markup(
        '<figure class="plot chain"><svg viewBox="0 0 {0} {1}" style="max-width:{0}px;min-width:{4}px" role="img" '
        'aria-label="{2}">'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0,0L8,4L0,8z"/></marker></defs>{3}</svg></figure>'
    ).format(width, height, told, Markup().join([*arrows, *boxes]), round(READABLE * width))


def _place(links: Sequence[Link]) -> dict[str, tuple[int, int]]:
    """The upper left corner of each box: a column right of all that it needs, a row of its own within the column."""
    columns: dict[str, int] = {}
    for link in links:  # each stands after those that it needs
        columns[link.name] = max((columns[other] + 1 for other in link.needs), default=0)
    rows: dict[int, int] = {}
    places = {}
    for name, column in columns.items():
        row = rows.get(column, 0)
        rows[column] = row + 1
        places[name] = (MARGIN + column * (BOX[0] + GAP[0]), MARGIN + row * (BOX[1] + GAP[1]))
    return places


def _lanes(links: Sequence[Link], places: Mapping[str, tuple[int, int]]) -> dict[tuple[str, str], int]:
    """How far down an arrow runs that passes columns, by both its ends: below their boxes, a lane for each start."""
    passing = [(other, link.name) for link in links for other in link.needs]
    passing = [(one, end) for one, end in passing if places[end][0] - places[one][0] > BOX[0] + GAP[0]]
    starts = list(dict.fromkeys(one for one, _ in passing))
    return {
        (one, end): max(y for x, y in places.values() if places[one][0] < x < places[end][0])
        + BOX[1]
        + LANE * (1 + starts.index(one))
        for one, end in passing
    }


def _draw_arrow(start: tuple[int, int], end: tuple[int, int], verb: str, lane: int | None) -> Markup:
    """From the right side of one box to the left side of another; dashed where the other begins with the one.

    In the room right of its column and left of the other's it leaves and takes the height of its lane, if it has one.
    """
    (x, y), (right, down) = (start[0] + BOX[0], start[1] + BOX[1] // 2), (end[0], end[1] + BOX[1] // 2)
    kind = "begins" if verb == BEGINS else "teaches"
    path = f"M{x},{y}" + (_bend(x, y, right - 1, down) if lane is None else "")
    if lane is not None:
        near, far = x + GAP[0] - 4, right - GAP[0] + 4
        path += _bend(x, y, near, lane) + _bend(near, lane, far, lane) + _bend(far, lane, right - 1, down)
    return Markup('<path class="arrow {}" marker-end="url(#head)" d="{}"><title>{}</title></path>').format(
        kind, path, verb
    )


def _bend(x: int, y: int, right: int, down: int) -> str:
    """A curve that leaves and comes in level."""
    middle = (x + right) // 2
    return f"C{middle},{y} {middle},{down} {right},{down}"


def _draw_box(link: Link, place: tuple[int, int], number: int, is_result: bool) -> Markup:
    x, y = place
    figures = link.figures
    says = f"{percent(figures.get('accuracy'))} · {decimal(figures.get('score'))}" if figures else link.state
    lines = [("title", link.name, 24), ("figures", says, 44)]
    if figures:
        lines.append(("small", f"{short(figures.get('params'))} parameters", 62))
    texts = [
        Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, x + 14, y + down, _fit(text, LETTERS[kind]))
        for kind, text, down in lines
    ]
    box = Markup(
        '<g class="box {} colour-{}"><rect x="{}" y="{}" width="{}" height="{}" rx="6"/>{}<title>{}</title></g>'
    ).format(
        "result" if is_result else "",
        number % COLOURS,
        x,
        y,
        *BOX,
        Markup().join(texts),
        link.description or link.name,
    )
    # A network that is not done has no page.
    return Markup('<a href="{}">{}</a>').format(link.page, box) if figures else box


def _fit(text: str, letters: int) -> str:
    """Cut to the width of a box."""
    return text if len(text) <= letters else f"{text[: letters - 1]}\N{HORIZONTAL ELLIPSIS}"
