"""The learning rate within an epoch, as it is logged: few points from which every step's rate can be read."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netpress.training.schedules import Constant, Cosine, Step, outline, rate_at

EPOCHS, STEPS = 3, 57
SCHEDULES = [
    Cosine(warmup=0.4, minimum=0.001),
    Step(milestones=(0.5,)),
    Constant(),
    Cosine(per="epoch"),
    Constant(warmup=1),
]


@pytest.mark.parametrize(
    "schedule", SCHEDULES, ids=lambda schedule: f"{schedule.kind}-{schedule.per}-{schedule.warmup:g}"
)
@pytest.mark.parametrize("epoch", range(EPOCHS))
def test_lines_between_the_points_give_every_rate(schedule, epoch):
    rates = [rate_at(0.1, schedule, epoch, step, EPOCHS, STEPS) for step in range(STEPS)]
    points = outline(rates)
    places, values = zip(*points, strict=True)
    read = np.interp(np.arange(STEPS) / STEPS, places, values)
    assert np.abs(read - rates).max() <= 0.0101 * max(rates)
    assert len(points) <= 10  # of 57
    assert max(values) == max(rates) and values[0] == rates[0] and values[-1] == rates[-1]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0, 1), max_size=24))
def test_whatever_the_rates_are(rates):
    points = outline(rates)
    if not rates:
        assert points == []
        return
    places, values = zip(*points, strict=True)
    read = np.interp(np.round(np.arange(len(rates)) / len(rates), 6), places, values)
    assert np.abs(read - rates).max() <= 0.0101 * max(rates) + 1e-9
    assert list(places) == sorted(set(places)) and places[0] >= 0 and places[-1] < 1
