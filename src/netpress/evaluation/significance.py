"""Whether one network is right more often than another by more than chance: exact tests, for small counts too.

    paired_chance(12, 2)             two networks on the same images: each alone right on 12 and on 2 of them
    unpaired_chance(80, 100, 70, 100)    on different images: 80 of 100 right, and 70 of 100

The chance is that of other test images of the same kind. That another seed would train another network is not in it.
"""

import math
from collections.abc import Sequence

_ROUNDING = 1e-9  # relative: counts whose probabilities are equal must not differ by how they were summed


def paired_chance(only_one: int, only_other: int) -> float:
    """How likely it is that two equally good networks differ at least so much on the same images.

    `only_one` images only the one network has right, `only_other` only the other. The exact test of McNemar
    (Psychometrika 1947), two-sided: each such image is the toss of a coin.
    """
    tosses = only_one + only_other
    if only_one == only_other:
        return 1.0
    tail = math.fsum(
        math.exp(_log_choose(tosses, heads) - tosses * math.log(2)) for heads in range(min(only_one, only_other) + 1)
    )
    return min(1.0, 2 * tail)


def unpaired_chance(right: int, images: int, other_right: int, other_images: int) -> float:
    """How likely it is that two equally good networks differ at least so much, each on images of its own.

    Fisher's exact test, two-sided: of all ways in which the right answers could be shared out, those that are no
    likelier than the one found. On images that both networks saw it is too careful; `paired_chance` finds more there.
    """
    total, drawn = images + other_images, right + other_right

    def log_probability(count: int) -> float:
        return _log_choose(images, count) + _log_choose(other_images, drawn - count) - _log_choose(total, drawn)

    found = log_probability(right) + _ROUNDING
    counts = range(max(0, drawn - other_images), min(images, drawn) + 1)
    return min(1.0, math.fsum(math.exp(log) for log in map(log_probability, counts) if log <= found))


def beyond_chance(chances: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several differences are more than chance, so that with probability `level` at most any of them is not.

    Of 100 classes five would pass a test at 5% by chance alone. Holm's procedure (Scandinavian Journal of Statistics
    1979) asks the least likely to pass at `level` / 100, the next at `level` / 99, and so on, up to the first that
    does not.
    """
    passed = [False] * len(chances)
    for place, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        if chances[index] > level / (len(chances) - place):
            break
        passed[index] = True
    return passed


def _log_choose(total: int, drawn: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(drawn + 1) - math.lgamma(total - drawn + 1)
