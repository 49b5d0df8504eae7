"""The stages of a run: a table of what each left, and accuracy against size through them."""

from collections.abc import Sequence

from markupsafe import Markup

from netpress.report.answers import Interval, StageAnswers
from netpress.report.curves import pretty
from netpress.report.facts import RunFacts, StageFacts, number
from netpress.report.figures import decimal, duration, percent, short, size, whole
from netpress.report.plot import CIRCLE, Axis, Frame, draw_line, draw_mark
from netpress.report.tables import Cell, Table, sparsity

FRAME = Frame(width=520, height=280, left=58, right=30, top=26, bottom=48)
LETTER = 7  # units of the drawing that a letter takes, about
KIB = 1024


def write_interval(interval: Interval | None, digits: int = 1) -> str:
    """Both ends: 97.6 to 99.8%."""
    if interval is None:
        return ""
    low, high = interval
    return f"{low * 100:.{digits}f} to {high * 100:.{digits}f}%"


def tabulate_stages(run: RunFacts, measured: dict[str, StageAnswers], select_on: str) -> Table:
    """A row a stage: test accuracy, what the network costs, and what the stage took; columns that nothing fills go."""
    rows = [_row(stage, measured.get(stage.name)) for stage in run.stages]
    columns = [
        "stage",
        "test accuracy",
        "95% interval",
        f"{select_on} accuracy",
        "flash",
        "RAM",
        "non-zero multiply-adds",
        "score",
        "non-zero weights",
        "zeros",
        "time",
    ]
    filled = [place for place, _ in enumerate(columns) if any(row[place].value not in (-1.0, "") for row in rows)]
    return Table(
        [columns[place] for place in filled],
        [place > 0 for place in filled],
        [[row[place] for place in filled] for row in rows],
    )


def _row(stage: StageFacts, answers: StageAnswers | None) -> list[Cell]:
    figures = {**stage.done, **(answers.figures if answers else {})}  # a stage knows its costs before the test
    zeros = sparsity(stage.done)
    low = answers.interval if answers else None
    costs = [
        (figures.get("flash_bytes"), size),
        (figures.get("ram_bytes"), size),
        (figures.get("nonzero_multiply_adds"), short),
        (figures.get("score"), decimal),
        (stage.done.get("nonzeros"), whole),
    ]
    name = stage.name if stage.state == "done" else f"{stage.name} ({stage.state})"
    return [
        Cell(name, name),
        Cell(percent(answers.accuracy), answers.accuracy) if answers else Cell(percent(None), -1.0),
        Cell(write_interval(low) or percent(None), low[0] if low else -1.0),
        Cell(percent(stage.done.get("accuracy")), _order(stage.done.get("accuracy"))),
        *(Cell(write(value), _order(value)) for value, write in costs),
        Cell(percent(zeros, 1), _order(zeros), zeros),
        Cell(duration(stage.seconds or None), _order(stage.seconds or None)),  # 0: it logged nothing that took time
    ]


def _order(value: object) -> float:
    figure = number(value)
    return -1.0 if figure is None else figure


def draw_stages(measured: Sequence[StageAnswers]) -> Markup | None:
    """Test accuracy against flash, a mark a stage with its interval, joined in order; None for fewer than two."""
    known = [(one, flash) for one in measured if (flash := number(one.figures.get("flash_bytes")))]
    if len(known) < 2:
        return None
    ends = [end for one, _ in known for end in (one.interval or (one.accuracy, one.accuracy))]
    if max(ends) - min(ends) < 0.01:
        ends += [max(0.0, min(ends) - 0.005), min(1.0, max(ends) + 0.005)]
    x = FRAME.across([flash / KIB for _, flash in known], may_be_logarithmic=True)
    y = FRAME.up(ends)
    places = [(x(flash / KIB), y(one.accuracy)) for one, flash in known]
    drawn = [FRAME.rules(x, y, f"flash, KiB{', logarithmic' if x.logarithmic else ''} (less is better)", _kib)]
    marks = [draw_line(places)]
    for (one, flash), place in zip(known, places, strict=True):
        marks += [_bar(one.interval, place[0], y), _mark(one, flash, place)]
    drawn.append(Markup('<g class="colour-0">{}</g>').format(Markup().join(marks)))
    drawn += _names([one for one, _ in known], places)
    told = "; ".join(f"{pretty(one.name)} {percent(one.accuracy)} at {size(flash)}" for one, flash in known)
    return FRAME.figure(drawn, f"Test accuracy against flash through the stages: {told}")


def _kib(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _bar(interval: Interval | None, x: float, y: Axis) -> Markup:
    if interval is None:
        return Markup()
    low, high = (y(max(y.least, min(y.most, end))) for end in interval)
    bar = '<path class="spread" fill="none" d="M{0:.1f},{1:.1f}V{2:.1f}M{3:.1f},{1:.1f}h8M{3:.1f},{2:.1f}h8"/>'
    return Markup(bar).format(x, low, high, x - 4)


def _mark(one: StageAnswers, flash: float, place: tuple[float, float]) -> Markup:
    interval = write_interval(one.interval, 2)
    title = f"{pretty(one.name)}: {percent(one.accuracy)}" + (f" ({interval})" if interval else "")
    return draw_mark(CIRCLE, *place, f"{title}, {size(flash)} of flash")


def _names(measured: Sequence[StageAnswers], places: Sequence[tuple[float, float]]) -> list[Markup]:
    """The stages' names beside their marks: above, or below where one stands there already."""
    drawn: list[Markup] = []
    taken: list[tuple[float, float, float]] = []  # left, right, baseline
    for one, (x, y) in zip(measured, places, strict=True):
        text = pretty(one.name)
        length = LETTER * len(text)
        left = x + 9 if x + 9 + length <= FRAME.width else x - 9 - length
        spots = [y - 9 + 16 * step for step in (0, 1.6, -1, 2.6, -2)]
        free = [
            spot
            for spot in spots
            if FRAME.top - 14 <= spot <= FRAME.height - FRAME.bottom
            and all(left > end or left + length < start or abs(spot - line) >= 14 for start, end, line in taken)
        ]
        spot = free[0] if free else spots[0]
        taken.append((left, left + length, spot))
        drawn.append(Markup('<text class="name" x="{:.1f}" y="{:.1f}">{}</text>').format(left, spot, text))
    return drawn
