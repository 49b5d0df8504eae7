"""Network.edit: one call changes module, masks and formats, on values and on shapes, whatever kind the edit is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from netpress.compression.fold import FoldSettings, fold
from netpress.compression.masks import apply_masks, densities
from netpress.compression.prune import prune_once
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset
from netpress.errors import Failure
from netpress.models.registry import parse_model
from netpress.network import Network, build, copy, create, load, save
from netpress.network.edits import EDITS, Edit, replace_module, replay
from netpress.network.edits.folding import FoldNorms
from netpress.network.edits.quantizing import Quantize
from netpress.numerics.formats import Ternary
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import score
from netpress.settings import parse
from netpress.stage import Context
from netpress.tracing.foldable import find_foldable_norms
from netpress.training import TrainSettings, run_training

SETTINGS = {"widths": "tiny", "width_factor": 0.5, "classes": 4, "image_size": 8}
CLASSES = ("a", "b", "c", "d")
STEM, DEPTHWISE = "stem.conv", "blocks.1.depthwise.conv"


class SplitInThree(Edit):
    """Replace a convolution by three: to `rank` channels, the kernel on them, and back."""

    kind: Literal["split in a test"] = "split in a test"
    layer: str
    rank: int

    def apply(self, module: nn.Module) -> None:
        conv = module.get_submodule(self.layer)
        if type(conv) is not nn.Conv2d:
            raise TypeError(f"{self.layer} is no convolution")
        device = conv.weight.device
        groups = self.rank if conv.groups > 1 else 1
        kernel = nn.Conv2d(
            self.rank, self.rank, conv.kernel_size, conv.stride, conv.padding, groups=groups, bias=False, device=device
        )
        first = nn.Conv2d(conv.in_channels, self.rank, 1, bias=False, device=device)
        last = nn.Conv2d(self.rank, conv.out_channels, 1, bias=False, device=device)
        replace_module(module, self.layer, nn.Sequential(first, kernel, last))


class MoveInto(Edit):
    """Put a layer into a Sequential: its parameters stay, under other names."""

    kind: Literal["move in a test"] = "move in a test"
    layer: str

    def apply(self, module: nn.Module) -> None:
        replace_module(module, self.layer, nn.Sequential(module.get_submodule(self.layer)))


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The two kinds of edit above, known while a test runs."""
    monkeypatch.setattr(EDITS, "_entries", dict(EDITS._entries))
    EDITS.add("split in a test", SplitInThree)
    EDITS.add("move in a test", MoveInto)
    yield


@pytest.fixture
def pruned() -> Network:
    return prune_once(create("c_efficientnet", SETTINGS, classes=CLASSES, seed=3), 0.5)[0]


@pytest.fixture
def context(shades: Dataset, tmp_path: Path) -> Context:
    return Context(tmp_path, World(torch.device("cpu")), 1, Console(quiet=True), shades, name="02-stage")


def answers(network: Network) -> Tensor:
    network.module.eval()
    with torch.inference_mode():
        logits: Tensor = network.module(torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8))
    return logits


def saved_and_loaded(network: Network, path: Path) -> Network:
    save(network, path)
    again = load(path)
    assert torch.equal(answers(again), answers(network))
    assert again.architecture == network.architecture and again.formats == network.formats
    assert again.masks.keys() == network.masks.keys()
    return again


@pytest.mark.parametrize("layer", [STEM, DEPTHWISE])
def test_a_layer_replaced_by_three_goes_through_every_stage(
    layer: str, pruned: Network, context: Context, tmp_path: Path
) -> None:
    masks = dict(pruned.masks)
    removed = int((~masks[f"{layer}.weight"]).sum())
    ended = pruned.edit(SplitInThree(layer=layer, rank=4))
    assert ended == {f"{layer}.weight": removed} and removed > 0
    assert pruned.masks.keys() == masks.keys() - {f"{layer}.weight"}
    assert all(pruned.masks[name] is masks[name] for name in pruned.masks)

    network = saved_and_loaded(pruned, tmp_path / "edited.netpress")
    settings = parse(TrainSettings, {"epochs": 2, "batch_size": 16, "augment": {"crop": 0, "flip": False}})
    run_training(network, settings, context.part("train"))
    left = {row.name: row.nonzero for row in densities(network)}
    assert all(left[name] <= int(mask.sum()) for name, mask in network.masks.items())  # as they were before

    network, _ = prune_once(network, 0.7)
    assert {f"{layer}.{place}.weight" for place in (0, 1, 2)} <= network.masks.keys()
    folded = fold(network, FoldSettings(), context)
    assert folded.masks.keys() == network.masks.keys()
    torch.testing.assert_close(answers(folded), answers(network), rtol=1e-3, atol=1e-4)
    assert [f"{layer}.2", f"{layer.removesuffix('.conv')}.norm"] in folded.architecture.edits[1]["pairs"]
    quantized = quantize(folded, parse(QuantizeSettings, {"calibration_images": 16}), context)
    again = saved_and_loaded(quantized, tmp_path / "quantized.netpress")
    assert [edit["kind"] for edit in again.architecture.edits] == ["split in a test", "fold_norms", "quantize"]
    assert f"{layer}.1.input" in again.formats

    card, whole = score(again), score(create("c_efficientnet", SETTINGS))
    assert {f"{layer}.{place}" for place in (0, 1, 2)} <= {row.name for row in card.rows}
    assert 0 < card.score < whole.score


def test_an_edit_does_the_same_to_shapes(pruned: Network) -> None:
    shapes = create("c_efficientnet", SETTINGS, classes=CLASSES, shapes=True)
    shapes.masks = dict(pruned.masks)
    pairs = tuple(find_foldable_norms(pruned.module, pruned.input.size))
    assert pairs == tuple(find_foldable_norms(shapes.module, shapes.input.size))
    for edit in (
        SplitInThree(layer=DEPTHWISE, rank=4),
        FoldNorms(pairs=(pairs[0],)),
        Quantize.of({STEM: LayerFormats(), f"{DEPTHWISE}.2": LayerFormats(weight=Ternary())}),
    ):
        assert pruned.edit(edit) == shapes.edit(edit)
        assert pruned.masks.keys() == shapes.masks.keys() and pruned.formats == shapes.formats
        rebuilt = build(pruned.architecture)
        sizes = {name: tensor.shape for name, tensor in pruned.module.state_dict().items()}
        for other in (shapes.module, rebuilt):
            assert {name: tensor.shape for name, tensor in other.state_dict().items()} == sizes
            assert all(parameter.is_meta for parameter in other.parameters())
    assert shapes.architecture == pruned.architecture


def test_masks_and_formats_follow_their_tensors_to_other_names(pruned: Network, tmp_path: Path) -> None:
    mask = pruned.masks[f"{STEM}.weight"]
    pruned.other_formats = {"*": {"kind": "float16"}, f"{STEM}.weight": {"kind": "float16"}}
    weight = pruned.module.get_submodule(STEM).weight
    weight.data.copy_(weight.detach().half())  # type: ignore[operator, arg-type]
    before = answers(pruned)
    assert pruned.edit(MoveInto(layer=STEM)) == {}
    assert pruned.masks[f"{STEM}.0.weight"] is mask and f"{STEM}.weight" not in pruned.masks
    assert pruned.formats == {"*": {"kind": "float16"}, f"{STEM}.0.weight": {"kind": "float16"}}
    again = saved_and_loaded(pruned, tmp_path / "moved.netpress")
    assert torch.equal(again.masks[f"{STEM}.0.weight"], mask) and torch.equal(answers(again), before)

    pruned.edit(SplitInThree(layer=f"{STEM}.0", rank=2))  # the format ends with its tensor
    assert pruned.formats == {"*": {"kind": "float16"}}


def test_a_quantized_layer_alone_owns_its_formats(pruned: Network) -> None:
    pruned.other_formats = {f"{STEM}.weight": {"kind": "float16"}, "classifier.bias": {"kind": "float16"}}
    pruned.edit(Quantize.of({STEM: LayerFormats(weight=Ternary())}))
    assert pruned.other_formats == {"classifier.bias": {"kind": "float16"}}
    assert pruned.formats[f"{STEM}.weight"] == {"kind": "ternary"}
    quantized_layers(pruned.module)[STEM].set_formats(LayerFormats())
    assert pruned.formats[f"{STEM}.weight"]["kind"] == "int"


def test_an_edit_that_does_not_fit_changes_nothing(pruned: Network) -> None:
    before = copy(pruned)
    for edit, error in [
        (SplitInThree(layer="classifier", rank=2), TypeError),
        (FoldNorms(pairs=(("stem.conv", "stem.norm"), ("stem.norm", "stem.conv"))), ValueError),
        (Quantize.of({STEM: LayerFormats(), "stem.norm": LayerFormats()}), TypeError),
    ]:
        with pytest.raises(error):
            pruned.edit(edit)
        assert pruned.architecture.edits == []
        assert torch.equal(answers(pruned), answers(before)) and str(pruned.module) == str(before.module)
        assert pruned.masks.keys() == before.masks.keys()
        with pytest.raises(Failure, match="does not fit this network"):
            replay(copy(pruned).module, [edit.model_dump(mode="json")])


def test_a_mask_that_belongs_to_no_parameter_is_told(pruned: Network, tmp_path: Path) -> None:
    orphaned = copy(pruned)
    SplitInThree(layer=STEM, rank=2).apply(orphaned.module)  # past Network.edit
    orphaned.architecture.edits.append(SplitInThree(layer=STEM, rank=2).model_dump(mode="json"))
    told = r"there is a mask for stem\.conv\.weight, but the network has no such parameter"
    with pytest.raises(Failure, match=rf"orphan\.netpress: this network cannot be saved: {told}"):
        save(orphaned, tmp_path / "orphan.netpress")
    with pytest.raises(Failure, match=told):
        orphaned.edit(MoveInto(layer="classifier"))
    with pytest.raises(Failure, match="masks for parameters that it does not have"):
        apply_masks(orphaned)
    pruned.masks[f"{STEM}.weight"] = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(Failure, match=r"the mask for stem\.conv\.weight is of shape \(2, 2\)"):
        save(pruned, tmp_path / "orphan.netpress")
    assert not (tmp_path / "orphan.netpress").exists()


def test_edits_are_written_as_ever() -> None:
    formats = {"a": LayerFormats(), "b": LayerFormats(weight=Ternary()), "c": LayerFormats()}
    assert FoldNorms(pairs=(("a", "b"),)).model_dump(mode="json") == {"kind": "fold_norms", "pairs": [["a", "b"]]}
    groups = [
        {"layers": ["a", "c"], "formats": formats["a"].model_dump(mode="json")},
        {"layers": ["b"], "formats": formats["b"].model_dump(mode="json")},
    ]
    edit = Quantize.of(formats).model_dump(mode="json")
    assert edit == {"kind": "quantize", "groups": groups} and list(edit) == ["kind", "groups"]


def test_an_unknown_or_unfitting_edit_is_a_failure() -> None:
    module = parse_model("c_efficientnet:tiny").build()
    with pytest.raises(Failure, match=r"'fold_everything' is unknown.*fold_norms"):
        replay(module, [{"kind": "fold_everything"}])
    with pytest.raises(Failure, match="fold_norms does not fit"):
        replay(module, [{"kind": "fold_norms", "pairs": [["stem.conv", "no.such.norm"]]}])
    with pytest.raises(Failure, match="fold_norms does not fit"):
        replay(module, [{"kind": "fold_norms", "pairs": [["stem.norm", "stem.conv"]]}])


def test_an_edit_of_ones_own() -> None:
    class Append(Edit):
        kind: Literal["append in a test"] = "append in a test"
        outputs: int

        def apply(self, module: nn.Module) -> None:
            assert isinstance(module, nn.Sequential)
            module.append(nn.Linear(2, self.outputs))

    EDITS.add("append in a test", Append)
    with pytest.raises(ValueError, match="registered twice"):
        EDITS.add("append in a test", Append)
    module = nn.Sequential(nn.Linear(3, 2))
    replay(module, [Append(outputs=5).model_dump(mode="json")])
    assert module(torch.zeros(1, 3)).shape == (1, 5)
