"""What is taken for what: a heat map, the pairs confused most, and the classes one by one."""

from collections.abc import Sequence

from markupsafe import Markup

from netpress.report.answers import Answers, Pair
from netpress.report.figures import percent, share, whole
from netpress.report.stages import write_interval
from netpress.report.tables import Cell, Table

MOST_NAMES = 24  # classes whose names stand beside the map; more could not be read
MOST_COUNTS = 12  # classes whose counts stand in its cells
SIDE = 520  # of the map, in the drawing's units
LEVELS = 8  # of colour
LETTERS = 14  # of a name beside the map
MOST_PAIRS = 12
WORST = 20  # classes that are shown at once, of more


def draw_confusion(answers: Answers) -> Markup | None:
    """A heat map: true classes down, given ones across; the share of the true class as a colour. None of one class."""
    classes = len(answers.classes)
    if classes < 2 or not answers.matrix:
        return None
    named = classes <= MOST_NAMES
    room = 8 + 7.2 * max(len(_short(one.name)) for one in answers.classes) if named else 2
    cell = SIDE / classes
    drawn = [*_cells(answers, room, cell), _frame(room)]
    if classes <= MOST_COUNTS:
        drawn += [_count(pair, answers, room, cell) for pair in answers.matrix]
    drawn += _names(answers, room, cell) if named else []
    top = f"{classes} classes; " + "; ".join(tell_pair(pair, answers) for pair in answers.confused[:3])
    return Markup(
        '<figure class="plot confusion"><svg viewBox="0 0 {0:.0f} {0:.0f}" style="max-width:{0:.0f}px" role="img" '
        'aria-label="Confusion of {1}">{2}</svg>{3}</figure>'
    ).format(room + SIDE + 4, top, Markup().join(drawn), _legend())


def tell_pair(pair: Pair, answers: Answers) -> str:
    """3 of 40 cat taken for dog."""
    one, other = answers.classes[pair.label], answers.classes[pair.predicted]
    return f"{pair.images} of {one.images} {one.name} taken for {other.name}"


def tabulate_pairs(answers: Answers) -> Table | None:
    """The pairs of classes confused most."""
    rows = []
    for pair in answers.confused[:MOST_PAIRS]:
        one, other = answers.classes[pair.label], answers.classes[pair.predicted]
        part = share(pair.images, one.images)
        rows.append(
            [
                Cell(one.name, one.name),
                Cell(other.name, other.name),
                Cell(whole(pair.images), pair.images),
                Cell(percent(part, 1), part, part),
            ]
        )
    return (
        Table(["true class", "taken for", "images", "of the class"], [False, False, True, True], rows) if rows else None
    )


def tabulate_classes(answers: Answers, places: Sequence[int]) -> Table:
    """The classes at these places: accuracy with its interval and bar, and what is taken for what most."""
    rows = []
    for place in places:
        one = answers.classes[place]
        wrong = ", ".join(f"{answers.classes[other].name} ({count})" for other, count in one.taken_for[:3])
        accuracy = one.accuracy
        rows.append(
            [
                Cell(one.name, one.name),
                Cell(whole(one.images), one.images),
                Cell(whole(one.right), one.right),
                Cell(percent(accuracy, 1), -1.0 if accuracy is None else accuracy, accuracy),
                Cell(write_interval(one.interval, 0), one.interval[0] if one.interval else -1.0),
                Cell(wrong or "none", wrong),
            ]
        )
    columns = ["class", "test images", "right", "accuracy", "95% interval", "most often taken for"]
    return Table(columns, [False, True, True, True, True, False], rows)


def order_classes(answers: Answers) -> list[int]:
    """The places of the classes, the least accurate first; those without images last."""

    def key(place: int) -> tuple[float, int]:
        accuracy = answers.classes[place].accuracy
        return (2.0 if accuracy is None else accuracy), place

    return sorted(range(len(answers.classes)), key=key)


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def _level(pair: Pair, answers: Answers) -> int:
    """1 to LEVELS: small shares are told apart best, since in them lie the mistakes."""
    part = share(pair.images, answers.classes[pair.label].images)
    return max(1, min(LEVELS, round(part**0.5 * LEVELS)))


def _cells(answers: Answers, room: float, cell: float) -> list[Markup]:
    """One path for each colour, so that a hundred classes stay small."""
    squares: dict[tuple[str, int], list[str]] = {}
    for pair in answers.matrix:
        kind = "right" if pair.label == pair.predicted else "wrong"
        x, y = room + pair.predicted * cell, room + pair.label * cell
        squares.setdefault((kind, _level(pair, answers)), []).append(
            f"M{x:.1f},{y:.1f}h{cell:.1f}v{cell:.1f}h-{cell:.1f}z"
        )
    return [
        Markup('<path class="cell {}" style="fill-opacity:{:.3f}" d="{}"/>').format(
            kind, level / LEVELS, "".join(paths)
        )
        for (kind, level), paths in sorted(squares.items())
    ]


def _frame(room: float) -> Markup:
    return Markup('<rect class="rule" fill="none" x="{0:.1f}" y="{0:.1f}" width="{1}" height="{1}"/>').format(
        room, SIDE
    )


def _count(pair: Pair, answers: Answers, room: float, cell: float) -> Markup:
    strong = _level(pair, answers) > LEVELS // 2
    return Markup('<text class="across{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
        " on" if strong else "", room + (pair.predicted + 0.5) * cell, room + (pair.label + 0.5) * cell + 4, pair.images
    )


def _names(answers: Answers, room: float, cell: float) -> list[Markup]:
    drawn = []
    for place, one in enumerate(answers.classes):
        middle = room + (place + 0.5) * cell
        name = _short(one.name)
        drawn.append(Markup('<text class="up" x="{:.1f}" y="{:.1f}">{}</text>').format(room - 6, middle + 4, name))
        drawn.append(
            Markup('<text transform="translate({:.1f},{:.1f}) rotate(-90)">{}</text>').format(
                middle + 4, room - 6, name
            )
        )
    return drawn


def _legend() -> Markup:
    key = Markup(
        '<span><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="cell {}" width="10" height="10"/></svg>'
        "{}</span>"
    )
    return Markup("<figcaption>{}{}<span>{}</span></figcaption>").format(
        key.format("right", "right"),
        key.format("wrong", "taken for another"),
        "A row is a true class, a column what the network says; the stronger the colour, the larger the share.",
    )
