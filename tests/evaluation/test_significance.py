"""Exact tests of whether two networks differ, against enumeration in whole numbers and against scipy."""

import itertools
from fractions import Fraction
from math import comb

import pytest

from netpress.evaluation.significance import beyond_chance, paired_chance, unpaired_chance


def test_paired_is_the_toss_of_a_coin_counted_out():
    for one, other in itertools.product(range(9), repeat=2):
        tosses = list(itertools.product((0, 1), repeat=one + other))
        found = abs(one - other)
        as_far = sum(abs(2 * sum(toss) - len(toss)) >= found for toss in tosses)
        assert paired_chance(one, other) == pytest.approx(as_far / len(tosses), abs=1e-12)


def test_unpaired_is_fishers_counted_out():
    for right, images, other_right, other_images in (
        (3, 9, 5, 7),
        (0, 5, 5, 5),
        (2, 4, 2, 4),
        (1, 30, 9, 40),
        (0, 3, 0, 4),
    ):
        drawn = right + other_right
        ways = {
            count: comb(images, count) * comb(other_images, drawn - count)
            for count in range(images + 1)
            if 0 <= drawn - count <= other_images
        }
        as_rare = sum(way for way in ways.values() if way <= ways[right])
        expected = Fraction(as_rare, sum(ways.values()))
        assert unpaired_chance(right, images, other_right, other_images) == pytest.approx(float(expected), abs=1e-9)


def test_as_scipy_has_it_for_a_whole_test_set():
    stats = pytest.importorskip("scipy.stats")
    for one, other in ((520, 610), (3, 19), (0, 40)):
        assert paired_chance(one, other) == pytest.approx(stats.binomtest(one, one + other).pvalue, rel=1e-7)
    expected = stats.fisher_exact([[7100, 2900], [6950, 3050]]).pvalue
    assert unpaired_chance(7100, 10_000, 6950, 10_000) == pytest.approx(expected, rel=1e-6)


def test_many_classes_ask_for_rarer_differences():
    assert beyond_chance([0.04]) == [True]
    assert beyond_chance([0.04, 0.9]) == [False, False]
    # Holm: at 5%, three may be at most 1/60, 1/40 and 1/20; the first that is not ends it.
    assert beyond_chance([0.049, 0.016, 0.024]) == [True, True, True]
    assert beyond_chance([0.001, 0.03, 0.04]) == [True, False, False]
    assert beyond_chance([0.001, 0.009], level=0.01) == [True, True]
    assert beyond_chance([]) == []
