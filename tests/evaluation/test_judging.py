"""How far an accuracy can be trusted, how far probabilities, and what is taken for what: by hand and by others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.data import Images
from netpress.errors import UserError
from netpress.evaluation import (
    Evaluation,
    accuracy_interval,
    calibrate,
    confusion_matrix,
    evaluate,
    evaluate_exactly,
    most_confused,
    predict,
    surest_mistakes,
)
from netpress.evaluation.ranking import check_scale
from netpress.network import Network, create, resolve


def told(
    predicted: list[int], labels: list[int], probabilities: list[float], names: tuple[str, ...] = ()
) -> Evaluation:
    columns = torch.tensor(predicted), torch.tensor(labels), torch.tensor(probabilities, dtype=torch.float64)
    return Evaluation(0.0, None, 0.0, len(labels), *columns, names=names)


answers = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 3), st.one_of(st.floats(0, 1), st.integers(0, 15).map(lambda n: n / 15))
    ),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (0, 10), (10, 10), (7, 10), (8010, 10_000), (1, 300)])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_the_interval_is_wilsons(right, images, confidence):
    stats = pytest.importorskip("scipy.stats")
    other = stats.binomtest(right, images).proportion_ci(confidence, method="wilson")
    assert accuracy_interval(right, images, confidence) == pytest.approx((other.low, other.high), abs=1e-12)


def test_the_interval_holds_the_true_share_as_often_as_it_says():
    """Over all outcomes of 50 images, by their probabilities; few images make it a little more or less than 95%."""
    stats = pytest.importorskip("scipy.stats")
    held = []
    for true in np.linspace(0.02, 0.98, 49):
        chances = stats.binom.pmf(range(51), 50, true)
        ends = [accuracy_interval(right, 50) for right in range(51)]
        held.append(sum(chance for chance, (low, high) in zip(chances, ends, strict=True) if low <= true <= high))
    assert np.mean(held) == pytest.approx(0.95, abs=0.01) and min(held) > 0.88
    assert accuracy_interval(0, 0) == (0, 1)


@given(answers)
@settings(deadline=None)
def test_calibration_by_brute_force(rows):
    predicted, labels, sure = map(list, zip(*rows, strict=True))
    found = calibrate(told(predicted, labels, sure))
    error, seen = 0.0, 0
    for index, bin in enumerate(found.bins):
        low, high = index / 15, (index + 1) / 15
        inside = [row for row in rows if low < row[2] <= high or (index == 0 and row[2] == 0)]
        assert bin.images == len(inside) and (bin.above, bin.up_to) == (low, high)
        seen += len(inside)
        if not inside:
            assert bin.accuracy is bin.probability is None
            continue
        accuracy, mean = (np.mean(values) for values in ([a == b for a, b, _ in inside], [c for *_, c in inside]))
        assert (bin.accuracy, bin.probability) == pytest.approx((accuracy, mean))
        error += len(inside) / len(rows) * abs(accuracy - mean)
    assert seen == len(rows)
    assert found.error == pytest.approx(error, abs=1e-12)


@given(answers)
@settings(deadline=None)
def test_confusion_and_mistakes_by_brute_force(rows):
    predicted, labels, sure = map(list, zip(*rows, strict=True))
    measured = told(predicted, labels, sure, tuple(f"{index}.png" for index in range(len(rows))))
    matrix = confusion_matrix(measured, 4)
    counts = {(true, said): sum(row[:2] == (said, true) for row in rows) for true in range(4) for said in range(4)}
    assert {place: int(matrix[place]) for place in counts} == counts
    wrong = {place: count for place, count in counts.items() if place[0] != place[1] and count}
    pairs = most_confused(matrix, 3)
    assert [pair.images for pair in pairs] == sorted(wrong.values(), reverse=True)[:3]
    assert all(wrong[pair.label, pair.predicted] == pair.images for pair in pairs)
    assert all(pair.of == labels.count(pair.label) for pair in pairs)
    assert len({(pair.label, pair.predicted) for pair in pairs}) == len(pairs)
    mistakes = surest_mistakes(measured, 5)
    by_hand = sorted((index for index, (said, true, _) in enumerate(rows) if said != true), key=lambda i: (-sure[i], i))
    assert [mistake.image for mistake in mistakes] == [f"{index}.png" for index in by_hand[:5]]
    for mistake, index in zip(mistakes, by_hand, strict=False):
        assert (mistake.predicted, mistake.label, mistake.probability) == rows[index]


def test_mistakes_among_images_that_are_no_files_have_numbers():
    assert [row.image for row in surest_mistakes(told([1, 0, 0], [0, 0, 1], [0.4, 0.9, 0.6]), 9)] == [2, 0]


def pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def random_network() -> Network:
    return create("resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 4}, seed=1)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_probabilities_are_the_softmax_of_scaled_logits(scale):
    network, images = random_network(), Images(pixels(70), torch.arange(70) % 4)
    measured = evaluate(network, images, batch_size=32, scale=scale)
    shares = (predict(network, images, batch_size=32).double() * scale).exp()
    wanted = (shares / shares.sum(1, keepdim=True)).max(1).values
    assert torch.allclose(measured.probabilities, wanted)
    assert measured.loss == evaluate(network, images, batch_size=32).loss
    with pytest.raises(UserError, match="--scale"):
        check_scale(-scale)


def test_exact_probabilities_are_those_of_the_integers():
    shipped = Path(__file__).parents[2] / "networks" / "kaist-int" / "network.netpress"
    network = resolve(str(shipped))
    images = Images(torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(2)).to(torch.uint8),
                    torch.tensor([0, 1, 2]), ("a", "b", "c"))  # fmt: skip
    exact, plain = evaluate_exactly(network, images, scale=0.2), evaluate(network, images, scale=0.2)
    assert exact.names == plain.names == ("a", "b", "c")
    assert torch.allclose(exact.probabilities, plain.probabilities, atol=0.02)
    assert not {"probabilities", "names"} & exact.as_json().keys()


def test_drawn_images_keep_their_own_names():
    images = Images(pixels(4), torch.arange(4), ("a", "b", "c", "d"))
    assert images.take(torch.tensor([2, 0])).names == ("c", "a")
    assert Images(pixels(4), torch.arange(4)).take(torch.tensor([2, 0])).names == ()
    assert images.to("cpu").names == images.names
