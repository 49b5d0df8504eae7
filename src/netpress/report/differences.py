"""Two networks class by class: where one is right more often than the other, and whether by more than chance.

difference = compare_classes("runs/b", its_predictions, against="runs/a", other=their_predictions)
difference.summary, difference.table(), difference.draw()
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from markupsafe import Markup

from netpress.evaluation import Predictions
from netpress.evaluation.significance import beyond_chance, paired_chance, unpaired_chance
from netpress.report.figures import percent
from netpress.report.plot import Axis, Frame
from netpress.report.tables import Cell, Table

FRAME = Frame(width=760, height=240, left=62, right=90, top=24, bottom=50)
WIDEST = 36  # of a bar, in the drawing's units
EXPLANATION = (
    "p: how likely two equally good networks differ as much on such test images, by McNemar's exact test where both "
    "saw the same images, else by Fisher's; more than chance: p is small enough at 5% for all classes together (Holm)"
)


@dataclass(frozen=True)
class ClassDifference:
    """How often two networks are right on the images of one class, or on all."""

    name: str
    images: int
    """Images that the network answered; `against_images`, that the other one did."""
    right: int
    against_images: int
    against_right: int
    p: float
    """How likely two equally good networks differ at least as much: see `netpress.evaluation.significance`."""

    @property
    def accuracy(self) -> float:
        return self.right / self.images

    @property
    def against_accuracy(self) -> float:
        return self.against_right / self.against_images

    @property
    def points(self) -> float:
        """The difference in percentage points, above 0 where the network is right more often than the other."""
        return 100 * (self.accuracy - self.against_accuracy)

    def as_json(self) -> dict[str, Any]:
        """Plain values; accuracies are fractions."""
        figures = {"accuracy": self.accuracy, "against_accuracy": self.against_accuracy, "points": self.points}
        return {"class": self.name} | figures | {key: value for key, value in asdict(self).items() if key != "name"}


@dataclass(frozen=True)
class Difference:
    """One network against another, class by class."""

    network: str
    against: str
    paired: bool
    """Whether both answered the same images, so that these are compared one by one."""
    overall: ClassDifference | None
    """On all images; None where the two do not tell the same classes apart."""
    classes: tuple[ClassDifference, ...]
    """The classes that both know by name and have test images of, the one that differs most first."""
    beyond: tuple[bool, ...]
    """Of each class, whether it differs by more than chance."""

    @property
    def title(self) -> str:
        return f"{self.network} against {self.against}"

    @property
    def summary(self) -> str:
        """What the comparison comes to, in half a sentence."""
        where = "on the same test images" if self.paired else "on different test images"
        count = sum(self.beyond)
        verb = "differs" if count == 1 else "differ"
        told = f"{count} of {len(self.classes)} classes {verb} by more than chance"
        if self.overall is None:
            return f"{where}, only the classes in common: {told}"
        images = f"{self.overall.images:,}"
        if self.overall.images != self.overall.against_images:
            images += f" and {self.overall.against_images:,}"
        return f"{where} ({images}): {self.overall.points:+.2f} points, p {write_p(self.overall.p)}; {told}"

    def table(self, most: int | None = None) -> Table:
        """A row a class, the `most` that differ most."""
        rows = []
        for found, beyond in zip(self.classes[:most], self.beyond[:most], strict=True):
            same = found.images == found.against_images
            images = f"{found.images:,}" if same else f"{found.images:,}, {found.against_images:,}"
            accuracies = [Cell(percent(value), value) for value in (found.accuracy, found.against_accuracy)]
            points = Cell(f"{found.points:+.2f}", found.points)
            cells = [Cell(found.name, found.name), Cell(images, found.images), *accuracies, points]
            rows.append([*cells, Cell(write_p(found.p), found.p), Cell("yes" if beyond else "", str(beyond))])
        columns = ["class", "images", "accuracy", "against", "points", "p", "more than chance"]
        return Table(columns, [False, True, True, True, True, True, False], rows)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        classes = [
            found.as_json() | {"more_than_chance": beyond}
            for found, beyond in zip(self.classes, self.beyond, strict=True)
        ]
        overall = None if self.overall is None else self.overall.as_json()
        named = {"network": self.network, "against": self.against, "paired": self.paired}
        return named | {"overall": overall, "classes": classes}

    def draw(self) -> Markup | None:
        """An SVG: a bar a class, from what gained most to what lost most; None where no class differs."""
        ordered = sorted(zip(self.classes, self.beyond, strict=True), key=lambda pair: -pair[0].points)
        if not any(found.points for found, _ in ordered):
            return None
        y = FRAME.up([0.0, *(found.points for found, _ in ordered)])
        step = (FRAME.width - FRAME.left - FRAME.right) / len(ordered)
        drawn = [_draw_rules(y)]
        for place, (found, beyond) in enumerate(ordered):
            drawn.append(_draw_bar(found, beyond, FRAME.left + (place + 0.5) * step, min(0.8 * step, WIDEST), y))
        most, least = ordered[0][0], ordered[-1][0]
        if most.points > 0:
            drawn.append(_draw_name(most, FRAME.left, y(most.points) - 6, "name"))
        if least.points < 0:
            drawn.append(_draw_name(least, FRAME.width - FRAME.right, y(least.points) + 14, "name up"))
        ends = f"most {_name(most)}, least {_name(least)}"
        return FRAME.figure(drawn, f"Differences of {len(ordered)} classes, {self.title}: {ends}")


def compare_classes(network: str, one: Predictions, against: str, other: Predictions) -> Difference:
    """Compare the answers of `network`, `one`, with those of `against`, `other`: classes by name.

    The classes may stand in another order, and there may be more of them on either side. Both count as tested on the
    same images if the pixels and their classes are the same.
    """
    places = {name: place for place, name in enumerate(other.classes)}
    translation = torch.tensor([places.get(name, -1) for name in one.classes])
    labels = translation[one.labels]  # [images], -1 for a class that the other does not know
    right, against_right = one.predicted == one.labels, other.predicted == other.labels
    paired = one.images == other.images and torch.equal(labels, other.labels)
    sets = [labels, labels[right], other.labels, other.labels[against_right]]
    if paired:
        sets += [labels[right & ~against_right], labels[against_right & ~right]]
    counts = [torch.bincount(kept[kept >= 0], minlength=len(places)).tolist() for kept in sets]

    def tell(name: str, places: Sequence[int]) -> ClassDifference:
        n, k, m, j, *alone = (sum(row[place] for place in places) for row in counts)
        return ClassDifference(name, n, k, m, j, paired_chance(*alone) if paired else unpaired_chance(k, n, j, m))

    common = [place for place in range(len(places)) if counts[0][place] and counts[2][place]]
    found = [tell(other.classes[place], [place]) for place in common]
    found.sort(key=lambda difference: (-abs(difference.points), difference.p))
    overall = tell("", common) if set(one.classes) == set(other.classes) and common else None
    beyond = beyond_chance([difference.p for difference in found])
    return Difference(network, against, paired, overall, tuple(found), tuple(beyond))


def write_p(p: float) -> str:
    """To three places."""
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def _draw_rules(y: Axis) -> Markup:
    left, right = FRAME.left, FRAME.width - FRAME.right
    rule = Markup(
        '<line class="{}" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/><text class="up" x="{}" y="{:.1f}">{}</text>'
    )
    drawn = [
        rule.format(
            "rule" if tick else "zero", left, right, left - 8, y(tick) + 4, f"{tick:+g}" if tick else "0", y=y(tick)
        )
        for tick in y.ticks
    ]
    axis = Markup('<text class="axis" x="{}" y="{}">percentage points, a bar a class; pale: perhaps chance</text>')
    return Markup().join([*drawn, axis.format(left, FRAME.height - 4)])


def _draw_bar(found: ClassDifference, beyond: bool, middle: float, width: float, y: Axis) -> Markup:
    top, foot = sorted((y(found.points), y(0.0)))
    kind = f"{'gain' if found.points > 0 else 'loss'}{'' if beyond else ' pale'}"
    title = f"{_name(found)}: {percent(found.against_accuracy)} to {percent(found.accuracy)}, p {write_p(found.p)}"
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
    ).format(kind, middle - width / 2, top, width, foot - top, title)


def _draw_name(found: ClassDifference, x: float, y: float, kind: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, _name(found))


def _name(found: ClassDifference) -> str:
    return f"{found.name[:60]} {found.points:+.1f}"
