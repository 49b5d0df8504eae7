"""Whether the network is right as often as it says: accuracy against probability, as a drawing."""

from collections.abc import Sequence

from markupsafe import Markup

from netpress.report.answers import Bin
from netpress.report.figures import percent, whole

SIDE, LEFT, TOP, FOOT = 300, 46, 12, 46


def draw_calibration(bins: Sequence[Bin]) -> Markup | None:
    """Bars of accuracy over the probability of each bin, and the line on which both are equal; None without bins.

    A bar is the wider, the more images the bin has.
    """
    if not bins:
        return None
    most = max(one.images for one in bins)
    drawn = [_rules(), _line()]
    for one in bins:
        width = max(2.0, 0.92 * SIDE / len(bins) if len(bins) > 15 else 0.92 * SIDE * (one.up_to - one.above))
        width *= 0.25 + 0.75 * (one.images / most) ** 0.5
        middle = LEFT + SIDE * (one.above + one.up_to) / 2
        title = (
            f"{whole(one.images)} images of {percent(one.probability, 1)} on average: {percent(one.accuracy, 1)} right"
        )
        drawn.append(
            Markup(
                '<rect class="mark-shape" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
            ).format(middle - width / 2, TOP + SIDE * (1 - one.accuracy), width, max(0.5, SIDE * one.accuracy), title)
        )
    told = "; ".join(f"{percent(one.probability, 0)} sure: {percent(one.accuracy, 0)} right" for one in bins)
    return Markup(
        '<figure class="plot colour-0 calibration"><svg viewBox="0 0 {} {}" style="max-width:{}px" role="img" '
        'aria-label="Accuracy against probability: {}">{}</svg></figure>'
    ).format(LEFT + SIDE + 24, TOP + SIDE + FOOT, round(1.2 * (LEFT + SIDE)), told, Markup().join(drawn))


def _rules() -> Markup:
    drawn = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = LEFT + SIDE * tick, TOP + SIDE * (1 - tick)
        drawn.append(
            Markup(
                '<line class="rule" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
                '<text class="up" x="{}" y="{:.1f}">{label}</text>'
                '<text class="across" x="{:.1f}" y="{}">{label}</text>'
            ).format(LEFT, LEFT + SIDE, LEFT - 6, y + 4, x, TOP + SIDE + 16, y=y, label=percent(tick, 0))
        )
    words = '<text class="axis" x="{}" y="{}">probability it gives; up: share that is right</text>'
    return Markup().join([*drawn, Markup(words).format(LEFT, TOP + SIDE + 36)])


def _line() -> Markup:
    return Markup('<line class="gate" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, LEFT + SIDE, TOP + SIDE, TOP)
