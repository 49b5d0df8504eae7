"""The curvature against brute force: one image at a time, torch's own gradients of the weights, in float64."""

from collections.abc import Sequence

import pytest
import torch
from small_networks import CLASSES, head, images, known_labels, measure, network_of, randomize, zoo
from torch import Tensor, nn
from torch.nn import functional

from netpress.compression.factorization import curvature as curvature_module
from netpress.compression.factorization.curvature import Curvature, layers_of, measure_curvature
from netpress.data import Images, normalize
from netpress.errors import Failure
from netpress.network import Network, copy

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch tells once that it copies

COUNT = 7  # images: no batch size below divides it but 1 and 7


class Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mT


class MeanOfTokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Windows(nn.Module):
    """A layer that sees each image in four windows, one after the other in the batch."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        windows = x.view(batch, channels, 2, height // 2, 2, width // 2).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        if isinstance(self.layer, nn.Linear):
            y = self.layer(windows.flatten(2).mT)  # [batch * 4, tokens, features]
            return y.reshape(batch, -1, y.shape[-1]).mean(1)
        y = self.layer(windows).square()
        return y.reshape(batch, 4, *y.shape[1:]).mean((1, 3, 4))


NETWORKS: dict[str, tuple[Sequence[nn.Module], str]] = {
    "3x3, stride 2": ([nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU(), *head(5)], "0"),
    "1x1": ([nn.Conv2d(3, 6, 3), nn.GELU(), nn.Conv2d(6, 5, 1), nn.GELU(), *head(5)], "2"),
    "1x1, stride 2, padding": ([nn.Conv2d(3, 5, 1, stride=2, padding=1), nn.GELU(), *head(5)], "0"),
    "between grouped layers": (
        [
            nn.Conv2d(3, 6, 3, groups=3),
            nn.Hardswish(),
            nn.Conv2d(6, 4, 3, padding=1),
            nn.Conv2d(4, 8, 3, groups=4),
            *head(8),
        ],
        "2",
    ),
    "ReLU in place": ([nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 6, 2), nn.ReLU(True), *head(6)], "0"),
    "reflect": ([nn.Conv2d(3, 5, 3, padding=2, padding_mode="reflect"), nn.GELU(), *head(5)], "0"),
    "circular, stride 2": (
        [nn.Conv2d(3, 5, 3, stride=2, padding=1, padding_mode="circular"), nn.GELU(), *head(5)],
        "0",
    ),
    "same, even": ([nn.Conv2d(3, 5, (2, 4), padding="same"), nn.GELU(), *head(5)], "0"),
    "dilation": ([nn.Conv2d(3, 5, 3, padding=1, dilation=2), nn.GELU(), *head(5)], "0"),
    "pixels left over": ([nn.Conv2d(3, 5, 2, stride=3), nn.GELU(), *head(5)], "0"),
    "linear": ([nn.Flatten(), nn.Linear(192, 9), nn.ReLU(inplace=True), nn.Linear(9, CLASSES)], "1"),
    "last": ([nn.Conv2d(3, 5, 3), nn.ReLU(), *head(5)], "4"),
    "windows, linear": ([Windows(nn.Linear(3, 6)), nn.GELU(), nn.Linear(6, CLASSES)], "0.layer"),
    "windows, 3x3": ([Windows(nn.Conv2d(3, 6, 3, padding=1)), nn.GELU(), nn.Linear(6, CLASSES)], "0.layer"),
    "tokens": ([Tokens(), nn.Linear(3, 6), nn.GELU(), MeanOfTokens(), nn.Linear(6, CLASSES)], "1"),
}


def network(name: str) -> tuple[Network, str]:
    parts, layer = NETWORKS[name]
    return network_of(*parts, size=8, seed=4), layer


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """What each weight of the layer is multiplied with: [batch, positions, columns, places]."""
    if isinstance(layer, nn.Linear):
        return x.flatten(1, -2)[..., None] if x.dim() > 2 else x[:, None, :, None]
    assert isinstance(layer, nn.Conv2d)
    height, width = layer.kernel_size
    settings = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    places = x.shape[1] * height * width
    picking = nn.Conv2d(x.shape[1], places, layer.kernel_size, bias=False, dtype=x.dtype, **settings)
    picking.weight.data = torch.eye(places, dtype=x.dtype).view(places, x.shape[1], height, width)
    return picking(x).detach().flatten(2).mT.unflatten(2, (x.shape[1], height * width))


def brute_force(network: Network, name: str, given: Images, labels: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """A, G and every image's own gradient of the weights."""
    network = copy(network)
    module = network.module.double().eval()
    for part in module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda layer, inputs, output: seen.extend((inputs[0].detach(), output)))
    inputs, outputs, gradients = [], [], []
    for pixels, label in zip(given.images, labels, strict=True):
        seen.clear()
        x = normalize(pixels[None], network.input.mean, network.input.std).double()
        loss = functional.cross_entropy(module(x), label[None])
        g, gradient = torch.autograd.grad(loss, [seen[1], layer.weight])
        a = patches(layer, seen[0]).movedim(2, 0).flatten(1)  # [columns, positions * places]
        g = (g.movedim(1, -1) if g.dim() == 4 else g).reshape(-1, g.shape[1 if g.dim() == 4 else -1])
        inputs.append(a @ a.T)
        outputs.append(g.T @ g / len(g))
        gradients.append(gradient)
    return torch.stack(inputs).mean(0), torch.stack(outputs).mean(0), gradients


def measured(network: Network, name: str, given: Images, batch_size: int, labels: Tensor) -> Curvature:
    with known_labels(labels):
        return measure_curvature(network, layers_of(network, [name]), given, 1, batch_size=batch_size)[name]


def close(one: Tensor, other: Tensor, share: float = 1e-5) -> None:
    torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=share * float(other.abs().max()))


@pytest.mark.parametrize("case", NETWORKS)
def test_factors_and_diagonal_are_those_of_brute_force(case: str) -> None:
    whole, name = network(case)
    given = images(COUNT, 8)
    labels = torch.tensor([0, 3, 1, 2, 2, 0, 3])
    found = measured(whole, name, given, 3, labels)  # batches of 3, 3 and 1
    inputs, outputs, gradients = brute_force(whole, name, given, labels)
    close(found.inputs, inputs)
    close(found.outputs, outputs)
    for matrix, basis in ((inputs, found.input_basis), (outputs, found.output_basis)):
        turned = basis.T @ matrix @ basis
        close(turned, turned.diagonal().diag())
        close(basis.T @ basis, torch.eye(len(basis)))
    turned = torch.stack([_turn(gradient, found) for gradient in gradients])
    assert found.diagonal.shape == gradients[0].shape
    close(found.diagonal, turned.square().mean(0))

    weight = whole.module.get_submodule(name).weight.detach().double()  # type: ignore[operator, union-attr]
    squares = found.diagonal.double() * _turn(weight, found) ** 2
    close(found.importance(weight), squares.reshape(*weight.shape[:2], -1).sum(2))


def _turn(weight: Tensor, found: Curvature) -> Tensor:
    """Q_G^T W Q_A, a place at a time."""
    flat = weight.reshape(*weight.shape[:2], -1)
    places = [found.output_basis.T @ flat[:, :, place] @ found.input_basis for place in range(flat.shape[2])]
    return torch.stack(places, 2).view(weight.shape)


@pytest.mark.parametrize("case", ["3x3, stride 2", "linear", "tokens", "windows, 3x3"])
def test_batches_and_chunks_change_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bases are those of the first: that of an eigenvalue twice there would be another with each rounding."""
    whole, name = network(case)
    given = images(COUNT, 8)
    labels = torch.tensor([0, 3, 1, 2, 2, 0, 3])
    first = measured(whole, name, given, COUNT, labels)
    for batch_size, most in ((1, 2**25), (2, 2**25), (5, 1), (64, 2**25), (4, 200)):
        monkeypatch.setattr(curvature_module, "MOST_VALUES", most)
        other = measured(whole, name, given, batch_size, labels)
        close(other.inputs, first.inputs)
        close(other.outputs, first.outputs)
        weight = whole.module.get_submodule(name).weight.detach()  # type: ignore[operator, union-attr]
        total = (first.diagonal.sum(), other.diagonal.sum())  # the squared length of gradients, in any basis
        assert float(total[0]) == pytest.approx(float(total[1]), rel=1e-5)
        signs = (first.input_basis.T @ other.input_basis).abs().diagonal()
        if bool((signs > 0.999).all()):
            close(other.importance(weight), first.importance(weight), 1e-2)


def test_labels_are_drawn_from_what_the_network_says() -> None:
    """2,000 times the same image: the mean over drawn labels is that over the network's probabilities."""
    whole, name = network("3x3, stride 2")
    one = images(1, 8)
    many = Images(
        one.images.expand(2000, -1, -1, -1), torch.zeros(2000, dtype=torch.long)
    )  # its label is not asked for
    found = measure_curvature(whole, layers_of(whole, [name]), many, 5, batch_size=512)[name]
    pixels = normalize(one.images, whole.input.mean, whole.input.std)
    probabilities = whole.module(pixels).detach().softmax(1)[0].double()
    assert float(probabilities.min()) > 0.01 and float(probabilities.max()) < 0.9
    expected = torch.zeros_like(found.diagonal, dtype=torch.float64)
    outputs = torch.zeros_like(found.outputs)
    for label, share in enumerate(probabilities):
        _, g, gradients = brute_force(whole, name, one, torch.tensor([label]))
        expected += share * _turn(gradients[0], found) ** 2
        outputs += share * g
    close(found.diagonal, expected, 0.1)  # 2,000 draws: within some 4%
    close(found.outputs, outputs, 0.1)


def test_a_seed_gives_the_same_labels_again() -> None:
    whole, name = network("3x3, stride 2")
    layers, given = layers_of(whole, [name]), images(COUNT, 8)
    first, again, other = (measure_curvature(whole, layers, given, seed)[name] for seed in (1, 1, 2))
    assert torch.equal(first.diagonal, again.diagonal) and torch.equal(first.outputs, again.outputs)
    assert not torch.equal(first.outputs, other.outputs)
    assert torch.equal(first.inputs, other.inputs)  # these know no labels


def test_measuring_leaves_no_trace() -> None:
    """Modes, gradients, hooks, running statistics and the global generator stay; frozen weights are measured too."""
    whole, name = network("3x3, stride 2")
    whole.module.train()
    for parameter in whole.module.parameters():
        parameter.requires_grad_(False)
    before = {key: value.clone() for key, value in whole.module.state_dict().items()}
    state = torch.get_rng_state()
    labels = torch.arange(COUNT) % CLASSES
    frozen = measured(whole, name, images(COUNT, 8), 3, labels)
    assert whole.module.training and not any(parameter.requires_grad for parameter in whole.module.parameters())
    assert all(parameter.grad is None for parameter in whole.module.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in whole.module.state_dict().items())
    assert not any(part._forward_hooks for part in whole.module.modules())
    for parameter in whole.module.parameters():
        parameter.requires_grad_(True)
    assert torch.equal(measured(whole, name, images(COUNT, 8), 3, labels).diagonal, frozen.diagonal)


def test_all_layers_at_once_are_as_each_alone() -> None:
    whole = zoo("densenet:nano", blocks=[1, 1], growth=4, image_size=8, classes=CLASSES)
    together = measure(whole, 5)
    given, labels = images(5, 8), torch.tensor([1, 0, 3, 2, 2])
    names = [ranking.candidate.name for ranking in together.rankings]
    assert len(names) > 5
    with known_labels(labels):
        every = measure_curvature(whole, layers_of(whole, names), given, 1, batch_size=2)
    for name in names:
        alone = measured(whole, name, given, 2, labels)
        assert torch.equal(every[name].diagonal, alone.diagonal)
        assert torch.equal(every[name].inputs, alone.inputs)


@pytest.mark.parametrize("case", ["1x1", "linear"])
def test_within_a_frame_gradients_are_those_of_what_it_turns(case: str) -> None:
    """The layer's weights are F w: the gradient of w is F^T times theirs, and so for outputs."""
    whole, name = network(case)
    given, labels = images(COUNT, 8), torch.tensor([0, 3, 1, 2, 2, 0, 3])
    layer = whole.module.get_submodule(name)
    rows = layer.weight.shape[0]  # type: ignore[union-attr, index]
    frame = torch.linalg.qr(torch.randn(rows, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    with known_labels(labels):
        layers = layers_of(whole, [name])
        found = measure_curvature(whole, layers, given, 1, frames={name: frame}, batch_size=3)[name]
    inputs, outputs, gradients = brute_force(whole, name, given, labels)
    close(found.inputs, inputs)
    close(found.outputs, frame.T @ outputs @ frame)
    turned = torch.stack([_turn(torch.einsum("or,o...->r...", frame, gradient), found) for gradient in gradients])
    close(found.diagonal, turned.square().mean(0))


class Pairs(nn.Module):
    """A layer that sees two images at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(384, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.cat([x, x.flip(0)], 1).flatten(1)[:-1])
        return torch.cat([y, y[-1:]])


def test_inputs_that_belong_to_no_image_are_told() -> None:
    whole = network_of(Pairs(), nn.Linear(5, CLASSES), size=8)
    with pytest.raises(Failure, match=r"0\.layer: 2 inputs for 3 images: whose they are cannot be told"):
        measured(whole, "0.layer", images(COUNT, 8), 3, torch.tensor([0]))


def test_values_that_are_not_finite_are_told_with_the_layers_name() -> None:
    whole, name = network("3x3, stride 2")
    randomize(whole.module, 1)
    layer = whole.module.get_submodule("5")
    layer.weight.data.mul_(1e30)  # type: ignore[union-attr, operator]
    with pytest.raises(Failure, match="0: its inputs or gradients are not finite"):
        measured(whole, name, images(COUNT, 8), 4, torch.tensor([0]))
