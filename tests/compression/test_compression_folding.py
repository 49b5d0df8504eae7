"""The fold stage: the same answers, masks kept, an edit that rebuilds."""

from pathlib import Path

import pytest
import torch
from torch import nn

from netpress.compression.fold import FoldSettings, fold, plan
from netpress.compression.masks import densities
from netpress.compression.prune import prune_once
from netpress.errors import Failure, UserError
from netpress.network import Network, create, load, save
from netpress.network.edits.folding import FoldNorms
from netpress.process.console import Console
from netpress.process.world import World
from netpress.stage import Context, Outlook
from netpress.tracing.foldable import find_foldable_norms


@pytest.fixture
def network() -> Network:
    """A small network whose norms have statistics, as if it had been trained."""
    network = create("c_efficientnet", {"widths": "tiny", "classes": 4, "image_size": 16}, seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in network.module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5, generator=generator)
                layer.bias.normal_(0, 0.1, generator=generator)
                layer.running_mean.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
    return network


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, World(torch.device("cpu")), 1, Console(quiet=True), name="03-fold")


def test_folding_keeps_answers_masks_and_zeros(network: Network, context: Context, tmp_path: Path) -> None:
    pruned, _ = prune_once(network, 0.6)
    norms = len(plan(Outlook(pruned), FoldSettings()).rows)
    assert norms == sum(isinstance(layer, nn.BatchNorm2d) for layer in pruned.module.modules()) > 0
    folded = fold(pruned, FoldSettings(), context)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.module.modules())
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in pruned.module.modules())  # the given one is left alone
    assert densities(folded) == densities(pruned)
    assert folded.masks.keys() == pruned.masks.keys() <= folded.weights().keys()
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(folded.module.eval()(images), pruned.module.eval()(images), rtol=1e-3, atol=1e-4)
    assert context.logged()[0]["folded"] == norms

    save(folded, tmp_path / "folded.netpress")
    loaded = load(tmp_path / "folded.netpress")
    assert torch.equal(loaded.module.eval()(images), folded.module(images))
    with pytest.raises(UserError, match="nothing to fold"):
        fold(loaded, FoldSettings(), context)


def test_a_fold_that_changes_answers_is_refused(
    network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FoldNorms.apply

    def careless(edit: FoldNorms, module: nn.Module) -> None:
        real(edit, module)
        with torch.no_grad():
            module.get_submodule("stem.conv").bias.add_(0.5)  # type: ignore[union-attr, operator]

    monkeypatch.setattr(FoldNorms, "apply", careless)
    with pytest.raises(Failure, match=r"03-fold: after folding, logits differ by .* tolerance of 0\.0001"):
        fold(network, FoldSettings(), context)


def test_folding_comes_before_number_formats(network: Network, context: Context) -> None:
    conv, norm = find_foldable_norms(network.module, network.input.size)[0]
    for name in (f"{conv}.weight", f"{norm}.bias", norm):
        network.other_formats = {name: {"kind": "float16"}}
        with pytest.raises(UserError, match="fold before the stage that gives formats"):
            fold(network, FoldSettings(), context)
    network.other_formats = {"classifier.weight": {"kind": "float16"}}
    assert fold(network, FoldSettings(), context).formats == network.formats
