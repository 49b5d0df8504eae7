"""Which class is first where logits tie: the same for every figure that ranks answers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from netpress.data import Images, Mixed
from netpress.evaluation import best_class, evaluate, evaluate_exactly, rank_classes
from netpress.network import Architecture, InputSpec, Network
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import quantized_like
from netpress.training.step import count_right

CLASSES = 7


def by_hand(row: list[float], places: int) -> list[int]:
    """Python's sort: by value downward, and of equal ones the first."""
    return sorted(range(len(row)), key=lambda index: (-row[index], index))[:places]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [1, 2, 5, 10, 17, 100, 1000])
def test_by_value_and_then_the_lowest_index(dtype: torch.dtype, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randint(-1, 2, (40, classes), generator=generator).to(dtype)  # hardly a row without ties
    logits = torch.where(torch.rand(logits.shape, generator=generator) < 0.5, -logits, logits)  # zeros of both signs
    for places in (1, 5, classes):
        expected = [by_hand(row, places) for row in logits.tolist()]
        assert rank_classes(logits, places).tolist() == expected
    assert best_class(logits).tolist() == [row[0] for row in expected]


def test_what_is_no_number_is_first_everywhere() -> None:
    logits = torch.tensor([[1.0, float("nan"), 2.0], [float("inf"), 0.0, float("inf")]])
    assert best_class(logits).tolist() == rank_classes(logits, 1)[:, 0].tolist() == [1, 0]


class Table(nn.Module):
    """Logits of a table, one row a grey value of the image, through a linear layer with whole weights."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.classifier = nn.Linear(len(rows), rows.shape[1], bias=False)
        self.classifier.weight.data = rows.t().clone()

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(self.classifier.in_features)
        return self.classifier((x.mean((1, 2, 3))[:, None].round() == places).to(x.dtype))


# Ties for first place, for the fifth, everywhere, and none.
ROWS = [
    [0, 2, 1, 2, 0, 0, 0],
    [3, 2, 1, 1, 1, 1, 0],
    [1, 1, 1, 1, 1, 1, 1],
    [0, 1, 2, 3, 4, 5, 6],
]


@pytest.fixture
def tied() -> tuple[Network, Images, float, float]:
    """A network whose logits tie, all classes for every grey value, and what is right of them by hand."""
    spec = InputSpec(1, 2, 2, (0.0,), (1 / 255,))
    module = Table(torch.tensor(ROWS).float()).eval()
    network = Network(module, Architecture("import", {}), spec, tuple(map(str, range(CLASSES))))
    greys, labels = torch.arange(len(ROWS)).repeat_interleave(CLASSES), torch.arange(CLASSES).repeat(len(ROWS))
    images = Images(greys.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), labels)
    return network, images, 1 / CLASSES, 5 / CLASSES


@pytest.mark.parametrize("batch_size", [1, 5, 28])
def test_evaluations_rank_alike(tied: tuple[Network, Images, float, float], batch_size: int) -> None:
    network, images, first, five = tied
    for labels in (images.labels, torch.tensor([by_hand(row, 7)[0] for row in ROWS]).repeat_interleave(CLASSES)):
        seen = Images(images.images, labels)
        expected = evaluate(network, seen, batch_size)
        if labels is images.labels:
            assert (expected.accuracy, expected.top5) == pytest.approx((first, five))
        else:
            assert (expected.accuracy, expected.top5) == (1, 1)
    quantized = Network(Table(torch.tensor(ROWS).float()), network.architecture, network.input, network.classes)
    quantized.module.classifier = quantized_like(quantized.module.classifier, LayerFormats())  # type: ignore[arg-type]
    quantized.module.eval()
    found = evaluate_exactly(quantized, seen, batch_size)
    assert (found.accuracy, found.simulated_accuracy, found.top5, found.equal_answers) == (1, 1, 1, 1)


def test_a_trainings_own_count_ranks_alike() -> None:
    logits = torch.tensor(ROWS).float()
    labels = torch.tensor([1, 0, 0, 6])
    assert int(count_right(logits, Mixed(labels, labels, 1.0))) == 4
    others = torch.tensor([3, 0, 6, 6])
    assert float(count_right(logits, Mixed(labels, others, 0.75))) == pytest.approx(3 + 0.25 * 2)


@pytest.mark.slow
def test_the_check_of_an_export_ranks_alike(tied: tuple[Network, Images, float, float], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from netpress.export.onnx import check_onnx, export_onnx

    network, images, first, _ = tied
    export_onnx(network, tmp_path / "tied.onnx")
    check = check_onnx(network, tmp_path / "tied.onnx", images)
    assert (check.accuracy, check.onnx_accuracy, check.agreement) == (pytest.approx(first), pytest.approx(first), 1)
